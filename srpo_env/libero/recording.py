"""Records demonstrations of the scripted expert, one HDF5 file per task, in LIBERO's own layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.demos import IMAGE_KEYS, demo_file, recording_settings, writing_demos
from srpo_env.libero.experts import run_expert
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task, get_task
from srpo_env.libero.visuals import Visuals, check_visuals

EXPERT_VERSION = 1
"""counts changes of the expert that alter what it does, so that files of an earlier one are told"""

HAND = "robot0_right_hand"
"""Body whose orientation robosuite reports as the end effector's"""


@dataclass(frozen=True)
class Recording:
    """What to record of each task."""

    demos_per_task: int = 5
    init_states: tuple[int, ...] = tuple(range(40))
    """stored initial states to start from; evaluation keeps 40-49 for itself"""
    noise: float = 0.0
    """standard deviation of the noise on executed actions; the expert's own are the labels"""
    image_size: int = 128
    visuals: Visuals | None = None
    """``"exact"`` or ``"fast"`` images; None for what suits this machine"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range, or they contradict each other.
        """
        if self.demos_per_task < 1:
            raise ValueError(f"`demos_per_task` must be at least 1, got {self.demos_per_task}")
        if not self.init_states:
            raise ValueError("`init_states` must name at least one initial state, got none")
        if not self.noise >= 0:
            raise ValueError(f"`noise` must be at least 0, got {self.noise}")
        if self.noise == 0 and self.demos_per_task > len(self.init_states):
            raise ValueError(
                f"`demos_per_task` must be at most the number of initial states without noise, as "
                f"the expert would repeat itself: got {self.demos_per_task} of "
                f"{len(self.init_states)}; allow more initial states, or noise"
            )


@dataclass(frozen=True)
class Recorded:
    """What came of a task."""

    file: Path
    num_demos: int
    failures: int
    """episodes in which the expert did not reach the goal; they are not stored"""
    skipped: bool = False
    """the file was there already, recorded with the same settings"""


def record_task(
    suite: str,
    task_id: int,
    folder: str | Path,
    recording: Recording,
    *,
    overwrite: bool = False,
    progress: Callable[[bool], object] | None = None,
) -> Recorded:
    """Records one task to ``folder``; a file recorded with the same settings is left as it is.

    Args:
        suite: The expert knows ``libero_object``.
        task_id: The task, in LIBERO's order.
        folder: Where the file goes; made if need be.
        recording: What to record.
        overwrite: Whether to replace a file recorded otherwise.
        progress: Called after each episode with its success.

    Raises:
        FileExistsError: If the file is there, was recorded otherwise, and is not to be overwritten.
        ValueError: If a setting is wrong for the task, or the expert fails too often.
    """
    task = get_task(suite, task_id)
    path = demo_file(folder, task.name)
    settings = {
        **asdict(recording),
        "init_states": list(recording.init_states),  # as JSON gives them back
        "visuals": check_visuals(recording.visuals),
        "assets": resolve_assets().kind,
        "version": EXPERT_VERSION,
    }
    if path.exists() and not overwrite:
        if recording_settings(path) == settings:
            return Recorded(path, recording.demos_per_task, failures=0, skipped=True)
        raise FileExistsError(
            f"{str(path)!r} exists and was recorded with other settings: choose another folder, or "
            "overwrite it (`--overwrite`)"
        )
    wrong = [state for state in recording.init_states if not 0 <= state < len(task.init_states())]
    if wrong:
        raise ValueError(
            f"`init_states` must be in 0..{len(task.init_states()) - 1} for {task.name}, "
            f"got {wrong[0]}"
        )
    simulation = Simulation(task, recording.image_size, recording.visuals)
    try:
        attributes = {**_task_attributes(task, recording), "recording": json.dumps(settings)}
        with writing_demos(path, attributes) as writer:
            num_demos = failures = 0
            for number, init_state_id in enumerate(_starts(task, recording)):
                rows = _Rows(simulation)
                rng = np.random.default_rng([recording.seed, task.task_id, number])
                attempt = run_expert(
                    simulation, init_state_id, noise=recording.noise, rng=rng, observe=rows.append
                )
                if attempt.success:
                    writer.add(
                        actions=attempt.actions,
                        executed_actions=attempt.executed_actions,
                        init_state_id=init_state_id,
                        **rows.stacked(),
                    )
                num_demos, failures = num_demos + attempt.success, failures + (not attempt.success)
                if progress is not None:
                    progress(attempt.success)
                if num_demos == recording.demos_per_task:
                    return Recorded(path, num_demos, failures)
            raise ValueError(
                f"the expert must reach the goal of {task.name} {recording.demos_per_task} times, "
                f"and did {num_demos} times in {num_demos + failures} episodes; record fewer, or "
                f"with less noise than {recording.noise}"
            )
    finally:
        simulation.close()


def _starts(task: Task, recording: Recording) -> Iterator[int]:
    """Initial states in random order; over again only with noise, and not for ever."""
    rng = np.random.default_rng([recording.seed, task.task_id])
    rounds = 1
    if recording.noise > 0:
        rounds = 2 + 2 * recording.demos_per_task // len(recording.init_states)
    for _ in range(rounds):
        yield from (int(state) for state in rng.permutation(recording.init_states))


class _Rows:
    """What LIBERO's files keep of each control step, collected during one episode."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._hand = simulation.model.body(HAND).id
        self._rows: list[dict[str, npt.NDArray[Any]]] = []

    def append(self) -> None:
        """Adds what is seen now."""
        simulation = self._simulation
        state = np.concatenate([[simulation.data.time], simulation.data.qpos, simulation.data.qvel])
        rotation = simulation.proprio()[3:6].astype(np.float64)
        with simulation.as_observed() as data:
            position = simulation.grip_position
            quaternion = data.xquat[self._hand][[1, 2, 3, 0]]  # MuJoCo has w first, robosuite last
            joints, fingers = data.qpos[:7].copy(), data.qpos[7:9].copy()
        self._rows.append(
            {
                "states": state,
                "robot_states": np.concatenate([fingers, position, quaternion]),
                "gripper_states": fingers,
                "joint_states": joints,
                "ee_states": np.concatenate([position, rotation]),
                "ee_pos": position,
                "ee_ori": rotation,
                **{IMAGE_KEYS[camera]: simulation.render(camera) for camera in CAMERAS},
            }
        )

    def stacked(self) -> dict[str, Any]:
        """The arguments of :meth:`DemoWriter.add` that were seen."""
        columns = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        top = {name: columns.pop(name) for name in ("states", "robot_states")}
        return {**top, "obs": columns}


def _task_attributes(task: Task, recording: Recording) -> dict[str, Any]:
    """What LIBERO's files say of their task; read by robomimic and by LIBERO's own loaders."""
    # LIBERO can be imported by now: building the simulation has prepared it.
    import robosuite
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    problem_info = get_problem_info(str(task.bddl_file))
    env_name = TASK_MAPPING[problem_info["problem_name"]].__name__
    # A place inside LIBERO, not on the machine that recorded.
    bddl_file_name = f"libero/libero/bddl_files/{task.suite}/{task.bddl_file.name}"
    env_args = {
        "type": 1,  # robomimic's number for robosuite environments
        "env_name": env_name,
        "problem_name": problem_info["problem_name"],
        "bddl_file": bddl_file_name,
        "env_kwargs": {
            "robots": ["Panda"],
            "controller_configs": robosuite.load_controller_config(default_controller="OSC_POSE"),
            "bddl_file_name": bddl_file_name,
            "has_renderer": False,
            "has_offscreen_renderer": True,
            "ignore_done": True,
            "use_camera_obs": True,
            "camera_depths": False,
            "camera_names": ["robot0_eye_in_hand", "agentview"],
            "reward_shaping": True,
            "control_freq": 20,
            "camera_heights": recording.image_size,
            "camera_widths": recording.image_size,
            "camera_segmentations": None,
        },
    }
    return {
        "env_name": env_name,
        "env_args": json.dumps(env_args),
        "problem_info": json.dumps(problem_info),
        "bddl_file_name": bddl_file_name,
        "bddl_file_content": task.bddl_file.read_text(),
        "tag": "srpo-env",
    }
