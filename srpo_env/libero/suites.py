"""LIBERO's suites: their tasks, instructions, time limits and stored initial states.

Reads files of the ``hf-libero`` package, imports none of its code and needs no simulator.
"""

from __future__ import annotations

import functools
import importlib.util
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from srpo_env.system.files import DamagedFileError, regular_file
from srpo_env.system.machine import INSTALL_HF_LIBERO

MAX_STEPS = {
    "libero_spatial": 280,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps after which an episode is truncated, per suite. Source: lerobot's evaluation."""

MAX_PICKLE_BYTES = 2**26
"""Largest content of a file of initial states, 64 MiB; LIBERO's have 50 KB"""

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
"""First name in a pickled array, by the version of NumPy"""

SUITES = tuple(MAX_STEPS)


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
    init_states_file: Path

    def init_states(self) -> npt.NDArray[np.float64]:
        """Returns the stored states: time, positions, velocities; ``(num_states, 1 + nq + nv)``."""
        return _read_init_states(self.init_states_file)


def check_suite_name(suite: str) -> str:
    """Returns ``suite`` in LIBERO's spelling; accepts ``libero-object`` and ``libero_object``.

    Raises:
        ValueError: If there is no such suite.
    """
    name = suite.replace("-", "_").lower()
    if name not in MAX_STEPS:
        raise ValueError(f"`suite` must be one of {', '.join(SUITES)}, got {suite!r}")
    return name


@functools.cache
def tasks_of(suite: str) -> tuple[Task, ...]:
    """Returns the tasks of a suite, in LIBERO's order.

    Raises:
        ValueError: If there is no such suite.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    suite = check_suite_name(suite)
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
    tasks = tasks_of(suite)
    if not 0 <= task_id < len(tasks):
        raise ValueError(f"`task_id` must be in 0..{len(tasks) - 1} for {suite}, got {task_id}")
    return tasks[task_id]


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
def _read_init_states(file: Path) -> npt.NDArray[np.float64]:
    # A zip written by torch.save with one pickled NumPy array. Read without torch, which would take
    # 200 MB in each simulator process, and without executing code from the pickle.
    with regular_file(file).open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith("data.pkl")]
                if len(members) != 1 or members[0].file_size > MAX_PICKLE_BYTES:
                    raise ValueError(
                        f"it must have one data.pkl of at most {MAX_PICKLE_BYTES} bytes"
                    )
                states = _unpickled_array(archive.read(members[0]))
            if states.ndim != 2 or not np.isfinite(states).all():
                raise ValueError(f"states must be finite numbers, one row each, got {states.shape}")
        # zipfile and pickletools raise many types for damaged content.
        except Exception as error:
            raise DamagedFileError(
                f"{file} must hold initial states, a plain array of float64 as torch.save writes "
                f"it, and is damaged or something else ({type(error).__name__}: {error})"
            ) from error
    states.setflags(write=False)
    return states


def _unpickled_array(content: bytes) -> npt.NDArray[np.float64]:
    """Reads a pickled array of two dimensions from its opcodes, without the pickle machine.

    Unpickling calls functions that the file names. Here, the opcodes must be those of one plain
    array of float64, and its shape and content are taken from their arguments.

    Raises:
        ValueError: If it is something else.
    """
    arguments = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("FRAME", "MEMOIZE", "PROTO") or "PUT" in opcode.name:
            continue  # for later references, of which there are two
        arguments.append(argument if argument is not None else opcode.name)
    shape, is_fortran, values = arguments[13:15], arguments[-9:-8], arguments[-7:-6]
    expected = [
        *arguments[:1], "numpy ndarray", 0, "TUPLE1", "_codecs encode", "b", "latin1", "TUPLE2",
        "REDUCE", "TUPLE3", "REDUCE", "MARK", 1, *shape, "TUPLE2", "numpy dtype", "f8",
        "NEWFALSE", "NEWTRUE", "TUPLE3", "REDUCE", "MARK", 3, "<", "NONE", "NONE", "NONE", -1, -1,
        0, "TUPLE", "BUILD", *is_fortran, *arguments[-8:-7], *values, *arguments[-6:-5], "TUPLE2",
        "REDUCE", "TUPLE", "BUILD", "STOP",
    ]  # fmt: skip
    if arguments != expected or arguments[0] not in RECONSTRUCT:
        raise ValueError("it is not a pickled array of float64 with two dimensions")
    rows, columns = shape
    (text,) = values
    if not (isinstance(rows, int) and isinstance(columns, int) and isinstance(text, str)):
        raise ValueError("its shape and content are of other types")
    array: npt.NDArray[np.float64] = np.frombuffer(text.encode("latin1"), "<f8")
    order: Literal["C", "F"] = "F" if is_fortran == ["NEWTRUE"] else "C"
    return array.reshape(max(0, rows), max(0, columns), order=order).astype(np.float64)
