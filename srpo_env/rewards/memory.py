"""A bounded memory of earlier episodes, to reward a failure at the very step that ends it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from srpo_env.rewards.clustering import Clustering, success_centers
from srpo_env.rewards.progress import Distance, Formula, distances_to_centers, progress_rewards
from srpo_env.types import checked_count

Latent = npt.NDArray[np.float32]


class TaskMemory:
    """The newest latents of one task: successes to compare with, failures to rank among."""

    def __init__(self, size: int) -> None:
        """Starts empty.

        Args:
            size: Successes kept, and failures kept.
        """
        self.successes: deque[Latent] = deque(maxlen=size)
        self.failures: deque[Latent] = deque(maxlen=size)
        self._clustering: Clustering | None = None

    def add_success(self, latent: Latent) -> None:
        """Takes a success; the oldest one makes room."""
        self.successes.append(latent)
        self._clustering = None

    def clustering(self) -> Clustering:
        """Centers of the successes in memory."""
        if self._clustering is None:
            self._clustering = success_centers(
                np.stack(self.successes) if self.successes else np.empty((0, 0))
            )
        return self._clustering

    def score_failure(
        self, latent: Latent, *, formula: Formula, weight: float, distance: Distance | None = None
    ) -> tuple[float, float]:
        """Rewards a failure and remembers it.

        The mean and standard deviation of Eq. 5 are taken over the failures in memory and this
        one, all measured from the centers of today.

        Returns:
            Its progress reward and distance; 0 and NaN without a success to compare with.
        """
        self.failures.append(latent)
        centers = self.clustering().centers
        if len(centers) == 0:
            return 0.0, float("nan")
        measure = distance or distances_to_centers
        distances, _ = measure(np.stack(self.failures).astype(np.float64), centers)
        rewards = progress_rewards(distances, formula=formula, weight=weight)
        return float(rewards[-1]), float(distances[-1])


class SuccessMemory:
    """One `TaskMemory` for each task that has been seen."""

    def __init__(self, size: int) -> None:
        """Starts empty.

        Args:
            size: Successes kept for each task, at least 1.
        """
        self.size = checked_count("memory_size", size)
        self.tasks: dict[Hashable, TaskMemory] = {}

    def __getitem__(self, task: Hashable) -> TaskMemory:
        """The memory of a task, empty if nothing of it was seen."""
        return self.tasks.setdefault(task, TaskMemory(self.size))
