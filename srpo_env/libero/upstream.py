"""Imports robosuite and LIBERO's environments without a log file and without warnings."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import warnings
from importlib.machinery import ModuleSpec

MACROS = "robosuite.macros"
"""Module with robosuite's settings."""


@functools.cache
def import_upstream() -> None:
    """Imports ``robosuite`` and ``libero.libero.envs``; later imports need no preparation.

    Call `srpo_env.libero.assets.prepare_libero` and `srpo_env.libero.gl.choose_gl` before. Warnings
    are suppressed, because ``python -W error`` makes errors of them: robosuite 1.4.0 calls
    deprecated functions, and warns about an optional settings file.
    """
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    robosuite = importlib.util.find_spec("robosuite")
    if robosuite is not None and "robosuite" not in sys.modules:
        _turn_off_log_file(robosuite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("libero.libero.envs")
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
