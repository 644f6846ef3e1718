"""The held-out protocol: which episodes are evaluated, and success rates with their intervals."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

if TYPE_CHECKING:
    from srpo_env.libero.suites import Suite

TRAINING_STATES = range(40)
"""ids of the initial states of each task that training draws from"""
HELD_OUT_STATES = range(40, 50)
"""ids of the initial states of each task that are never trained on"""

Act = Callable[[dict[str, npt.NDArray[Any]], list[str]], npt.NDArray[np.float32]]
"""Maps observations and instructions of all environments to actions ``(num_envs, chunk, 7)``."""


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one evaluated episode."""

    task_id: int
    init_state_id: int
    success: bool
    control_steps: int


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation, sorted by task and initial state."""

    episodes: tuple[EpisodeResult, ...]

    @classmethod
    def of(cls, episodes: Iterable[EpisodeResult]) -> Evaluation:
        """Sorts the results of an evaluation."""
        return cls(tuple(sorted(episodes, key=lambda r: (r.task_id, r.init_state_id))))

    @property
    def num_successes(self) -> int:
        """Number of successful episodes."""
        return sum(episode.success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        """Fraction of successful episodes, in [0, 1]."""
        return self.num_successes / len(self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95% interval of the success rate."""
        return wilson_interval(self.num_successes, len(self.episodes))

    def by_task(self) -> dict[int, Evaluation]:
        """Returns the evaluation of each task."""
        tasks: dict[int, list[EpisodeResult]] = defaultdict(list)
        for episode in self.episodes:
            tasks[episode.task_id].append(episode)
        return {task_id: Evaluation(tuple(episodes)) for task_id, episodes in tasks.items()}

    def counts_by_task(self) -> str:
        """Returns successes and episodes of each task, as in ``1/2 0/2``."""
        parts = self.by_task().values()
        return " ".join(f"{part.num_successes}/{len(part.episodes)}" for part in parts)

    def __str__(self) -> str:
        """Returns success rate, interval and number of episodes, as in ``50% [24%, 76%] of 10``."""
        low, high = self.interval
        return f"{self.success_rate:.0%} [{low:.0%}, {high:.0%}] of {len(self.episodes)}"


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Computes the Wilson 95% interval of a success rate.

    Examples:
        >>> tuple(round(bound, 3) for bound in wilson_interval(9, 10))
        (0.596, 0.982)
    """
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def check_initial_states(suite: Suite) -> None:
    """Checks that the tasks of a user's suite have the initial states that are used.

    Raises:
        ValueError: If a task stores fewer.
    """
    needed = HELD_OUT_STATES.stop
    for task in suite.tasks:
        if task.num_init_states < needed:
            raise ValueError(
                f"training uses initial states 0-{TRAINING_STATES[-1]} and evaluation "
                f"{HELD_OUT_STATES[0]}-{HELD_OUT_STATES[-1]}, and {task.init_states_file} has "
                f"{task.num_init_states}: store {needed}, or none, so that they are sampled"
            )


def held_out_episodes(num_tasks: int, num_episodes: int) -> list[tuple[int, int]]:
    """Returns pairs of task and held-out initial state, spread evenly over the tasks.

    All tasks come with state 40 first, then with 41, and so on.

    Raises:
        ValueError: If there are fewer than ``num_episodes`` of them, or it is below 1.
    """
    pairs = [(task, state) for state in HELD_OUT_STATES for task in range(num_tasks)]
    if not 1 <= num_episodes <= len(pairs):
        raise ValueError(
            f"the number of held-out episodes must be in 1..{len(pairs)}, got {num_episodes}"
        )
    return pairs[:num_episodes]


def evaluate(
    act: Act,
    envs: Any,
    episodes: Iterable[tuple[int, int]],
    on_step: Callable[[int], None] | None = None,
    perturbations: Mapping[tuple[int, int], Any] | None = None,
    seed: int | None = None,
) -> Evaluation:
    """Runs each of ``episodes`` once.

    Args:
        act: The policy.
        envs: Vector environment of LIBERO tasks with autoreset disabled; it must be reset before
            it is used for anything else.
        episodes: Pairs of task and initial state.
        on_step: Called after each step with the number of episodes that have ended, for a
            progress bar.
        perturbations: The perturbation of each episode, as `LiberoVectorEnv.reset` takes it;
            default: that of the environment.
        seed: Random seed of the environments, which draw with it what the episodes leave open, such
            as where fixtures stand; default: their generators go on.
    """
    queue = deque(episodes)
    results: list[EpisodeResult] = []
    num_envs: int = envs.num_envs
    # An environment that finds the queue empty waits with pending None; its steps do not count.
    pending: list[tuple[int, int] | None] = [None] * num_envs
    idle = np.ones(num_envs, dtype=bool)
    first = True
    instructions = [""] * num_envs
    observations: dict[str, npt.NDArray[Any]] = {}
    while queue or any(pending):
        mask = idle & (np.cumsum(idle) <= len(queue))
        if first:
            mask[:] = True  # every environment must be reset once, even without an episode
        if mask.any():
            ids = np.zeros((2, num_envs), dtype=int)
            for slot in np.flatnonzero(mask):
                pending[slot] = queue.popleft() if queue else None
                ids[:, slot] = pending[slot] or (0, HELD_OUT_STATES[0])
            options: dict[str, Any]
            options = {"reset_mask": mask, "task_id": ids[0], "init_state_id": ids[1]}
            if perturbations is not None:
                options["perturbation"] = [
                    None if pair is None else perturbations[pair] for pair in pending
                ]
            observations, infos = envs.reset(seed=seed if first else None, options=options)
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
                results.append(EpisodeResult(*pair, success=success, control_steps=steps))
        if on_step is not None:
            on_step(len(results))
    return Evaluation.of(results)
