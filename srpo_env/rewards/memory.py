"""A bounded memory of earlier episodes, with which `step` rewards a failure at its last step."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from srpo_env.types import Bools, Latent, checked_count


class SuccessMemory:
    """Holds the newest latents of each task: successes to compare with, failures to rank among."""

    def __init__(self, size: int) -> None:
        """Initialises an empty memory.

        Args:
            size: Number of successes, and of failures, that are kept for each task.

        Raises:
            ValueError: If ``size`` is not a positive integer.
        """
        self.size = checked_count("memory_size", size)
        self.tasks: dict[Hashable, tuple[list[Latent], list[Latent]]] = {}
        """Successes and failures of each task, the newest last."""

    def add(self, task: Hashable, latents: list[Latent], successes: list[bool]) -> None:
        """Adds episodes of a task; the oldest ones are dropped."""
        known = self.tasks.setdefault(task, ([], []))
        for kept, new in zip(known, _split(latents, successes), strict=True):
            kept.extend(new)
            del kept[: -self.size]

    def with_new(
        self, task: Hashable, latents: list[Latent], successes: list[bool]
    ) -> tuple[Latent, Bools]:
        """Returns the kept and the new episodes of a task, and changes nothing.

        All new episodes are returned, even if they are more than the memory keeps.

        Args:
            task: Task of the new episodes.
            latents: Their latents, at least one.
            successes: Whether each of them succeeded.

        Returns:
            Latents, shape ``(num_episodes, *latent_shape)``, and whether each episode succeeded.
            The new ones are last, in their order.
        """
        old = self.tasks.get(task, ([], []))
        kept: list[Latent] = []
        kept_successes: list[bool] = []
        for known, new, success in zip(old, _split(latents, successes), (True, False), strict=True):
            kept_known = known[len(known) - max(0, min(len(known), self.size - len(new))) :]
            kept += kept_known
            kept_successes += [success] * len(kept_known)
        return np.stack([*kept, *latents]), np.array([*kept_successes, *successes])

    def successes(self, task: Hashable) -> list[Latent]:
        """Returns the successes of a task, the newest last."""
        return self.tasks.get(task, ([], []))[0]


def _split(latents: list[Latent], successes: list[bool]) -> tuple[list[Latent], list[Latent]]:
    pairs = list(zip(latents, successes, strict=True))
    return [x for x, success in pairs if success], [x for x, success in pairs if not success]
