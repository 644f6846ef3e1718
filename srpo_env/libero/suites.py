"""Suites of tasks, LIBERO's and the user's: instructions, time limits, stored initial states.

Reads files of the ``hf-libero`` package, imports none of its code and needs no simulator.
`srpo_env.registration.register_suite` adds the suites of a user.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from srpo_env.libero.init_states import read_init_states
from srpo_env.system.files import sha256_of
from srpo_env.system.machine import INSTALL_HF_LIBERO
from srpo_env.types import Floats

MAX_STEPS = {
    "libero_spatial": 280,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps after which an episode is truncated, per suite. Source: lerobot's evaluation."""

SUITES = tuple(MAX_STEPS)
"""LIBERO's own suites"""

NUM_SEEDS = 2**32
"""Number of initial states of a task without stored ones: they are sampled, by NumPy's seeds"""


@dataclass(frozen=True)
class Task:
    """One language goal of a suite; ``task_id`` is its index in LIBERO's list."""

    suite: str
    task_id: int
    name: str
    """File name of the task, without extension."""
    instruction: str
    """The policy's instruction, in lower case."""
    bddl_file: Path
    init_states_file: Path | None
    """None: initial states are sampled, as by LIBERO's reset."""
    sha256: tuple[str, ...] = ()
    """Of a user's task: the SHA-256 of its files when the suite was made."""
    extra_objects: tuple[str, ...] = ()
    """Objects that the stored states do not contain: distractors, of a perturbed layout."""
    perturbation: str = ""
    """Perturbation of its episodes, as text, unless an environment is given another one."""

    def init_states(self) -> Floats:
        """Returns the stored states: time, positions, velocities; ``(num_states, 1 + nq + nv)``.

        Raises:
            ValueError: If the task has none, or the file is damaged.
        """
        if self.init_states_file is None:
            raise ValueError(
                f"{self.name} has no stored initial states: they are sampled at each reset"
            )
        return _init_states(self)

    @property
    def num_init_states(self) -> int:
        """Number of initial states: of stored ones, or of seeds if they are sampled."""
        return NUM_SEEDS if self.init_states_file is None else len(self.init_states())

    def check_unchanged(self) -> None:
        """Checks that the files are those with which the suite was made.

        Other processes read them again, and every compiled model is kept, so that a change would
        take effect in some environments only.

        Raises:
            ValueError: If a file has changed.
        """
        for file, sha256 in zip(self.files, self.sha256, strict=False):
            if sha256_of(file) != sha256:
                raise ValueError(
                    f"{file} has changed since the suite {self.suite!r} was made: make the suite "
                    "and its environments again"
                )

    @property
    def files(self) -> tuple[Path, ...]:
        """The BDDL file, and the file of the initial states if there is one."""
        return (self.bddl_file, *filter(None, [self.init_states_file]))


@dataclass(frozen=True)
class Suite:
    """A named family of tasks."""

    name: str
    tasks: tuple[Task, ...]
    max_steps: int
    """Control steps after which an episode is truncated."""

    def task(self, task_id: int) -> Task:
        """Returns one task.

        Raises:
            ValueError: If there is no such task.
        """
        if not 0 <= task_id < len(self.tasks):
            raise ValueError(
                f"`task_id` must be in 0..{len(self.tasks) - 1} for {self.name}, got {task_id}"
            )
        return self.tasks[task_id]


_registered: dict[str, Suite] = {}
"""Suites of the user, by name."""


def add_suite(suite: Suite) -> None:
    """Makes a user's suite known by its name; replaces one of the same name."""
    _registered[suite.name] = suite


def check_suite_name(suite: str) -> str:
    """Returns ``suite`` in LIBERO's spelling; accepts ``libero-object`` and ``libero_object``.

    Raises:
        ValueError: If there is no such suite.
    """
    name = suite.replace("-", "_").lower()
    if name not in MAX_STEPS and name not in _registered:
        known = ", ".join([*SUITES, *_registered])
        raise ValueError(f"`suite` must be one of {known}, got {suite!r}")
    return name


def get_suite(suite: str) -> Suite:
    """Returns a suite by its name, LIBERO's or the user's.

    Raises:
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    name = check_suite_name(suite)
    if name in _registered:
        return _registered[name]
    return Suite(name, _tasks_of_libero(name), MAX_STEPS[name])


def all_suites() -> list[Suite]:
    """Returns LIBERO's suites and the registered ones.

    Raises:
        ModuleNotFoundError: If LIBERO is not installed.
    """
    return [get_suite(name) for name in (*SUITES, *_registered)]


def tasks_of(suite: str) -> tuple[Task, ...]:
    """Returns the tasks of a suite, in LIBERO's order.

    Raises:
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    return get_suite(suite).tasks


@functools.cache
def _tasks_of_libero(suite: str) -> tuple[Task, ...]:
    package = package_folder()
    names = _task_names(package)[suite]
    return tuple(
        Task(
            suite,
            task_id,
            name,
            instruction_of(name),
            package / "bddl_files" / suite / f"{name}.bddl",
            package / "init_files" / suite / f"{name}.pruned_init",
        )
        for task_id, name in enumerate(names)
    )


def get_task(suite: str, task_id: int) -> Task:
    """Returns one task of a suite.

    Raises:
        ValueError: If there is no such suite or task.
    """
    return get_suite(suite).task(task_id)


def package_folder() -> Path:
    """Returns the folder of the installed ``libero`` package, without importing it.

    An import without `srpo_env.libero.assets.prepare_libero` waits for standard input.

    Raises:
        ModuleNotFoundError: If LIBERO is not installed.
    """
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "LIBERO is not installed: run `pip install 'srpo-env[libero]'` and "
            f"`{INSTALL_HF_LIBERO}`",
            name="libero",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@functools.cache
def _task_names(package: Path) -> dict[str, list[str]]:
    # A module of pure data, loaded from its file, because importing LIBERO waits for input.
    file = package / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("_libero_suite_task_map", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task_map: dict[str, list[str]] = module.libero_task_map
    return task_map


def instruction_of(name: str) -> str:
    """Returns the instruction of a task from its name, as LIBERO's evaluation does."""
    # Names in libero_10 and libero_90 start with the scene: KITCHEN_SCENE3_turn_on_the_stove.
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ").lower()


@functools.cache
def _init_states(task: Task) -> Floats:
    assert task.init_states_file is not None
    task.check_unchanged()
    return read_init_states(task.init_states_file)
