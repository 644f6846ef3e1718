"""Registers suites of LIBERO tasks with Gymnasium, without importing LIBERO."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from srpo_env.libero.suites import Suite

SUITE_IDS = ("libero-spatial", "libero-object", "libero-goal", "libero-10", "libero-90")


def register_envs() -> None:
    """Registers the ids, such as ``srpo_env/libero-object``; may be called twice.

    ``srpo_env/libero`` is for a task of the user: it takes ``bddl``.
    """
    _register("libero")
    for suite in SUITE_IDS:
        _register(suite, suite=suite)


def register_suite(
    name: str,
    tasks: str | Path | Sequence[str | Path],
    *,
    init_states: str | Path | None = None,
    max_steps: int | None = None,
) -> None:
    """Adds a suite of your own tasks, with the id ``srpo_env/NAME`` for `gymnasium.make`.

    Its tasks are checked here: LIBERO builds their scenes. A name that is registered again stands
    for the new suite.

    Args:
        name: Name of the suite: lower-case letters, digits, ``_`` and ``-``.
        tasks: A folder of BDDL files (``*.bddl``, sorted by name), or a list of such files.
        init_states: Folder of the initial states: for ``lift.bddl``, ``lift.pruned_init``,
            ``lift.init``, ``lift.npz`` or ``lift.npy``; by default the folder of the BDDL file.
            Tasks without such a file start from sampled states, whose seed is ``init_state_id``.
        max_steps: Control steps after which an episode is truncated; default: 600, as in LIBERO's
            own evaluation.

    Raises:
        FileNotFoundError: If a file or an asset is missing.
        ValueError: If the name is not free, a BDDL file is not valid, or initial states do not fit
            their task.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    from srpo_env.libero.own_suites import DEFAULT_MAX_STEPS, make_suite

    limit = DEFAULT_MAX_STEPS if max_steps is None else max_steps
    register_made_suite(make_suite(name, tasks, init_states=init_states, max_steps=limit))


def register_made_suite(suite: Suite) -> None:
    """Adds a suite that is made already, with the id ``srpo_env/NAME`` for `gymnasium.make`."""
    from srpo_env.libero.suites import add_suite

    add_suite(suite)
    _register(suite.name.replace("_", "-"), suite=suite.name)


def import_suite(name: str) -> str:
    """Returns the name of a suite; of ``MODULE:NAME``, imports the module, which registers it.

    This is how Gymnasium's ids name a module, too. The module calls `register_suite`.

    Raises:
        ValueError: If the module cannot be imported.
    """
    module, _, suite = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                f"a suite MODULE:NAME must name a module that registers it, and {module!r} cannot "
                f"be imported ({error}): add its folder to PYTHONPATH"
            ) from error
    return suite


def _register(name: str, **kwargs: str) -> None:
    env_id = f"srpo_env/{name}"
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point="srpo_env.libero.env:LiberoEnv",
            vector_entry_point="srpo_env.libero.vector:LiberoVectorEnv",
            kwargs=dict(kwargs),
        )
