"""Stable-Baselines3's replay buffers: adds the progress rewards after the transitions were stored.

```python
venv = wrap_vec_env(make_vec_env(...), encoder, group_size=32)
SAC("MlpPolicy", venv).learn(100_000, callback=ShapedReplayRewards())
```

A failure's reward is known only when its group is closed, many steps after its last transition was
stored. The callback finds that transition and adds the reward there. For SAC, TD3, DDPG
and DQN; algorithms with a rollout buffer need `ShapedRewards` of `adapters.stable_baselines3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from srpo_env.adapters.stable_baselines3 import GymnasiumToVecEnv
from srpo_env.rewards.diagnostics import group_statistics
from srpo_env.types import Credit, Episode, Floats, Group, Ints, checked_credit
from srpo_env.vector.reward_buffer import RewardWriter

# Imported after the adapter, whose error names the command that installs Stable-Baselines3.
from stable_baselines3.common.buffers import ReplayBuffer  # isort: skip
from stable_baselines3.common.callbacks import BaseCallback  # isort: skip
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer  # isort: skip


class ShapedReplayRewards(BaseCallback):
    """Adds the progress rewards of closed groups to the replay buffer.

    A failure's reward is added to the transition that ended its episode, if the buffer still holds
    it: overwritten transitions are counted in `num_missed`. Before anything is added, the
    transitions of all episodes of the group are compared with what the wrapper returned.

    **Time limits.** A failure that is paid becomes a terminal transition, even if a time limit
    ended it: otherwise the value of its last observation would be added to its progress reward, and
    a slow failure could return more than a success. A failure that is not paid, because its group
    has no success, stays a truncated one, as in Stable-Baselines3 without shaped rewards.

    A reward stays in the buffer until its transition is overwritten, and it is relative to the
    other failures of its group. As the policy improves, an old failure can therefore have a higher
    reward than a newer and better one. A smaller buffer reduces this effect.

    With ``credit="dense"``, returns are paid along the way, in the transitions that the buffer
    still holds (`SelfReferentialProgressWrapper.rewrite`).

    Logs the statistics of the groups as ``srpo/...``.

    Attributes:
        groups: The groups that were closed in the last rollout that closed at least one.
        num_paid: Number of failures whose reward was added.
        num_missed: Number of failures whose last transition was not in the buffer any more.
    """

    def __init__(self, credit: Credit = "episode") -> None:
        """Initialises the callback; `learn` connects it with the algorithm.

        Args:
            credit: When an episode's return is paid, ``"episode"`` or ``"dense"``.
        """
        super().__init__()
        self.credit = credit
        self.groups: list[Group] = []
        self.num_paid = 0
        self.num_missed = 0
        self._buffer: ReplayBuffer | None = None
        self._steps: Ints = np.zeros(0, np.int64)
        """Number of the step that is stored in each row of the buffer, -1 if unknown."""

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, ReplayBuffer):
            raise TypeError(
                "ShapedReplayRewards needs an algorithm with a replay buffer, such as SAC, got "
                f"{type(self.model).__name__}; for one with a rollout buffer use "
                "srpo_env.adapters.stable_baselines3.ShapedRewards"
            )
        if isinstance(buffer, HerReplayBuffer):
            raise TypeError(
                "ShapedReplayRewards needs a buffer that returns the rewards that it stores, but "
                "HerReplayBuffer computes new ones for other goals: use ReplayBuffer"
            )
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_reward:
            # It clips what it scales, and a success could be clipped to the value of a failure.
            raise ValueError("VecNormalize must not scale rewards: pass it norm_reward=False")
        base = self.training_env.unwrapped
        if not isinstance(base, GymnasiumToVecEnv):
            raise TypeError(
                "ShapedReplayRewards needs a GymnasiumToVecEnv as the innermost environment of the "
                f"algorithm, got {type(base).__name__}: make it with wrap_vec_env"
            )
        checked_credit(self.credit, base.wrapper.encoder.latent_shape)
        base.rewards_are_fetched = True
        self._wrapper = base.wrapper
        if buffer is not self._buffer:
            self._buffer = buffer
            self._steps = np.full(buffer.buffer_size, -1, np.int64)

    def _on_step(self) -> bool:
        # Called between the environment's step and the storing of its transition. If another
        # callback ends the training here, the transition is not stored, and the next one gets both
        # the row and this entry.
        assert self._buffer is not None
        self._steps[self._buffer.pos] = self._wrapper.step_count - 1
        for info in self.locals["infos"]:
            info["TimeLimit.truncated"] = info["truncated"]
        return True

    def _on_rollout_end(self) -> None:
        if self._wrapper.num_closed_groups == 0:
            return
        assert self._buffer is not None
        self.groups = self._wrapper.pop_groups()
        paid, missed = add_to_replay_buffer(self._buffer, self._steps, self.groups, self.credit)
        self.num_paid += paid
        self.num_missed += missed
        for name, value in group_statistics(self.groups).as_dict("srpo/").items():
            self.logger.record(name, value)
        self.logger.record("srpo/num_missed", self.num_missed)


def add_to_replay_buffer(
    buffer: ReplayBuffer, steps: Ints, groups: Sequence[Group], credit: Credit = "episode"
) -> tuple[int, int]:
    """Adds the progress rewards of closed groups to a replay buffer, in place.

    A failure that is paid becomes a terminal transition. A reward that was added already is not
    added again.

    Args:
        buffer: A replay buffer of Stable-Baselines3.
        steps: Number of the wrapper's step that each row of the buffer holds, counted from 0, -1 if
            unknown, shape ``(buffer_size,)``.
        groups: Return value of `SelfReferentialProgressWrapper.pop_groups`.
        credit: When an episode's return is paid, as in `SelfReferentialProgressWrapper.rewrite`.
            What overwritten transitions have earned is paid on the oldest one that is held.

    Returns:
        Number of failures that were paid, and of those whose last transition is not in the buffer.

    Raises:
        ValueError: If a transition that ended an episode does not hold the environment's own
            reward or is not the end of an episode, or if a failure would earn more than a success.
            Nothing is written then.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    first = min((episode.first_step for episode in episodes), default=0)
    known = np.flatnonzero(steps >= first)
    rows: dict[int, int] = dict(zip(steps[known].tolist(), known.tolist(), strict=True))
    oldest = int(min(steps[steps >= 0], default=0))
    missed = 0
    stored: list[Group] = []
    for group in groups:
        held = [_is_held(episode, rows, oldest, credit) for episode in group.episodes]
        kept = tuple(
            episode for episode, is_held in zip(group.episodes, held, strict=True) if is_held
        )
        gone = [e for e, is_held in zip(group.episodes, held, strict=True) if not is_held]
        missed += sum(not (each.success or np.isnan(each.distance)) for each in gone)
        if credit == "episode":  # needs only the last transition, and earlier ones can be gone
            kept = tuple(
                replace(e, potential=e.potential[:0], potential_steps=e.potential_steps[:0])
                for e in kept
            )
        stored.append(replace(group, episodes=kept))
        for episode in kept:
            row = rows[episode.last_step]
            if not buffer.dones[row, episode.env_index]:
                raise ValueError(
                    f"Transition [{row}, {episode.env_index}] of the replay buffer must be the last"
                    f" of episode {episode.episode_id}, but its `done` is False; nothing was "
                    "written. Likely cause: something other than `learn` adds transitions to the "
                    "buffer or steps the environments"
                )
    writer = RewardWriter(buffer.n_envs)
    writer.add(stored)
    view = _RewardsByStep(buffer, rows, oldest, int(steps.max(initial=-1)) + 1)
    paid = writer.write(view, oldest, credit)
    for episode in (episode for group in stored for episode in group.episodes):
        if not (episode.success or np.isnan(episode.distance)):
            buffer.timeouts[rows[episode.last_step], episode.env_index] = 0.0
    return paid, missed


def _is_held(episode: Episode, rows: dict[int, int], oldest: int, credit: Credit) -> bool:
    """Returns whether a buffer holds what is paid: the last step, or all since the oldest one.

    A step between can be missing if a callback ended the training before it was stored.
    """
    first = max(episode.first_step, oldest) if credit == "dense" else episode.last_step
    return all(step in rows for step in range(first, episode.last_step + 1)) and (
        episode.last_step in rows
    )


class _RewardsByStep:
    """The rewards of a replay buffer, indexed by step as `RewardWriter` does."""

    def __init__(
        self, buffer: ReplayBuffer, rows: dict[int, int], first_step: int, num_steps: int
    ) -> None:
        """Initialises a view that writes through to the buffer.

        Args:
            buffer: The replay buffer.
            rows: For each step that may be accessed, the row that holds it.
            first_step: Number of the step with index 0.
            num_steps: Number of steps that were made.
        """
        self._rewards = cast(Floats, buffer.rewards)
        self._rows, self._first_step = rows, first_step
        self.shape = (num_steps - first_step, buffer.n_envs)
        self.dtype = buffer.rewards.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return self._rewards[self._rows[index[0] + self._first_step], index[1]]

    def __setitem__(self, index: tuple[int, int], value: Any) -> None:
        self._rewards[self._rows[index[0] + self._first_step], index[1]] = value
