"""Rewards of an agent's episodes, and an advantage for every decision by its progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from srpo_env.encoders.named import named_encoder
from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.advantages import decision_advantages
from srpo_env.rewards.progress import Formula, ProgressReward
from srpo_env.training.distributed import Ranks
from srpo_env.training.trajectories import Trajectory
from srpo_env.types import Credit, Episode, Floats, Group, checked_credit


def encoder_for(reward: str, credit: Credit, name: str) -> TrajectoryEncoder:
    """Returns the encoder that a reward needs; other rewards than srpo do not depend on videos.

    Args:
        reward: ``"srpo"``, ``"binary"`` or ``"oracle"``.
        credit: ``"episode"`` or ``"dense"``.
        name: Name of the world model, see `named_encoder`.

    Raises:
        ValueError: If the credit is dense and the latents are points.
    """
    if reward != "srpo":
        return named_encoder("pixels")
    encoder = named_encoder(name)
    checked_credit(credit, encoder.latent_shape)
    return encoder


def rewarded(
    group: Group, trajectories: Sequence[Trajectory], reward: str, formula: Formula = "paper"
) -> Group:
    """Returns a scored group with the rewards to train on.

    Args:
        group: A group with the rewards of Eq. 5.
        trajectories: The trajectories of its episodes.
        reward: ``"srpo"``: those of Eq. 5; ``"binary"``: 0 for failures; ``"oracle"``: those of
            Eq. 5 for what is left of the simulator's ground-truth progress.
        formula: Formula of Eq. 5.
    """
    if reward == "srpo":
        return group
    rewards = np.array([float(episode.success) for episode in group.episodes])
    distances, failed = np.full(len(rewards), math.nan), rewards == 0
    if reward == "oracle" and group.num_successes:
        distances[failed] = 1 - np.array([t.max_progress for t in trajectories])[failed]
        rewards[failed] = ProgressReward(formula).rewards_of(distances[failed])
    episodes = (
        replace(episode, progress_reward=float(reward), distance=float(distance))
        for episode, reward, distance in zip(group.episodes, rewards, distances, strict=True)
    )
    return replace(group, episodes=tuple(episodes))


def dense_advantages(
    batch: Sequence[tuple[Group, Sequence[Trajectory]]],
    reward: str,
    max_steps: int | None,
    ranks: Ranks | None = None,
) -> list[Floats]:
    """Computes the advantages of all decisions, with standard deviation 1 over the batch.

    With several ranks, they are those in the batches of all of them together.

    A failure's return is its last potential times the weight of `ProgressReward`, not its rank in
    its group, so that episodes of different groups can be compared.

    Args:
        batch: Closed groups, and the trajectories of their episodes.
        reward: Source of the potential: ``"srpo"``: the videos (`Episode.potential`); ``"oracle"``:
            the simulator; ``"binary"``: none, only the time counts.
        max_steps: Limit of control steps of an episode; None: the longest of the batch.
        ranks: The learners; None: this process alone.

    Returns:
        Advantages, ``(num_decisions,)`` for each episode, in the order of the batch; none for an
        empty batch.
    """
    pairs = [p for group, ts in batch for p in zip(group.episodes, ts, strict=True)]
    potentials = [potential_of(episode, trajectory, reward) for episode, trajectory in pairs]
    weight = ProgressReward().weight
    returns = [
        1.0 if episode.success else weight * potential[-1]
        for (episode, _), potential in zip(pairs, potentials, strict=True)
    ]
    steps = [trajectory.steps_before() for _, trajectory in pairs]
    tasks = [trajectory.task_id for _, trajectory in pairs]
    ranks = ranks or Ranks()
    own = list(zip(returns, [p[:-1] for p in potentials], steps, tasks, strict=True))
    parts = ranks.gather(own)
    every = [episode for part in parts for episode in part]
    if not every:
        return []  # no rank has a group with signal
    limit = max_steps or max(int(counts[-1]) + 1 for _, _, counts, _ in every)
    advantages = decision_advantages(
        np.array([total for total, *_ in every]),
        [potential for _, potential, _, _ in every],
        [counts / limit for _, _, counts, _ in every],
        np.array([task for *_, task in every]),
    )
    spread = np.concatenate(advantages).std() + 1e-6
    first = sum(map(len, parts[: ranks.rank]))
    return [advantage / spread for advantage in advantages[first : first + len(own)]]


def potential_of(episode: Episode, trajectory: Trajectory, reward: str) -> Floats:
    """Returns the progress potential before each decision and after the last one, from 0 to 1.

    It is 0 throughout if there was no success to compare the episode with.
    """
    num_decisions = len(trajectory.chunks)
    if reward == "oracle":
        return np.array([0.0, *(float(chunk.progress) for chunk in trajectory.chunks)])
    if reward == "binary" or np.isnan(episode.potential).any():
        return np.zeros(num_decisions + 1)
    steps = np.arange(num_decisions + 1)
    return np.interp(steps, episode.potential_steps, episode.potential)
