"""Registers LIBERO-Plus's own tasks, for owners of its repository and its ``assets.zip``.

Their names, BDDL files, initial states, lights and robots are read where they lie; none of their
code is run. Of the seven dimensions, those that need no new objects or textures can be run:
camera, robot, language, light, noise, and moved regions. Backgrounds and added objects are Python
classes of LIBERO-Plus, so its own simulator is needed for them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo_env.libero.bddl import WORKSPACES, read_bddl
from srpo_env.libero.cache import cache_folder
from srpo_env.libero.init_states import ENDINGS
from srpo_env.libero.libero_plus_names import PlusName, parse_plus_name
from srpo_env.libero.perturbations import Light, Perturbation, RobotState, as_mixture, as_text
from srpo_env.libero.suites import MAX_STEPS, Suite, Task
from srpo_env.registration import register_made_suite
from srpo_env.system.files import read_json, sha256_of, write_file

BASES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")

PLUS_DIMENSIONS = ("camera", "robot", "language", "light", "noise", "layout")
"""The dimensions that can be run; of the layout, moved regions only."""

_PROBLEMS = {
    "floor": "libero_floor_manipulation",
    "tabletop": "libero_tabletop_manipulation",
    "kitchen": "libero_kitchen_tabletop_manipulation",
    "liv": "libero_living_room_tabletop_manipulation",
    "study": "libero_study_tabletop_manipulation",
    "coffee": "libero_coffee_table_manipulation",
}
"""LIBERO's problem of each prefix of the scenes with other lights."""

_LIGHT_PROBLEM = re.compile(
    r"\(\s*problem\s+(?P<name>\S*?(?P<prefix>[a-z]+)_light_sync_modified_(?P<number>\d+))\s*\)",
    re.IGNORECASE,
)

_ON_THE_GROUND = {
    "libero_floor_manipulation",
    "libero_coffee_table_manipulation",
    "libero_living_room_tabletop_manipulation",
}
"""Problems whose robot stands on the ground; the others have it on a mount."""


def register_libero_plus(folder: str | Path, *suites: str) -> None:
    """Registers tasks of LIBERO-Plus: ``gymnasium.make("srpo_env/libero-object-plus-camera")``.

    A suite holds the tasks of one of LIBERO's suites and of one dimension, in the order of
    LIBERO-Plus's list. Each episode has the perturbation of its task; ``info["perturbation"]`` has
    it. The robot is perturbed as in LIBERO-Plus's evaluation, see `RobotState.rest_only`.

    Args:
        folder: Folder of the repository, with the content of ``assets.zip`` in
            ``libero/libero/assets``, which only the lights need.
        *suites: Names such as ``"libero-object-plus-camera"``; none for all that can be run.

    Raises:
        FileNotFoundError: If the folder lacks a file that is needed.
        ValueError: If there is no such suite, or a file is not valid.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    known = [f"{base}_plus_{dimension}" for base in BASES for dimension in PLUS_DIMENSIONS]
    names = [suite.replace("-", "_") for suite in suites] or known
    for name in names:
        if name not in known:
            raise ValueError(f"`suites` must be among {', '.join(known)}, got {name!r}")
    package = Path(folder).expanduser().absolute() / "libero" / "libero"
    listed = package / "benchmark" / "task_classification.json"
    if not listed.is_file():
        raise FileNotFoundError(
            f"`folder` must hold the repository of LIBERO-Plus, {str(folder)!r} lacks "
            "libero/libero/benchmark/task_classification.json"
        )
    content = read_json(listed)
    for name in names:
        base, _, dimension = name.partition("_plus_")
        made = [
            _task(package, name, base, parsed, task_id)
            for task_id, parsed in enumerate(_names_of(content, base, dimension, listed))
        ]
        if made:
            register_made_suite(Suite(name, tuple(made), MAX_STEPS[base]))
        elif suites:
            raise ValueError(f"{listed} has no tasks of {base} and {dimension} that can be run")


def _names_of(content: Any, base: str, dimension: str, listed: Path) -> list[PlusName]:
    try:
        names = [str(entry["name"]) for entry in content[base]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{listed} must list the tasks of {base} by their name") from error
    parsed = [parse_plus_name(name) for name in names]
    return [
        task
        for task in parsed
        if task.dimensions == (dimension,) and task.kind not in ("table", "tb", "add")
    ]


def _task(package: Path, suite: str, base: str, parsed: PlusName, task_id: int) -> Task:
    file = package / "bddl_files" / base / f"{parsed.file}.bddl"
    if not file.is_file():
        raise FileNotFoundError(f"LIBERO-Plus's task {parsed.file} needs {file}, which is missing")
    perturbations: list[Perturbation] = parsed.perturbations()
    if parsed.kind == "light":
        file, light = _with_own_problem(package, file)
        perturbations.append(light)
    bddl = read_bddl(file)
    if parsed.robot:
        perturbations.append(_robot(package, bddl.problem, parsed.robot))
    states = _init_states(package, base, parsed)
    return Task(
        suite,
        task_id,
        parsed.file,
        bddl.instruction,
        file,
        states,
        (bddl.sha256, sha256_of(states)),
        perturbation=as_text(as_mixture(perturbations)) if perturbations else "",
    )


def _init_states(package: Path, base: str, parsed: PlusName) -> Path:
    """Returns the file of the initial states: that of LIBERO's task, unless regions are moved."""
    moved = parsed.kind == "level"
    folder = package / "init_files" / (f"libero_newobj/{base}" if moved else base)
    name = parsed.file if moved else parsed.base
    for ending in ENDINGS:
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    raise FileNotFoundError(
        f"LIBERO-Plus's task {parsed.file} needs initial states {folder / name}"
        f"{'|'.join(ENDINGS)}, which are missing"
    )


def _with_own_problem(package: Path, file: Path) -> tuple[Path, Light]:
    """Returns the file with LIBERO's problem in place of LIBERO-Plus's, and its lights."""
    text = file.read_text()
    problem = _LIGHT_PROBLEM.search(text)
    prefix = "" if problem is None else problem["prefix"].lower().rpartition("_")[2]
    if problem is None or prefix not in _PROBLEMS:
        raise ValueError(f"the problem of {file} must end in PREFIX_light_sync_modified_NUMBER")
    scene = f"{prefix}_light_sync_modified_{problem['number']}.xml"
    lights = package / "assets" / "scenes" / "lights" / scene
    if not lights.is_file():
        raise FileNotFoundError(
            f"LIBERO-Plus's task {file.stem} needs {lights}, which is missing: unpack assets.zip"
        )
    text = text.replace(problem["name"], _PROBLEMS[prefix])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    own = cache_folder() / "libero-plus" / f"{file.stem}-{digest}.bddl"
    if not own.is_file() or own.read_text() != text:
        own.parent.mkdir(parents=True, exist_ok=True)
        write_file(own, text.encode())
    return own, Light(scene=str(lights))


# --- Robots ---------------------------------------------------------------------------------------


def _robot(package: Path, problem: str, number: int) -> RobotState:
    assert problem in WORKSPACES
    kind = "OnTheGroundPanda" if problem in _ON_THE_GROUND else "MountedPanda"
    name = "on_the_ground_panda" if problem in _ON_THE_GROUND else "mounted_panda"
    postures = _postures(package / "envs" / "robots" / f"{name}.py")
    missing = [robot for robot in (kind, f"{kind}{number}") if robot not in postures]
    if missing:
        raise ValueError(f"{package / 'envs' / 'robots'} has no `init_qpos` of {missing[0]}")
    offsets = [x - y for x, y in zip(postures[f"{kind}{number}"], postures[kind], strict=True)]
    return RobotState(offsets=tuple(offsets), rest_only=True)


@functools.cache
def _postures(file: Path) -> dict[str, tuple[float, ...]]:
    """Returns ``init_qpos`` of each class of a Python file, which is parsed and not run."""
    if not file.is_file():
        raise FileNotFoundError(f"LIBERO-Plus's robots are in {file}, which is missing")
    postures = {}
    for node in ast.parse(file.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "init_qpos":
                returned = next((x for x in method.body if isinstance(x, ast.Return)), None)
                numbers = [] if returned is None else _numbers(returned.value)
                if len(numbers) != 7:
                    raise ValueError(
                        f"`init_qpos` of {node.name} in {file} must return an array of 7 numbers"
                    )
                postures[node.name] = tuple(numbers)
    return postures


def _numbers(node: ast.AST | None) -> Sequence[float]:
    if isinstance(node, ast.Call) and node.args:
        return _numbers(node.args[0])
    if isinstance(node, ast.List | ast.Tuple):
        return [_number(element) for element in node.elts]
    return []


def _number(node: ast.AST) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.Attribute(attr="pi"):
            return math.pi
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            return _number(left) / _number(right)
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return _number(left) * _number(right)
    raise ValueError(f"`init_qpos` must consist of numbers, got {ast.unparse(node)}")
