"""Replays recorded demonstrations in the simulator, to check that they reach the goal here.

A replay starts from the recorded initial state and executes the recorded actions. States do not
contain the positions of fixtures, which LIBERO draws at each reset. They are taken from the model
of a demonstration (``model_file``), which LIBERO's files have.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from srpo_env.libero.demos import FILE_ENDING, demonstrations_of, read_numbers
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import Task, all_suites
from srpo_env.readers.hdf5 import Hdf5Group, open_hdf5
from srpo_env.system.files import DamagedFileError
from srpo_env.types import Bools, Floats

NO_OP_NORM = 1e-4
"""Norm of an action's change of pose below which it does nothing. Source: OpenVLA's filter."""


@dataclass(frozen=True, eq=False)
class RecordedActions:
    """The actions and states of one demonstration, without its images."""

    name: str
    """Its name in the file, such as ``demo_0``."""
    actions: Floats
    """The actions that were executed, ``(num_steps, 7)``."""
    states: Floats
    """The states before the actions, ``(num_steps, 1 + nq + nv)``."""
    model_xml: str | None = None
    """The recorded model in MJCF."""


@dataclass(frozen=True)
class Replay:
    """The result of a replay."""

    success_step: int | None
    """Step at whose end the goal was first reached; None if it was not."""
    max_deviation: float
    """Largest difference from a recorded position: in m, rad, or a quaternion's component."""

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return self.success_step is not None


def read_actions(path: str | Path) -> Iterator[RecordedActions]:
    """Yields the demonstrations of a file in LIBERO's layout; reads no images.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not in LIBERO's layout, or is damaged.
    """
    with open_hdf5(path) as file:
        data, names = demonstrations_of(file, path)
        for name in names:
            group = data.group(name)
            if group is None:
                raise DamagedFileError(f"data/{name} of {path} cannot be read: it is damaged")
            yield _read(group, name)


def _read(group: Hdf5Group, name: str) -> RecordedActions:
    # Ours can be recorded with noise on the executed actions.
    actions = group.array("executed_actions") or group.array("actions")
    states = group.array("states")
    if actions is None or states is None:
        raise ValueError(f"{group.place} must have `actions` and `states`")
    if len(actions) != len(states) or len(actions) == 0:
        raise ValueError(
            f"`actions` and `states` of {group.place} must have the same number of rows, at least "
            f"1, got {len(actions)} and {len(states)}"
        )
    xml = group.text("model_file")
    return RecordedActions(name, read_numbers(actions, 7), read_numbers(states, None), xml)


def task_of(path: str | Path) -> Task:
    """Finds the task of a file, among LIBERO's suites and the registered ones.

    By the attribute ``bddl_file_name``, or the file's name ``<task>_demo.hdf5``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it names no known task.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        data = file.group("data")
        bddl = None if data is None else data.text("bddl_file_name")
    name = Path(bddl).stem if bddl else path.name.removesuffix(FILE_ENDING)
    folder = Path(bddl).parent.name if bddl else path.parent.name
    found = [task for suite in all_suites() for task in suite.tasks if task.name == name]
    # Suites of the user can have tasks of the same name as LIBERO's.
    found.sort(key=lambda task: task.suite != folder)
    if not found:
        raise ValueError(
            f"{str(path)!r} must be of a task of LIBERO, got {name!r}: name its BDDL file "
            "(`--bddl`)"
        )
    return found[0]


def fixture_poses(model_xml: str, names: Iterable[str]) -> dict[str, Floats]:
    """Reads the positions and quaternions of bodies from a recorded model.

    Args:
        model_xml: The model in MJCF, as MuJoCo saves it.
        names: Names of bodies; those that the model lacks are left out.

    Returns:
        Position (m) and quaternion by name, ``(7,)``.

    Raises:
        ValueError: If it is not such a model.
    """
    try:
        # Entities could expand to any size.
        if "<!" in model_xml.replace("<!--", ""):
            raise ValueError("it declares entities")
        bodies = {body.get("name"): body for body in ET.fromstring(model_xml).iter("body")}
        poses: dict[str, Floats] = {}
        for name in names:
            body = bodies.get(name)
            if body is None:
                continue
            text = f"{body.get('pos', '0 0 0')} {body.get('quat', '1 0 0 0')}"
            pose = np.array([float(word) for word in text.split()])
            if pose.shape != (7,) or not np.isfinite(pose).all():
                raise ValueError(f"{name} has the pose {text!r}")
            poses[name] = pose
    except (ET.ParseError, ValueError) as error:
        raise DamagedFileError(
            f"`model_file` must be a model that MuJoCo has saved ({error})"
        ) from error
    return poses


def replay(
    simulation: Simulation,
    demo: RecordedActions,
    *,
    observe: Callable[[], object] | None = None,
) -> Replay:
    """Executes a demonstration's actions from its first state; fixtures stay where they are.

    Args:
        simulation: A simulation of its task.
        demo: The demonstration.
        observe: Called before each action up to the one that reaches the goal.

    Raises:
        ValueError: If its states are not those of the task.
    """
    simulation.reset(demo.states[0])
    num_positions = simulation.model.nq
    success_step, max_deviation = None, 0.0
    for step, (action, state) in enumerate(zip(demo.actions, demo.states, strict=True)):
        if observe is not None and success_step is None:
            observe()
        difference = np.abs(simulation.data.qpos - state[1 : 1 + num_positions]).max()
        max_deviation = max(max_deviation, float(difference))
        if simulation.step(action) and success_step is None:
            success_step = step
    return Replay(success_step, max_deviation)


def no_ops(actions: Floats) -> Bools:
    """Returns which actions do nothing: no change of pose, and the gripper as in the one before.

    The one before is the last action that does something, as in OpenVLA's filter of LIBERO's
    demonstrations.

    Args:
        actions: Shape ``(num_steps, 7)``.

    Examples:
        >>> still, closing = [0, 0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 0, 0, 1]
        >>> no_ops(np.array([[0.1, 0, 0, 0, 0, 0, -1], still, closing, closing])).tolist()
        [False, True, False, True]
    """
    is_still = np.linalg.norm(actions[:, :6], axis=1) < NO_OP_NORM
    dropped = np.zeros(len(actions), dtype=np.bool_)
    gripper = None
    for step, action in enumerate(actions):
        dropped[step] = is_still[step] and gripper in (None, action[6])
        if not dropped[step]:
            gripper = action[6]
    return dropped


def without_no_ops(demo: RecordedActions) -> RecordedActions:
    """Returns a demonstration without its no-ops; ``states`` stays at the actions that are left.

    Raises:
        ValueError: If no action is left.
    """
    kept = ~no_ops(demo.actions)
    if not kept.any():
        raise ValueError(f"{demo.name} must have an action that does something, got only no-ops")
    # The first state is where the episode starts, also if the first actions are dropped.
    states = demo.states[kept]
    states[0] = demo.states[0]
    return replace(demo, actions=demo.actions[kept], states=states)
