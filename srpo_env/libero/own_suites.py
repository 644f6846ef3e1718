"""Makes suites from a user's BDDL files, and checks that LIBERO can build their tasks.

A task's initial states are stored in a file, or sampled at each reset as by LIBERO's own
environment; then ``init_state_id`` is the seed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.bddl import WORKSPACES, check_categories, read_bddl
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.init_states import ENDINGS
from srpo_env.libero.suites import SUITES, Suite, Task
from srpo_env.libero.upstream import import_upstream
from srpo_env.system.files import sha256_of
from srpo_env.types import checked_count

DEFAULT_MAX_STEPS = 600
"""Control steps of an episode of a user's suite. Source: LIBERO's own evaluation."""


def make_suite(
    name: str,
    tasks: str | Path | Sequence[str | Path],
    *,
    init_states: str | Path | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Suite:
    """Makes a suite; its tasks are numbered in the order of their file names, or of the list.

    Args:
        name: Name of the suite: lower-case letters, digits, ``_`` and ``-``.
        tasks: A folder of BDDL files (``*.bddl``), or a list of such files.
        init_states: Folder of the initial states: for ``lift.bddl``, ``lift.pruned_init``,
            ``lift.init``, ``lift.npz`` or ``lift.npy``; by default the folder of the BDDL file. For
            a single task, also a file. Tasks without such a file start from sampled states.
        max_steps: Control steps after which an episode is truncated.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the name is taken by LIBERO, a BDDL file is not valid, initial states do not
            fit their task, or LIBERO cannot build a task.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    spelling = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", spelling) or spelling in SUITES:
        raise ValueError(
            "the name of a suite must consist of lower-case letters, digits, _ and -, and not be "
            f"one of LIBERO's suites, got {name!r}"
        )
    max_steps = checked_count("max_steps", max_steps)
    files = _bddl_files(tasks)
    made = []
    for task_id, file in enumerate(files):
        states = _init_states_of(file, init_states, is_single=len(files) == 1)
        parsed = read_bddl(file)
        sha256 = (parsed.sha256, *([sha256_of(states)] if states else []))
        task = Task(spelling, task_id, file.stem, parsed.instruction, file, states, sha256)
        _check(task)
        made.append(task)
    return Suite(spelling, tuple(made), max_steps)


def single_task(bddl: str | Path, init_states: str | Path | None = None) -> Suite:
    """Makes the suite of one BDDL file, named after it.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: As in `make_suite`.
    """
    name = re.sub(r"\W", "_", Path(bddl).stem.lower())
    return make_suite(f"own_{name}", [bddl], init_states=init_states)


def _bddl_files(tasks: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(tasks, str | Path):
        folder = Path(tasks).expanduser().absolute()
        files = sorted(folder.glob("*.bddl"))
        if not files:
            raise FileNotFoundError(
                f"`tasks` must be a folder with *.bddl files, or a list of them, got {str(tasks)!r}"
            )
        return files
    files = [Path(file).expanduser().absolute() for file in tasks]
    if not files:
        raise ValueError("`tasks` must name at least one BDDL file, got none")
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"there must be a BDDL file {missing[0]!r}, and there is none")
    names = [file.stem for file in files]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"the BDDL files of a suite must have different names, {min(twice)} twice")
    return files


def _init_states_of(file: Path, source: str | Path | None, *, is_single: bool) -> Path | None:
    if source is not None:
        path = Path(source).expanduser().absolute()
        if path.is_file() and is_single:
            return path
        if not path.is_dir():
            raise FileNotFoundError(
                f"`init_states` must be a folder, or the file of a single task, got {str(source)!r}"
            )
    folder = file.parent if source is None else path
    found = [folder / f"{file.stem}{ending}" for ending in ENDINGS]
    found = [path for path in found if path.is_file()]
    if source is not None and not found:
        raise FileNotFoundError(
            f"{str(folder)!r} has no initial states {file.stem}{'|'.join(ENDINGS)}: add them, or "
            "leave out `init_states` to sample them"
        )
    return found[0] if found else None


# --- Checks ---------------------------------------------------------------------------------------


@functools.cache
def _check(task: Task) -> None:
    """Checks that LIBERO can build a task and that its stored states have the right size."""
    file = task.bddl_file
    parsed = read_bddl(file)
    _check_known(file, parsed.categories.values(), "object")
    workspace = WORKSPACES[parsed.problem]
    _check_known(file, set(parsed.fixtures.values()) - {workspace}, "fixture")
    from srpo_env.libero.building import check_scene  # imports MuJoCo

    size = check_scene(task)  # builds the scene, also without initial states
    if task.init_states_file is not None and task.init_states().shape[1] != size:
        raise ValueError(
            f"initial states of {task.name} must have {size} numbers each (time, positions, "
            f"velocities), {task.init_states_file} has {task.init_states().shape[1]}; do they "
            "belong to another task, or to another version of LIBERO?"
        )


def _check_known(file: Path, categories: Iterable[str], kind: str) -> None:
    prepare_libero()
    choose_gl()
    import_upstream()
    from libero.libero.envs.objects import get_object_dict

    check_categories(file, categories, get_object_dict(), kind)
