"""Shaped rewards on their way into a rollout buffer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from srpo_env.types import Group

KEPT_PAYMENTS = 2**16
"""Failures whose rewards are kept for `Payments.write`; loops that pop groups never fetch them."""


class RewardBuffer(Protocol):
    """A NumPy array or torch tensor of shape ``(num_steps, num_envs)``."""

    @property
    def shape(self) -> Any:
        """Its ``(num_steps, num_envs)``."""
        ...

    @property
    def dtype(self) -> Any:
        """A floating point type."""
        ...

    def __len__(self) -> int:
        """Its ``num_steps``."""
        ...

    def __setitem__(self, index: tuple[int, int], value: float) -> None:
        """Sets one reward."""


class Payments:
    """What failed episodes are owed, at which step and in which environment."""

    def __init__(self, num_envs: int) -> None:
        """Starts empty."""
        self.num_envs = num_envs
        self.owed: deque[tuple[int, int, float]] = deque(maxlen=KEPT_PAYMENTS)
        """``(last_step, env_index, reward)`` of failures"""
        self.forgotten_step = -1
        """latest last step among those that are no longer kept"""

    def add(self, groups: Iterable[Group]) -> None:
        """Takes the shaped rewards of closed groups."""
        for group in groups:
            for episode in group.episodes:
                if episode.success or math.isnan(episode.distance):
                    continue
                if len(self.owed) == KEPT_PAYMENTS:
                    self.forgotten_step = max(self.forgotten_step, self.owed[0][0])
                # On top of what the environment paid, which is 0 where only successes pay.
                reward = episode.last_env_reward + episode.progress_reward
                self.owed.append((episode.last_step, episode.env_index, reward))

    def checked_length(self, rewards: RewardBuffer) -> int:
        """Number of steps in a buffer that fits the environments.

        Raises:
            ValueError: If it does not.
        """
        shape = tuple(getattr(rewards, "shape", ()))
        if len(shape) != 2 or shape[1] != self.num_envs:
            raise ValueError(
                f"`rewards` must be an array of shape (num_steps, {self.num_envs}), got "
                f"{type(rewards).__name__} of shape {shape}; it is written in place, so a view "
                "such as `rewards.T` or `rewards[..., 0]` will do"
            )
        # In whole numbers every shaped reward would become 0, silently.
        if "float" not in str(rewards.dtype):
            raise ValueError(f"`rewards` must be of a floating point type, got {rewards.dtype}")
        return int(shape[0])

    def check_steps(self, first_step: int, num_steps: int, step_count: int) -> None:
        """Checks which steps are to be paid, before anything is changed.

        Raises:
            ValueError: If some were never made, or their rewards are no longer kept.
        """
        if first_step < 0 or first_step + num_steps > step_count:
            raise ValueError(
                f"`rewards` holds steps {first_step} to {first_step + num_steps - 1}, but the "
                f"{step_count} steps made so far are numbered from 0; `first_step` is the value of "
                "`step_count` before the first of them"
            )
        if self.forgotten_step >= first_step:
            raise ValueError(
                f"`rewards` begins with step {first_step}, and rewards up to step "
                f"{self.forgotten_step} are no longer kept: those before the buffer of an earlier "
                f"`rewrite`, and all but the newest {KEPT_PAYMENTS}. Rewrite buffers in the order "
                "of their steps, after each rollout"
            )

    def write(self, rewards: RewardBuffer, first_step: int) -> int:
        """Sets the rewards that fall into a buffer, and drops those of earlier steps.

        Returns:
            How many were set.
        """
        dropped = [payment[0] for payment in self.owed if payment[0] < first_step]
        self.forgotten_step = max([self.forgotten_step, *dropped])
        kept = [payment for payment in self.owed if payment[0] >= first_step]
        self.owed = deque(kept, maxlen=KEPT_PAYMENTS)
        due = [payment for payment in kept if payment[0] < first_step + rewards.shape[0]]
        for step, index, reward in due:
            rewards[step - first_step, index] = reward
        return len(due)

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs."""
        return {"owed": list(self.owed), "forgotten_step": self.forgotten_step}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.owed = deque(state["owed"], maxlen=KEPT_PAYMENTS)
        self.forgotten_step = state["forgotten_step"]
