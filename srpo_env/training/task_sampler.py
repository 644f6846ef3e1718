"""Which tasks and initial states are trained on next."""

from __future__ import annotations

import numpy as np

from srpo_env.types import Group


class TaskSampler:
    """Samples the tasks whose groups are likely to contain both successes and failures."""

    def __init__(self, num_tasks: int, states: range, seed: int) -> None:
        """Initialises every task's success rate to 1/2."""
        self.num_tasks, self.states = num_tasks, states
        self.rng = np.random.default_rng(seed)
        self.success_rates = [0.5] * num_tasks  # moving averages

    def sample(self) -> tuple[int, int]:
        """Samples a task and an initial state."""
        rates = np.array(self.success_rates)
        # Variance of the outcomes, p (1 - p), plus more weight for tasks that rarely succeed: a few
        # of their groups hold the first success. Solved tasks are still sampled from time to time.
        weights = np.maximum((1 - rates) * (rates + 0.1), 0.02)
        task = self.rng.choice(self.num_tasks, p=weights / weights.sum())
        return int(task), int(self.rng.choice(self.states))

    def update(self, group: Group) -> None:
        """Updates the success rate of a group's task."""
        assert isinstance(group.key, tuple)  # of the task and the initial state
        task_id = int(group.key[0])
        rate = group.num_successes / len(group.episodes)
        self.success_rates[task_id] += 0.2 * (rate - self.success_rates[task_id])
