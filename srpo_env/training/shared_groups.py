"""Shares the closed groups of an iteration among the ranks: latents and successes, never frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from srpo_env.rewards.progress import ProgressReward, relabel
from srpo_env.training.distributed import Ranks
from srpo_env.training.task_sampler import TaskSampler
from srpo_env.training.trajectories import Trajectory
from srpo_env.types import Group
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

Batch = list[tuple[Group, list[Trajectory]]]


def share_groups(
    ranks: Ranks,
    envs: SelfReferentialProgressWrapper,
    sampler: TaskSampler,
    batch: Batch,
    source: str,
) -> tuple[Batch, list[Group]]:
    """Makes the groups that all ranks have closed known to each of them.

    * With the reference ``"task"``, failures are compared with the successes of all ranks.
    * With ``"memory"``, and with ``borrow``, the episodes of the other ranks are remembered.
    * The success rates from which tasks are sampled become the mean over the ranks.

    Args:
        ranks: The ranks, all of which call this together.
        envs: This rank's environments.
        sampler: This rank's sampler.
        batch: The groups that this rank has closed, and their trajectories.
        source: Source of the rewards, see `credit.rewarded`.

    Returns:
        The batch with its rewards, and the groups of all ranks.
    """
    groups = [group for group, _ in batch]
    if ranks.size == 1:
        return batch, groups
    parts = ranks.gather((groups, sampler.success_rates))
    every = [group for part, _ in parts for group in part]
    if envs.reference == "task" and source == "srpo":
        every = compared_by_task(every, envs.reward)
    first = sum(len(part) for part, _ in parts[: ranks.rank])
    last = first + len(groups)
    envs.remember([*every[:first], *every[last:]])
    sampler.success_rates = np.mean([rates for _, rates in parts], axis=0).tolist()
    own = [(group, ts) for group, (_, ts) in zip(every[first:last], batch, strict=True)]
    return own, every


def compared_by_task(groups: Sequence[Group], reward: ProgressReward) -> list[Group]:
    """Rewards failures by the successes of their tasks in all groups.

    As `SelfReferentialProgressWrapper` does with ``reference="task"`` if all groups are its own.
    """
    members = [(row, episode) for row, group in enumerate(groups) for episode in group.episodes]
    result = relabel(
        np.stack([episode.latent for _, episode in members]),
        np.array([episode.success for _, episode in members]),
        [groups[row].task for row, _ in members],
        reward,
        credit="dense" if members[0][1].latent.ndim == 2 else "episode",
        own_group_ids=[row for row, _ in members],
    )
    compared, first = [], 0
    for group in groups:
        clustering = result.clusterings[group.task]
        episodes = tuple(
            replace(
                episode,
                distance=float(result.distances[index]),
                progress_reward=float(result.rewards[index]),
                nearest_center=int(result.nearest_centers[index]),
                potential=result.potentials[index].copy(),
            )
            for index, episode in enumerate(group.episodes, start=first)
        )
        compared.append(
            replace(
                group,
                episodes=episodes,
                centers=clustering.centers,
                num_clusters=clustering.num_clusters,
                num_singles=clustering.num_singles,
                confidence=float(result.confidences[first]),
            )
        )
        first += len(episodes)
    return compared
