"""Records demonstrations of the scripted experts in LIBERO's HDF5 layout, one file per task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srpo_env.libero.demos import IMAGE_KEYS, DemoWriter, demo_file
from srpo_env.libero.experts import run_expert
from srpo_env.libero.recording import Recorded, RecordingSettings, record_file
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task, get_task

EXPERT_VERSION = 1
"""Increased with each change of the expert that alters its actions."""

HAND = "robot0_right_hand"
"""Body whose orientation robosuite reports as the end effector's."""


@dataclass(frozen=True)
class DemoRecording(RecordingSettings):
    """Settings of the demonstrations to record of each task."""

    demos_per_task: int = 5
    """Number of successful episodes."""
    noise: float = 0.0
    """Standard deviation of the noise on executed actions; the labels are without noise."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If a setting is out of its range, or settings contradict each other.
        """
        super().__post_init__()
        if self.demos_per_task < 1:
            raise ValueError(f"`demos_per_task` must be at least 1, got {self.demos_per_task}")
        if not self.noise >= 0:
            raise ValueError(f"`noise` must be at least 0, got {self.noise}")
        if self.noise == 0 and self.demos_per_task > len(self.init_states):
            raise ValueError(
                "without noise, `demos_per_task` must be at most the number of initial states, "
                "because the expert repeats itself exactly: got "
                f"{self.demos_per_task} of {len(self.init_states)}; allow more initial states, or "
                "noise"
            )


def record_demos(
    suite: str,
    task_id: int,
    folder: str | Path,
    recording: DemoRecording,
    *,
    overwrite: bool = False,
    progress: Callable[[bool], object] | None = None,
) -> Recorded:
    """Records demonstrations of one task; a file recorded with the same settings is kept.

    Args:
        suite: A suite whose tasks the experts solve.
        task_id: The task, in LIBERO's order.
        folder: Folder for the file; created if needed.
        recording: Which demonstrations to record.
        overwrite: Replaces a file that was recorded with other settings.
        progress: Called after each episode with its success.

    Raises:
        FileExistsError: If the file exists, was recorded with other settings, and ``overwrite`` is
            False.
        ValueError: If a setting does not fit the task, or the expert fails too often.
    """
    task = get_task(suite, task_id)

    def record(simulation: Simulation, data: h5py.Group) -> int:
        writer = DemoWriter(data, _task_attributes(task, recording))
        num_demos = num_failures = 0
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
            num_demos += attempt.success
            num_failures += not attempt.success
            if progress is not None:
                progress(attempt.success)
            if num_demos == recording.demos_per_task:
                return num_failures
        raise ValueError(
            f"the expert must reach the goal of {task.name} {recording.demos_per_task} times, "
            f"but did so {num_demos} times in {num_demos + num_failures} episodes; record fewer, "
            f"or with less noise than {recording.noise}"
        )

    return record_file(
        demo_file(folder, task.name),
        task,
        recording,
        version=EXPERT_VERSION,
        num_episodes=recording.demos_per_task,
        record=record,
        overwrite=overwrite,
    )


def _starts(task: Task, recording: DemoRecording) -> Iterator[int]:
    """Yields initial states in random order; with noise, a limited number of times."""
    rng = np.random.default_rng([recording.seed, task.task_id])
    rounds = 1
    if recording.noise > 0:
        rounds = 2 + 2 * recording.demos_per_task // len(recording.init_states)
    for _ in range(rounds):
        yield from (int(state) for state in rng.permutation(recording.init_states))


class _Rows:
    """The observations that LIBERO's files store, collected during one episode."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._hand = simulation.model.body(HAND).id
        self._rows: list[dict[str, npt.NDArray[Any]]] = []

    def append(self) -> None:
        """Adds the current state and images."""
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
        """Returns the collected arguments of `DemoWriter.add`."""
        columns = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        top = {name: columns.pop(name) for name in ("states", "robot_states")}
        return {**top, "obs": columns}


def _task_attributes(task: Task, recording: DemoRecording) -> dict[str, Any]:
    """Returns the attributes that robomimic's and LIBERO's loaders read."""
    # The simulation has prepared LIBERO for the import.
    import robosuite
    from libero.libero.envs import TASK_MAPPING
    from libero.libero.envs.bddl_utils import get_problem_info

    problem_info = get_problem_info(str(task.bddl_file))
    env_name = TASK_MAPPING[problem_info["problem_name"]].__name__
    # Relative to LIBERO's repository, so that it does not depend on the recording machine.
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
