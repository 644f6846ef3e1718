"""Brings environments back into the middle of their episodes, to resume a run to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from srpo_env.training.signals import check_signals
from srpo_env.training.task_sampler import Start, reset_options
from srpo_env.types import Array


class Beginning(NamedTuple):
    """An episode up to now."""

    task_id: int
    init_state_id: int
    actions: Array
    """chunks of actions that were executed, ``(num_steps, chunk, 7)``"""
    perturbation: str = ""
    """as text, empty without one"""


def replay(envs: Any, episodes: Mapping[int, Beginning]) -> tuple[dict[str, Array], list[str]]:
    """Repeats the actions of episodes that were under way; simulators are deterministic.

    Args:
        envs: Vector environment of LIBERO tasks with autoreset disabled.
        episodes: Episodes by the number of their environment. The other environments are reset, and
            have to be reset again.

    Returns:
        Observations after the last action, and the instructions, of all environments.
    """
    lengths = np.zeros(envs.num_envs, dtype=int)
    starts: dict[int, Start] = dict.fromkeys(range(envs.num_envs), (0, 0, ""))
    for slot, episode in episodes.items():
        starts[slot] = (episode.task_id, episode.init_state_id, episode.perturbation)
        lengths[slot] = len(episode.actions)

    def reset(mask: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        chosen = {slot: starts[slot] for slot in map(int, np.flatnonzero(mask))}
        observations, infos = envs.reset(options=reset_options(chosen, envs.num_envs))
        return observations, infos

    observations, infos = reset(np.ones(envs.num_envs, dtype=bool))
    instructions = [str(task) for task in infos["task"]]
    # All environments step together, so a shorter episode is reset later, and all end together.
    longest = int(lengths.max())
    for left in range(longest, 0, -1):
        check_signals()
        starting = lengths == left
        if starting.any() and left < longest:
            reset(starting)
        actions = np.zeros(envs.action_space.shape, dtype=np.float32)
        for slot, episode in episodes.items():
            if lengths[slot] >= left:
                actions[slot] = episode.actions[lengths[slot] - left]
        observations, *_ = envs.step(actions)
    return observations, instructions
