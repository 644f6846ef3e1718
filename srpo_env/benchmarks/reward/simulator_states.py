"""Simulator states of recorded episodes, obtained by replaying them.

Used as latents, they are an upper bound for encoders of videos; no reward uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.behaviour_recording import SUITE
from srpo_env.libero.behaviours import play
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task
from srpo_env.types import Floats, Video


class StateRecordingSimulation(Simulation):
    """Records the state instead of rendering an image."""

    def __init__(self, task_id: int) -> None:
        """Builds the simulation of a task of libero_object."""
        super().__init__(get_task(SUITE, task_id), image_size=1)
        self.states: list[Floats] = []

    def render(self, camera: str) -> Video:
        """Records the state and returns one black pixel."""
        self.states.append(state_of(self))
        return np.zeros((1, 1, 3), np.uint8)


def state_of(simulation: Simulation) -> Floats:
    """Returns positions of gripper and object relative to the basket, and the gripper's opening.

    Returns:
        Shape ``(7,)``, all in metres, so that distances between states have one unit.
    """
    data = simulation.data
    target, basket = (
        data.xpos[simulation.objects[name]] for name in simulation.objects_of_interest
    )
    fingers = data.qpos[7:9]
    opening = fingers[0] - fingers[1]
    return np.concatenate([simulation.grip_position - basket, target - basket, [opening]])


def replay_states(
    episodes: Sequence[BehaviourEpisode],
    *,
    chunk: int,
    max_steps: int,
    progress: Callable[[], object] | None = None,
) -> list[Floats]:
    """Replays episodes of one task without rendering.

    Args:
        episodes: The recorded episodes.
        chunk: Control steps between two frames.
        max_steps: Control steps after which a failure was truncated.
        progress: Called after each episode.

    Returns:
        The states at the times of each episode's frames, ``(num_frames, 7)``.

    Raises:
        ValueError: If the progress of a replay differs from the recording.
    """
    simulation = StateRecordingSimulation(episodes[0].task_id)
    states = []
    for episode in episodes:
        simulation.states = []
        replay = play(
            simulation,
            episode.kind,
            episode.init_state_id,
            episode.seed,
            chunk=chunk,
            max_steps=max_steps,
        )
        if not np.array_equal(replay.progress, episode.progress):
            raise ValueError(
                f"the replay of an episode must equal the recording, but it differs for kind "
                f"{episode.kind!r} of task {episode.task_id}, initial state "
                f"{episode.init_state_id}, seed {episode.seed}: it was probably recorded with "
                "other assets or another version of srpo-env or MuJoCo. Leave out the row "
                "'state', or record the episodes again"
            )
        states.append(np.stack(simulation.states))
        if progress is not None:
            progress()
    simulation.close()
    return states
