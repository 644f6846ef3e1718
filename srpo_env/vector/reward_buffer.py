"""Writes shaped rewards into a rollout buffer, after checking the rewards that it holds."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from srpo_env.types import Credit, Floats, Group, Ints, step_shares

MAX_ENDS = 2**16
"""Maximum number of ended episodes kept for `write`, which loops with `pop_groups` never call."""

MAX_STEPS = 2**22
"""Maximum number of steps of these episodes: 32 MB."""

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


@dataclass(frozen=True, eq=False)
class StepRecord:
    """The steps of an ended episode: what they were paid, and what progress they made."""

    env_rewards: Floats
    """The environment's own reward of each step, shape ``(length,)``."""
    potential: Floats
    """Progress potential, shape ``(num_times,)``; empty if the latent is a point."""
    potential_steps: Ints
    """Number of steps before each value of the potential; same shape."""


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
    record: StepRecord | None = None
    """What dense credit needs; always there, except in `WriterState`."""


class WriterState(TypedDict):
    """What `RewardWriter.state` returns.

    The arrays of all episodes are joined: each array would be a file of its own in the archive.
    """

    ends: list[EndedEpisode]
    """Without `EndedEpisode.record`."""
    num_steps: Ints
    """Number of steps of each of these episodes."""
    num_times: Ints
    """Number of values of the potential of each."""
    env_rewards: Floats
    potentials: Floats
    potential_steps: Ints
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
        self._num_steps = 0
        """Number of steps of the episodes that are kept."""

    def add(self, groups: Iterable[Group]) -> None:
        """Adds the episodes of closed groups."""
        for group in groups:
            self._num_groups += 1
            for episode in group.episodes:
                if len(self.ends) == MAX_ENDS:
                    self._forget(self.ends.popleft())
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
                        record=StepRecord(
                            episode.env_rewards, episode.potential, episode.potential_steps
                        ),
                    )
                )
                self._num_steps += len(episode.env_rewards)
            while self._num_steps > MAX_STEPS and len(self.ends) > 1:
                self._forget(self.ends.popleft())

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

    def write(
        self,
        rewards: RewardBuffer,
        first_step: int,
        credit: Credit = "episode",
        *,
        paid_in_step: bool = False,
    ) -> int:
        """Adds the progress rewards of a buffer's steps to it, and drops those of earlier steps.

        A cell that holds the sum already, as in a second call, is not changed.

        Args:
            rewards: The buffer.
            first_step: Number of the step in row 0.
            credit: ``"episode"`` changes the cells in which episodes ended, ``"dense"`` all cells
                of these episodes (`dense_additions`).
            paid_in_step: Whether `step` returned the progress rewards, as with the memory
                reference.

        Returns:
            Number of failures that were paid.

        Raises:
            ValueError: If a cell does not hold the reward that `step` returned, or a failure would
                earn more than a success of its group. Then nothing is written.
        """
        last_step = first_step + rewards.shape[0]
        due = [end for end in self.ends if first_step <= end.step < last_step]
        self._check_success_pays_most({end.group for end in due})
        tolerance = _resolution(rewards.dtype)
        changes: list[tuple[tuple[int, int], float]] = []
        for end in due:
            if credit == "dense":
                changes += _dense_changes(rewards, first_step, end, tolerance, paid_in_step)
                continue
            cell = end.step - first_step, end.env_index
            found, total = float(rewards[cell]), end.env_reward + end.progress_reward
            _check_not_dense(rewards, first_step, end, tolerance)
            if math.isclose(found, total, rel_tol=tolerance, abs_tol=tolerance):
                continue
            if not math.isclose(found, end.env_reward, rel_tol=tolerance, abs_tol=tolerance):
                raise ValueError(_mismatch(cell, found, end.env_reward, end))
            changes.append((cell, total))
        for cell, total in changes:
            rewards[cell] = total
        for end in self.ends:
            if end.step < first_step:
                self._forget(end)
        self.ends = deque((end for end in self.ends if end.step >= first_step), maxlen=MAX_ENDS)
        return sum(end.progress_reward > 0 for end in due)

    def state(self) -> WriterState:
        """Returns everything that `load` needs."""
        records = [_record_of(end) for end in self.ends]
        return {
            "ends": [replace(end, record=None) for end in self.ends],
            "num_steps": np.array([len(record.env_rewards) for record in records], np.int64),
            "num_times": np.array([len(record.potential) for record in records], np.int64),
            "env_rewards": np.concatenate(
                [np.empty(0), *(record.env_rewards for record in records)]
            ),
            "potentials": np.concatenate([np.empty(0), *(record.potential for record in records)]),
            "potential_steps": np.concatenate(
                [np.empty(0, np.int64), *(record.potential_steps for record in records)]
            ),
            "forgotten_step": self.forgotten_step,
            "num_groups": self._num_groups,
        }

    def load(self, state: WriterState) -> None:
        """Restores what `state` returned; changes nothing if it raises an error.

        Raises:
            ValueError: If the parts do not belong together.
        """
        count = len(state["ends"])
        parts = [
            _split(state["env_rewards"], state["num_steps"], count),
            _split(state["potentials"], state["num_times"], count),
            _split(state["potential_steps"], state["num_times"], count),
        ]
        ends = [
            replace(end, record=StepRecord(*arrays))
            for end, *arrays in zip(state["ends"], *parts, strict=True)
        ]
        if any(not 0 < len(_record_of(end).env_rewards) <= end.step + 1 for end in ends):
            raise ValueError("its rewards do not fit its steps")
        self.ends = deque(ends, maxlen=MAX_ENDS)
        self._num_steps = int(state["num_steps"].sum())
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
        self._num_steps -= len(_record_of(end).env_rewards)
        if end.progress_reward > 0:
            self.forgotten_step = max(self.forgotten_step, end.step)


# --- Dense credit ---


def dense_additions(end: EndedEpisode, first_step: int) -> Floats:
    """Computes what dense credit adds to the environment's rewards of an episode's steps.

    A failure's progress reward, and what the last step of a success was paid, are paid along the
    way. What the steps before the buffer have earned is paid on the first step in the buffer: that
    of an earlier buffer cannot be changed any more, and from this step on, the sum is again the
    one that the potential demands.

    Args:
        end: The episode.
        first_step: Number of the step in row 0 of the buffer, at most that of the episode's end.

    Returns:
        Shape ``(length,)``; 0 before the buffer.
    """
    record = _record_of(end)
    # A success that was paid before its last step (success="once") has nothing to move.
    moved = max(end.env_reward, 0.0) if end.success else 0.0
    shares = step_shares(record.potential, record.potential_steps, len(record.env_rewards))
    additions: Floats = (moved + end.progress_reward) * shares
    before = max(0, first_step - _first_step(end))
    additions[before] += additions[:before].sum()
    additions[:before] = 0.0
    additions[-1] -= moved
    return additions


def _dense_changes(
    rewards: RewardBuffer, first_step: int, end: EndedEpisode, tolerance: float, paid_in_step: bool
) -> list[tuple[tuple[int, int], float]]:
    """Returns the cells of an episode and what they must hold, after checking what they hold."""
    additions, env_rewards = dense_additions(end, first_step), _record_of(end).env_rewards
    returned = env_rewards.copy()
    if paid_in_step:
        returned[-1] += end.progress_reward
    changes = []
    for index in range(max(0, first_step - _first_step(end)), len(additions)):
        cell = _first_step(end) + index - first_step, end.env_index
        found, total = float(rewards[cell]), float(env_rewards[index] + additions[index])
        if not any(
            math.isclose(found, value, rel_tol=tolerance, abs_tol=tolerance)
            for value in (returned[index], total)
        ):
            raise ValueError(_mismatch(cell, found, float(returned[index]), end))
        changes.append((cell, total))
    return changes


def _check_not_dense(
    rewards: RewardBuffer, first_step: int, end: EndedEpisode, tolerance: float
) -> None:
    """Raises ValueError if dense credit was written: its last cell can hold what `step` returned.

    Other cells than the last may hold anything, such as a bonus.
    """
    record = _record_of(end)
    if not len(record.potential) or not (end.success or end.progress_reward > 0):
        return
    additions = dense_additions(end, first_step)
    for index in np.flatnonzero(additions[:-1]):
        cell = _first_step(end) + int(index) - first_step, end.env_index
        total = float(record.env_rewards[index] + additions[index])
        # The tolerance must not hide a small addition, as of 100 steps in half precision.
        near = tolerance * max(abs(total), abs(float(additions[index])))
        if abs(float(rewards[cell]) - total) > near or abs(additions[index]) <= near:
            return
        raise ValueError(
            f"`rewards`[{cell[0]}, {cell[1]}] must hold the reward "
            f"{float(record.env_rewards[index]):g} that `step` returned, got {total:g}: the buffer "
            'was rewritten with credit="dense" before. Rewrite it once, or a copy of it'
        )


def _first_step(end: EndedEpisode) -> int:
    return end.step + 1 - len(_record_of(end).env_rewards)


def _record_of(end: EndedEpisode) -> StepRecord:
    assert end.record is not None
    return end.record


def _split(values: npt.NDArray[Any], counts: Ints, num_parts: int) -> list[npt.NDArray[Any]]:
    if counts.shape != (num_parts,) or (counts < 0).any() or values.shape != (counts.sum(),):
        raise ValueError("its rewards do not belong to its episodes")
    return [part.copy() for part in np.split(values, np.cumsum(counts)[:-1])] if num_parts else []


# --- Checks ---


def _resolution(dtype: Any) -> float:
    """Returns a tolerance for comparing rewards that were rounded to a floating point type."""
    if isinstance(dtype, np.dtype):
        return 4 * float(np.finfo(dtype).eps)
    torch = sys.modules.get("torch")
    return 4 * float(torch.finfo(dtype).eps) if torch is not None else 1e-2


def _mismatch(cell: tuple[int, int], found: float, expected: float, end: EndedEpisode) -> str:
    kind = "succeeded" if end.success else "failed"
    when = f"when episode {end.episode_id} {kind}"
    return (
        f"`rewards`[{cell[0]}, {cell[1]}] must hold the reward {expected:g} that `step` "
        f"returned {when}, got {found:g}; nothing was written. "
        "Likely causes: a wrapper outside of SelfReferentialProgressWrapper scales or shifts "
        "rewards (put it inside, or scale after `rewrite`); a bonus or a bootstrapped value was "
        "added to the buffer (add it after `rewrite`); the buffer is transposed; or steps were "
        "made that are not in the buffer (pass `first_step`)"
    )
