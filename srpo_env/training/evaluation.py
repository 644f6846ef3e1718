"""The held-out protocol: which episodes are evaluated, and what a success rate comes with."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

TRAINING_STATES = range(40)
"""initial states of each task that training draws from"""
HELD_OUT_STATES = range(40, 50)
"""initial states of each task that are never trained on"""

Act = Callable[[dict[str, npt.NDArray[Any]], list[str]], npt.NDArray[np.float32]]
"""All environments' observations and instructions in, actions ``(num_envs, chunk, 7)`` out"""


@dataclass(frozen=True)
class EpisodeResult:
    """How one evaluated episode ended."""

    task_id: int
    init_state_id: int
    success: bool
    control_steps: int


@dataclass(frozen=True)
class Evaluation:
    """The episodes of an evaluation, in the order of task and initial state."""

    episodes: tuple[EpisodeResult, ...]

    @property
    def num_successes(self) -> int:
        """Number of episodes that succeeded."""
        return sum(episode.success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        """Fraction of episodes that succeeded, in [0, 1]."""
        return self.num_successes / len(self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95% interval of the success rate."""
        return wilson_interval(self.num_successes, len(self.episodes))

    def by_task(self) -> dict[int, Evaluation]:
        """The episodes of each task."""
        tasks: dict[int, list[EpisodeResult]] = defaultdict(list)
        for episode in self.episodes:
            tasks[episode.task_id].append(episode)
        return {task_id: Evaluation(tuple(episodes)) for task_id, episodes in tasks.items()}

    def __str__(self) -> str:
        """Success rate, interval and number of episodes, as in ``50% [24%, 76%] of 10``."""
        low, high = self.interval
        return f"{self.success_rate:.0%} [{low:.0%}, {high:.0%}] of {len(self.episodes)}"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson 95% interval of a success rate.

    Examples:
        >>> tuple(round(bound, 3) for bound in wilson_interval(9, 10))
        (0.596, 0.982)
    """
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def held_out_episodes(num_tasks: int, num_episodes: int) -> list[tuple[int, int]]:
    """Tasks and held-out initial states, spread evenly: all tasks with state 40 first, then 41, ...

    Raises:
        ValueError: If there are not so many.
    """
    pairs = [(task, state) for state in HELD_OUT_STATES for task in range(num_tasks)]
    if not 1 <= num_episodes <= len(pairs):
        raise ValueError(
            f"there are {len(pairs)} held-out episodes, and {num_episodes} were asked for"
        )
    return pairs[:num_episodes]


def evaluate(
    act: Act,
    envs: Any,
    episodes: Iterable[tuple[int, int]],
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> Evaluation:
    """Runs each of ``episodes``, pairs of task and initial state, once.

    Args:
        act: The policy.
        envs: A vector environment of LIBERO tasks with autoreset disabled; to be reset afterwards.
        episodes: What to run.
        on_episode: Called at each episode's end, for a progress bar.
    """
    queue = deque(episodes)
    results: list[EpisodeResult] = []
    num_envs: int = envs.num_envs
    # Environments that find the queue empty wait: their episode has ended, or never counts.
    pending: list[tuple[int, int] | None] = [None] * num_envs
    idle = np.ones(num_envs, dtype=bool)
    first = True
    instructions = [""] * num_envs
    observations: dict[str, npt.NDArray[Any]] = {}
    while queue or any(pending):
        mask = idle & (np.cumsum(idle) <= len(queue))
        if first:
            mask[:] = True  # all have to be reset once, be there an episode for them or not
        if mask.any():
            ids = np.zeros((2, num_envs), dtype=int)
            for slot in np.flatnonzero(mask):
                pending[slot] = queue.popleft() if queue else None
                ids[:, slot] = pending[slot] or (0, HELD_OUT_STATES[0])
            options = {"reset_mask": mask, "task_id": ids[0], "init_state_id": ids[1]}
            observations, infos = envs.reset(options=options)
            for slot in np.flatnonzero(mask):
                instructions[slot] = infos["task"][slot]
            first = False
        observations, _, terminations, truncations, infos = envs.step(
            act(observations, instructions)
        )
        idle = terminations | truncations
        for slot in np.flatnonzero(idle):
            pair, pending[slot] = pending[slot], None
            if pair is not None:
                success, steps = bool(infos["is_success"][slot]), int(infos["control_steps"][slot])
                result = EpisodeResult(*pair, success=success, control_steps=steps)
                results.append(result)
                if on_episode is not None:
                    on_episode(result)
    return Evaluation(tuple(sorted(results, key=lambda r: (r.task_id, r.init_state_id))))
