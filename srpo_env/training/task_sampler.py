"""Which tasks, initial states and perturbations are trained on next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from srpo_env.libero.perturbations import DIMENSIONS, LEVELS, as_text
from srpo_env.libero.perturbations.base import MAX_DRAW
from srpo_env.types import Array, Group

Start = tuple[int, int, str]
"""Task, initial state, and perturbation as `as_text` returns it, empty without one."""


def dimensions_of(perturb: str) -> tuple[str, ...]:
    """Reads ``--perturb``: all, or dimensions with commas between them; empty for none.

    Raises:
        ValueError: If there is no such dimension.
    """
    names = [name.strip() for name in perturb.split(",")] if perturb else []
    if names == ["all"]:
        return tuple(DIMENSIONS)
    for name in names:
        if name not in DIMENSIONS:
            raise ValueError(
                f"--perturb must be all or some of {', '.join(DIMENSIONS)}, got {name!r}"
            )
    return tuple(dict.fromkeys(names))


class TaskSampler:
    """Samples the tasks whose groups are likely to contain both successes and failures."""

    def __init__(self, num_tasks: int, states: range, seed: int, perturb: str = "") -> None:
        """Initialises every task's success rate to 1/2.

        Args:
            num_tasks: Number of tasks.
            states: Initial states to draw from.
            seed: Random seed.
            perturb: Dimensions of perturbations, see `dimensions_of`. Each start has one of them,
                or none, with equal probability, at a level that is drawn too.
        """
        self.num_tasks, self.states, self.perturb = num_tasks, states, dimensions_of(perturb)
        self.rng = np.random.default_rng(seed)
        self.success_rates = [0.5] * num_tasks  # moving averages

    def sample(self) -> Start:
        """Samples a task, an initial state and a perturbation."""
        rates = np.array(self.success_rates)
        # Variance of the outcomes, p (1 - p), plus more weight for tasks that rarely succeed: a few
        # of their groups hold the first success. Solved tasks are still sampled from time to time.
        weights = np.maximum((1 - rates) * (rates + 0.1), 0.02)
        task = self.rng.choice(self.num_tasks, p=weights / weights.sum())
        return int(task), int(self.rng.choice(self.states)), self._perturbation()

    def _perturbation(self) -> str:
        if not self.perturb:
            return ""  # and no random number: runs without perturbations stay as they were
        dimension = [*self.perturb, None][int(self.rng.integers(len(self.perturb) + 1))]
        level, draw = int(self.rng.choice(LEVELS)), int(self.rng.integers(MAX_DRAW))
        return as_text((DIMENSIONS[dimension].from_level(level, draw),)) if dimension else ""

    def update(self, group: Group) -> None:
        """Updates the success rate of a group's task."""
        assert isinstance(group.key, tuple)  # of the task and the initial state
        task_id = int(group.key[0])
        rate = group.num_successes / len(group.episodes)
        self.success_rates[task_id] += 0.2 * (rate - self.success_rates[task_id])


def reset_options(starts: Mapping[int, Start], num_envs: int) -> dict[str, Any]:
    """Returns the options of a vector environment's ``reset`` that start these episodes.

    Args:
        starts: What to start, by the number of the environment.
        num_envs: Number of environments.
    """
    mask = np.zeros(num_envs, dtype=bool)
    ids: Array = np.zeros((2, num_envs), dtype=int)
    perturbations = [""] * num_envs
    for slot, (task_id, init_state_id, perturbation) in starts.items():
        mask[slot], ids[:, slot] = True, (task_id, init_state_id)
        perturbations[slot] = perturbation
    options: dict[str, Any] = {"reset_mask": mask, "task_id": ids[0], "init_state_id": ids[1]}
    # Other environments than LIBERO's have no such option.
    return {**options, "perturbation": perturbations} if any(perturbations) else options
