"""From ended episodes to closed groups: encodes in batches, rewards, keeps what waits.

Nothing here knows Gymnasium; the wrapper decides what an episode is.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from srpo_env.encoders.protocol import TrajectoryEncoder, distance_of, encode_checked
from srpo_env.rewards.clustering import Clustering
from srpo_env.rewards.memory import SuccessMemory
from srpo_env.rewards.progress import Distance, Formula, checked_weight, relabel
from srpo_env.types import Episode, Group, checked_count
from srpo_env.vector.grouping import EndedEpisode, GroupBook, OpenGroup

logger = logging.getLogger(__name__)

Reference = Literal["group", "task", "memory"]

MANY_GROUPS = 1024
"""Groups that wait before a loop that does not fetch them is told, and the most that the memory
reference holds: 8192 episodes in groups of 8, 48 MB of 1408-d latents."""


class GroupScorer:
    """Collects ended episodes and rewards them by the successes of their group, task or memory.

    Videos wait until `group_size` of them are there, or a group closes, and are then encoded in one
    call: large batches for the encoder, and never more than ``group_size + num_envs`` videos held.
    """

    def __init__(
        self,
        encoder: TrajectoryEncoder,
        *,
        group_size: int,
        reference: Reference,
        formula: Formula,
        weight: float | None,
        memory_size: int,
        distance: Distance | None = None,
    ) -> None:
        """Starts without episodes; the arguments are those of the wrapper."""
        if isinstance(encoder, type) or not isinstance(encoder, TrajectoryEncoder):
            raise TypeError(
                "`encoder` must be an object with `latent_dim` and `encode(videos)`, such as "
                f"srpo_env.PixelEncoder(), got {encoder!r}"
            )
        if reference not in get_args(Reference):
            raise ValueError(f"`reference` must be one of {get_args(Reference)}, got {reference!r}")
        self.encoder = encoder
        self.group_size = checked_count("group_size", group_size)
        self.reference: Reference = reference
        self.formula: Formula = formula
        self.weight = checked_weight(formula, weight)
        self.distance = distance_of(encoder, distance)
        self.book = GroupBook(self.group_size)
        self.memory = SuccessMemory(memory_size)
        self.unencoded: list[EndedEpisode] = []
        self.complete: list[OpenGroup] = []
        """full groups that wait for `close`, as those of the task reference do"""
        self.closed: list[Group] = []
        """closed groups that nobody has fetched"""
        self._told = False

    def take(self, ended: Sequence[EndedEpisode]) -> list[Group]:
        """Books the episodes that ended in one step.

        With the memory reference they have their rewards afterwards.

        Returns:
            The groups that this closed.
        """
        self.unencoded += ended
        self.complete += [group for episode in ended if (group := self.book.end(episode))]
        if self.reference == "memory":
            self._encode()
            self._reward_from_memory(ended)
        if self.reference != "task" and self.complete:
            groups, self.complete = self.complete, []
            return self._close(groups)
        if len(self.complete) >= MANY_GROUPS:
            self._tell(
                "groups wait to be scored: with reference='task', call `close_groups` or `rewrite` "
                "after each rollout"
            )
        if sum(not group.running for group in self.book.groups) >= MANY_GROUPS:
            self._tell(
                f"groups wait for their {self.group_size} episodes: too few episodes share a group "
                "key. Pass `group_key`, start the episodes of a group from one task and initial "
                'state, or use reference="task" and call `close_groups` after each rollout'
            )
        if len(self.unencoded) >= self.group_size:
            self._encode()
        return []

    def close(self) -> list[Group]:
        """Closes all groups that have an ended episode, and returns them."""
        groups, self.complete = [*self.complete, *self.book.close()], []
        return self._close(groups) if groups else []

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs, as `state.pack` takes it."""
        return {
            "groups": list(self.book.groups),
            "complete": list(self.complete),
            "unencoded": [episode.episode_id for episode in self.unencoded],
            "closed": list(self.closed),
            "memory": [
                (task, list(memory.successes), list(memory.failures))
                for task, memory in self.memory.tasks.items()
            ],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.book.groups, self.complete = state["groups"], state["complete"]
        self.closed = state["closed"]
        # The same objects as in the groups: encoding one sets the latent of the other.
        waiting = set(state["unencoded"])
        ended = [e for group in [*self.complete, *self.book.groups] for e in group.ended]
        self.unencoded = sorted(
            (e for e in ended if e.episode_id in waiting),
            key=lambda episode: state["unencoded"].index(episode.episode_id),
        )
        self.memory.tasks.clear()
        for task, successes, failures in state["memory"]:
            self.memory[task].successes.extend(successes)
            self.memory[task].failures.extend(failures)

    def _close(self, groups: list[OpenGroup]) -> list[Group]:
        self._encode()
        closed = (
            [self._remembered(group) for group in groups]
            if self.reference == "memory"
            else self._compared(groups)
        )
        self.closed += closed
        if self.reference == "memory":
            # It has paid already. These groups are there to be looked at, which nobody has to.
            del self.closed[:-MANY_GROUPS]
        elif len(self.closed) >= MANY_GROUPS:
            self._tell("closed groups wait: call `pop_groups` or `rewrite` after each rollout")
        return closed

    def _tell(self, message: str) -> None:
        """Warns, once, of groups that nobody fetches."""
        if not self._told:
            self._told = True
            logger.warning("%d %s", MANY_GROUPS, message)

    def _compared(self, groups: list[OpenGroup]) -> list[Group]:
        """Rewards episodes by the successes of their group, or of their task in all groups."""
        by_task = self.reference == "task"
        members = [(row, episode) for row, group in enumerate(groups) for episode in group.ended]
        ids: list[Hashable] = [episode.task if by_task else row for row, episode in members]
        result = relabel(
            np.stack([episode.latent for _, episode in members if episode.latent is not None]),
            np.array([episode.success for _, episode in members]),
            ids,
            formula=self.formula,
            weight=self.weight,
            distance=self.distance,
        )
        for (_, episode), reward, distance, nearest in zip(
            members, result.rewards, result.distances, result.nearest_centers, strict=True
        ):
            episode.progress_reward = float(reward)
            episode.distance = float(distance)
            episode.nearest_center = int(nearest)
        return [
            _closed_group(group, result.clusterings[group.ended[0].task if by_task else row])
            for row, group in enumerate(groups)
        ]

    def _remembered(self, group: OpenGroup) -> Group:
        return _closed_group(group, self.memory[group.ended[0].task].clustering())

    def _reward_from_memory(self, ended: Sequence[EndedEpisode]) -> None:
        # Successes first: both can end in one step, and a failure may need that very success.
        for episode in sorted(ended, key=lambda episode: not episode.success):
            assert episode.latent is not None
            memory = self.memory[episode.task]
            if episode.success:
                memory.add_success(episode.latent)
                episode.progress_reward = 1.0
            else:
                episode.progress_reward, episode.distance = memory.score_failure(
                    episode.latent,
                    formula=self.formula,
                    weight=self.weight,
                    distance=self.distance,
                )

    def _encode(self) -> None:
        waiting, self.unencoded = self.unencoded, []
        videos = [episode.video for episode in waiting if episode.video is not None]
        if not videos:
            return
        names = [f"episode {e.episode_id} of environment {e.env_index}" for e in waiting]
        latents = encode_checked(self.encoder, videos, names)
        for episode, latent in zip(waiting, latents, strict=True):
            # Copied, so that one latent that is kept for long does not keep its whole batch.
            episode.latent, episode.video = latent.copy(), None


def _closed_group(group: OpenGroup, clustering: Clustering) -> Group:
    # In the order of the starts, which is that of the ids: the order of the ends tells who won.
    ended = sorted(group.ended, key=lambda episode: episode.episode_id)
    return Group(
        key=group.key,
        task=ended[0].task,
        episodes=tuple(_closed_episode(episode) for episode in ended),
        centers=clustering.centers,
        num_clusters=clustering.num_clusters,
        num_singles=clustering.num_singles,
    )


def _closed_episode(ended: EndedEpisode) -> Episode:
    assert ended.latent is not None
    values: dict[str, Any] = {name: getattr(ended, name) for name in Episode.__dataclass_fields__}
    return Episode(**values)
