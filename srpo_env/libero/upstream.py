"""Imports robosuite and LIBERO's environments without a log file and without warnings."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

from srpo_env.libero.pro_objects import add_objects
from srpo_env.system.notices import warn_once

logger = logging.getLogger(__name__)

MACROS = "robosuite.macros"
"""Module with robosuite's settings."""


@functools.cache
def import_upstream() -> None:
    """Imports ``robosuite`` and ``libero.libero.envs``; later imports need no preparation.

    The objects of LIBERO-PRO are added to LIBERO's.

    Call `srpo_env.libero.assets.prepare_libero` and `srpo_env.libero.gl.choose_gl` before. Warnings
    are suppressed, because ``python -W error`` makes errors of them: robosuite 1.4.0 calls
    deprecated functions, and warns about an optional settings file.
    """
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    robosuite = importlib.util.find_spec("robosuite")
    if robosuite is not None and "robosuite" not in sys.modules:
        _turn_off_log_file(robosuite)
        _continue_without_numbas_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("libero.libero.envs")
        registry = importlib.import_module("libero.libero.envs.base_object")
        add_objects(registry.OBJECTS_DICT, registry.VISUAL_CHANGE_OBJECTS_DICT)
        imported = importlib.import_module("robosuite")
    imported.macros = sys.modules[MACROS]  # type: ignore[attr-defined]


def _turn_off_log_file(robosuite: ModuleSpec) -> None:
    """Loads robosuite's settings before robosuite does, and changes one of them.

    It logs to ``/tmp/robosuite.log``, which all users of the machine share: whoever comes second
    may not write it, and the import would fail.
    """
    folder = next(iter(robosuite.submodule_search_locations or ()))
    spec = importlib.util.spec_from_file_location(MACROS, f"{folder}/macros.py")
    assert spec is not None
    assert spec.loader is not None
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None  # type: ignore[attr-defined]
    sys.modules[MACROS] = macros


def _continue_without_numbas_cache() -> None:
    """Lets functions that numba has compiled be used where they cannot be written to its cache.

    robosuite asks for the cache. On a full disk, numba would raise the error of writing.
    """
    from numba.core.caching import Cache

    save: Callable[..., None] = Cache.save_overload

    def save_or_warn(cache: Any, *args: Any) -> None:
        try:
            save(cache, *args)
        except OSError as error:
            warn_once(
                logger,
                f"numba cannot write to its cache ({error.strerror}), so each process compiles "
                "robosuite's functions again. Free some space, or set NUMBA_CACHE_DIR to another "
                "folder.",
            )

    Cache.save_overload = save_or_warn  # type: ignore[method-assign]
