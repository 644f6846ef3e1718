"""Writes shaped rewards into a rollout buffer, after checking the rewards that it holds."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np

from srpo_env.types import Group

MAX_ENDS = 2**16
"""Maximum number of ended episodes kept for `write`, which loops with `pop_groups` never call."""

SUCCESS_TOLERANCE = 1e-6
"""Tolerance, for rounding, when the return of a failure is compared with that of a success."""

PAY_ONE = (
    "The environment must pay 1 for success and 0 otherwise: wrap it with "
    "gymnasium.wrappers.TransformReward, scale rewards only after `rewrite`, or train on "
    "`Group.rewards` (from `pop_groups`), in which a success is always 1"
)
"""Last part of the error messages about an environment that pays too little for a success."""


class RewardBuffer(Protocol):
    """A NumPy array or torch tensor of shape ``(num_steps, num_envs)``."""

    @property
    def shape(self) -> Any:
        """Shape ``(num_steps, num_envs)``."""
        ...

    @property
    def dtype(self) -> Any:
        """A floating point type."""
        ...

    def __len__(self) -> int:
        """Returns ``num_steps``."""
        ...

    def __getitem__(self, index: tuple[int, int]) -> Any:
        """Returns one reward."""
        ...

    def __setitem__(self, index: tuple[int, int], value: Any) -> None:
        """Sets one reward."""
        ...


@dataclass(frozen=True)
class EndedEpisode:
    """The cell of a rollout buffer in which an episode ended."""

    step: int
    """Number of the episode's last step."""
    env_index: int
    """Index of its sub-environment."""
    episode_id: int
    success: bool
    group: int
    """Number of its group, counting the groups as they close."""
    env_return: float
    """Sum of the environment's own rewards."""
    env_reward: float
    """The environment's own reward of that step, which the cell must hold."""
    progress_reward: float
    """Reward to add to it; 0 for successes and for failures that were not compared."""


class WriterState(TypedDict):
    """What `RewardWriter.state` returns."""

    ends: list[EndedEpisode]
    forgotten_step: int
    num_groups: int


class RewardWriter:
    """Keeps the rewards of ended episodes until they are written into a buffer."""

    def __init__(self, num_envs: int) -> None:
        """Initialises an empty writer."""
        self.num_envs = num_envs
        self.ends: deque[EndedEpisode] = deque(maxlen=MAX_ENDS)
        self.forgotten_step = -1
        """Last step of the latest failure that is no longer kept; -1 if all are kept."""
        self._num_groups = 0

    def add(self, groups: Iterable[Group]) -> None:
        """Adds the episodes of closed groups."""
        for group in groups:
            self._num_groups += 1
            for episode in group.episodes:
                if len(self.ends) == MAX_ENDS:
                    self._forget(self.ends[0])
                paid = not episode.success and not math.isnan(episode.distance)
                self.ends.append(
                    EndedEpisode(
                        step=episode.last_step,
                        env_index=episode.env_index,
                        episode_id=episode.episode_id,
                        success=episode.success,
                        group=self._num_groups,
                        env_return=episode.env_return,
                        env_reward=episode.last_env_reward,
                        progress_reward=episode.progress_reward if paid else 0.0,
                    )
                )

    def checked_length(self, rewards: RewardBuffer) -> int:
        """Returns the number of steps in a buffer that fits the environments.

        Raises:
            ValueError: If it does not fit.
        """
        shape = tuple(getattr(rewards, "shape", ()))
        if len(shape) != 2 or shape[1] != self.num_envs:
            raise ValueError(
                f"`rewards` must be an array of shape (num_steps, {self.num_envs}), got "
                f"{type(rewards).__name__} of shape {shape}; it is written in place, so a view "
                "such as `rewards.T` or `rewards[..., 0]` works"
            )
        # In an integer buffer every shaped reward would be rounded to 0.
        if "float" not in str(rewards.dtype):
            raise ValueError(f"`rewards` must be of a floating point type, got {rewards.dtype}")
        return int(shape[0])

    def check_steps(self, first_step: int, num_steps: int, step_count: int) -> None:
        """Checks that the rewards of all steps in a buffer are kept.

        Raises:
            ValueError: If a step has not been made yet, or its rewards are no longer kept.
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
                f"`rewrite`, and all but the newest {MAX_ENDS}. Rewrite buffers in the order "
                "of their steps, after each rollout"
            )

    def write(self, rewards: RewardBuffer, first_step: int) -> int:
        """Adds the progress rewards of a buffer's steps to it, and drops those of earlier steps.

        A cell that holds the sum already, as in a second call, is not changed.

        Returns:
            Number of failures that were paid.

        Raises:
            ValueError: If a cell in which an episode ended does not hold the environment's own
                reward, or a failure would earn more than a success of its group. Then nothing is
                written.
        """
        last_step = first_step + rewards.shape[0]
        due = [end for end in self.ends if first_step <= end.step < last_step]
        self._check_success_pays_most({end.group for end in due})
        tolerance = _resolution(rewards.dtype)
        paid = 0
        additions: list[tuple[tuple[int, int], float]] = []
        for end in due:
            cell = end.step - first_step, end.env_index
            found, total = float(rewards[cell]), end.env_reward + end.progress_reward
            paid += end.progress_reward > 0
            if math.isclose(found, total, rel_tol=tolerance, abs_tol=tolerance):
                continue
            if not math.isclose(found, end.env_reward, rel_tol=tolerance, abs_tol=tolerance):
                raise ValueError(_mismatch(cell, found, end))
            additions.append((cell, total))
        for cell, total in additions:
            rewards[cell] = total
        for end in self.ends:
            if end.step < first_step:
                self._forget(end)
        self.ends = deque((end for end in self.ends if end.step >= first_step), maxlen=MAX_ENDS)
        return paid

    def state(self) -> WriterState:
        """Returns everything that `load` needs."""
        return {
            "ends": list(self.ends),
            "forgotten_step": self.forgotten_step,
            "num_groups": self._num_groups,
        }

    def load(self, state: WriterState) -> None:
        """Restores what `state` returned."""
        self.ends = deque(state["ends"], maxlen=MAX_ENDS)
        self.forgotten_step = state["forgotten_step"]
        self._num_groups = state["num_groups"]

    def _check_success_pays_most(self, groups: set[int]) -> None:
        members: dict[int, list[EndedEpisode]] = {group: [] for group in groups}
        for end in self.ends:
            if end.group in groups:
                members[end.group].append(end)
        for ends in members.values():
            successes = [end for end in ends if end.success]
            failures = [end for end in ends if end.progress_reward > 0]
            if not successes or not failures:
                continue
            worst = min(successes, key=lambda end: end.env_return)
            best = max(failures, key=lambda end: end.env_return + end.progress_reward)
            shaped = best.env_return + best.progress_reward
            if shaped > worst.env_return + SUCCESS_TOLERANCE:
                raise ValueError(
                    f"A failure must not earn more than a success, but episode {best.episode_id} "
                    f"failed and would return {shaped:.3g} ({best.env_return:.3g} from the "
                    f"environment and {best.progress_reward:.3g} for its progress), and episode "
                    f"{worst.episode_id} succeeded and returned {worst.env_return:.3g}. {PAY_ONE}"
                )

    def _forget(self, end: EndedEpisode) -> None:
        if end.progress_reward > 0:
            self.forgotten_step = max(self.forgotten_step, end.step)


def _resolution(dtype: Any) -> float:
    """Returns a tolerance for comparing rewards that were rounded to a floating point type."""
    if isinstance(dtype, np.dtype):
        return 4 * float(np.finfo(dtype).eps)
    torch = sys.modules.get("torch")
    return 4 * float(torch.finfo(dtype).eps) if torch is not None else 1e-2


def _mismatch(cell: tuple[int, int], found: float, end: EndedEpisode) -> str:
    kind = "succeeded" if end.success else "failed"
    return (
        f"`rewards`[{cell[0]}, {cell[1]}] must hold the reward {end.env_reward:g} that `step` "
        f"returned when episode {end.episode_id} {kind}, got {found:g}; nothing was written. "
        "Likely causes: a wrapper outside of SelfReferentialProgressWrapper scales or shifts "
        "rewards (put it inside, or scale after `rewrite`); a bonus or a bootstrapped value was "
        "added to the buffer (add it after `rewrite`); the buffer is transposed; or steps were "
        "made that are not in the buffer (pass `first_step`)"
    )
