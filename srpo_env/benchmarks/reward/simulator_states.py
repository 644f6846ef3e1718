"""What the simulator knew of recorded episodes: they are played again, and looked at from within.

A latent made from it is the ceiling of what a video can tell; no part of any reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.behaviour_recording import SUITE
from srpo_env.libero.behaviours import play
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task

Floats = npt.NDArray[np.float64]


class WatchedSimulation(Simulation):
    """Notes the state at every look of the camera, in place of an image."""

    def __init__(self, task_id: int) -> None:
        """Builds a task of libero_object."""
        super().__init__(get_task(SUITE, task_id), image_size=1)
        self.seen: list[Floats] = []

    def render(self, camera: str) -> npt.NDArray[np.uint8]:
        """Notes the state; the image is one black pixel."""
        self.seen.append(state_of(self))
        return np.zeros((1, 1, 3), np.uint8)


def state_of(simulation: Simulation) -> Floats:
    """Grip point, object to move, both seen from the basket, and the fingers' opening.

    All in metres, so that one unit serves distances between states, ``(7,)``.
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
    """Plays episodes of one task again; nothing is rendered.

    Args:
        episodes: As they were recorded.
        chunk: Control steps between two frames.
        max_steps: Control steps after which a failure was cut off.
        progress: Called after each episode.

    Returns:
        The states at the times of each episode's frames, ``(num_frames, 7)``.

    Raises:
        ValueError: If an episode goes otherwise than it did when it was recorded.
    """
    simulation = WatchedSimulation(episodes[0].task_id)
    found = []
    for episode in episodes:
        simulation.seen = []
        again = play(
            simulation,
            episode.kind,
            episode.init_state_id,
            episode.seed,
            chunk=chunk,
            max_steps=max_steps,
        )
        if not np.array_equal(again.progress, episode.progress):
            raise ValueError(
                f"an episode that is played again must go as it was recorded, and {episode.kind!r} "
                f"of task {episode.task_id} from initial state {episode.init_state_id} with seed "
                f"{episode.seed} did not: was it recorded with other assets, or by another version "
                "of srpo-env or MuJoCo? Leave out the row 'state', or record it anew"
            )
        found.append(np.stack(simulation.seen))
        if progress is not None:
            progress()
    simulation.close()
    return found
