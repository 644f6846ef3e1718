"""Scores ended episodes: encodes their videos in batches, rewards them and closes their groups.

Does not depend on Gymnasium: the wrapper decides where episodes start and end. An exception in the
encoder or the distance changes nothing: the episodes still wait, and the call can be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import (
    TrajectoryEncoder,
    check_encoder,
    encode_checked,
    encoder_settings,
    moment_frames,
    reward_for,
)
from srpo_env.rewards.clustering import Clustering, success_centers
from srpo_env.rewards.memory import SuccessMemory
from srpo_env.rewards.progress import ProgressReward, Relabeling, relabel
from srpo_env.types import Credit, Episode, Floats, Group, Latent, checked_count
from srpo_env.vector.grouping import GroupBook, OpenEpisode, OpenGroup

logger = logging.getLogger(__name__)

Reference = Literal["group", "task", "memory"]

MANY_GROUPS = 1024
"""Number of complete groups waiting to be closed at which a warning is logged."""

MANY_INCOMPLETE = 64
"""Number of incomplete groups without a running episode at which a warning is logged."""


class ScorerState(TypedDict):
    """Return type of `GroupScorer.state`."""

    groups: list[OpenGroup]
    complete: list[OpenGroup]
    waiting: list[int]
    unpaid: list[int]
    memory: list[tuple[Hashable, list[Latent], list[Latent]]]


class GroupScorer:
    """Collects episodes and rewards them by the successes of their group, task or memory.

    Videos are encoded in one call when `group_size` of them wait or a group closes. The encoder
    therefore gets large batches, and at most ``group_size + num_envs`` videos are held.
    """

    def __init__(
        self,
        encoder: TrajectoryEncoder,
        reward: ProgressReward | None,
        *,
        group_size: int,
        reference: Reference,
        memory_size: int,
        borrow: bool = False,
    ) -> None:
        """Initialises an empty scorer; the arguments are those of the wrapper."""
        check_encoder(encoder)
        if reference not in get_args(Reference):
            raise ValueError(f"`reference` must be one of {get_args(Reference)}, got {reference!r}")
        if not isinstance(borrow, bool) or (borrow and reference != "group"):
            raise ValueError(
                "`borrow` must be a bool, and False unless reference='group', because the other "
                f"references use all successes of the task already, got {borrow!r} with "
                f"reference={reference!r}"
            )
        self.borrow = borrow
        self.encoder = encoder
        self.reward = reward_for(encoder, reward)
        self.reference: Reference = reference
        self.group_size = checked_count("group_size", group_size)
        self.book = GroupBook(self.group_size)
        """Groups that wait for more of their episodes."""
        self._memory = SuccessMemory(memory_size)
        self._waiting: list[OpenEpisode] = []
        """Ended episodes that are not encoded, in the order of their ends."""
        self._unpaid: list[OpenEpisode] = []
        """Ended episodes that the memory reference has not rewarded."""
        self._complete: list[OpenGroup] = []
        """Complete groups that are not closed."""
        self._warned = False

    @property
    def _credit(self) -> Credit:
        """Whether episodes get a progress potential: if their latents are paths."""
        return "dense" if len(self.encoder.latent_shape) == 2 else "episode"

    @property
    def videos_held(self) -> int:
        """Number of videos that wait to be encoded."""
        return len(self._waiting)

    def settings(self) -> dict[str, Any]:
        """Returns the settings that determine the rewards, as JSON values."""
        return {
            **encoder_settings(self.encoder),
            **self.reward.settings(),
            "reference": self.reference,
            "group_size": self.group_size,
            "memory_size": self._memory.size,
            "borrow": self.borrow,
        }

    def end(self, episodes: Sequence[OpenEpisode]) -> None:
        """Adds the episodes that ended in one step. Calls no user code."""
        self._waiting += [episode for episode in episodes if episode.video is not None]
        if self.reference == "memory":
            self._unpaid += episodes
        self._complete += self.book.take_complete()

    def score(self) -> list[Group]:
        """Scores ended episodes after a step.

        With the memory reference, all ended episodes are rewarded; otherwise those of complete
        groups.

        Returns:
            The groups that were closed.
        """
        if self.reference == "memory":
            self._pay_from_memory()
        elif len(self._waiting) >= self.group_size:
            self._encode()
        if self.reference == "task" or not self._complete:
            self._warn()
            return []
        groups = self._scored(self._complete)
        self._complete = []
        return groups

    def close(self) -> list[Group]:
        """Closes all groups that have an ended episode, and returns them."""
        groups = self._scored([*self._complete, *self.book.with_an_end()])
        self._complete = []
        self.book.remove_ended()
        return groups

    def check_latents(self, latents: Sequence[Latent]) -> None:
        """Checks latents that another process has encoded.

        Raises:
            ValueError: If one is not of the encoder's shape.
        """
        shapes = {latent.shape for latent in latents} - {self.encoder.latent_shape}
        if shapes:
            raise ValueError(
                f"Latents from other processes must be of shape {self.encoder.latent_shape}, that "
                f"of this wrapper's encoder, got {shapes.pop()}: use the same encoder everywhere"
            )

    def remember(self, groups: Sequence[Group]) -> None:
        """Adds the episodes of groups that another process has closed to the memory, if it is used.

        Raises:
            ValueError: If a latent is not of the encoder's shape.
        """
        if self.reference != "memory" and not self.borrow:
            return
        for group in groups:
            kept = [e for e in group.episodes if e.success or self.reference == "memory"]
            latents = [episode.latent for episode in kept]
            self.check_latents(latents)
            self._memory.add(group.task, latents, [episode.success for episode in kept])

    def state(self) -> ScorerState:
        """Returns everything that `load` needs, in types that `serialization.pack` accepts."""
        return {
            "groups": self.book.groups,
            "complete": self._complete,
            "waiting": [episode.episode_id for episode in self._waiting],
            "unpaid": [episode.episode_id for episode in self._unpaid],
            "memory": [(task, *latents) for task, latents in self._memory.tasks.items()],
        }

    def load(self, state: ScorerState) -> list[OpenEpisode]:
        """Restores what `state` returned; changes nothing if it raises an error.

        Returns:
            The running episodes.

        Raises:
            ValueError: If the parts do not belong together.
        """
        groups = [*state["complete"], *state["groups"]]
        episodes = [episode for group in groups for episode in group.episodes]
        by_id = {episode.episode_id: episode for episode in episodes}
        memory = {task: (successes, failures) for task, successes, failures in state["memory"]}
        if len(by_id) != len(episodes) or not by_id.keys() >= {*state["waiting"], *state["unpaid"]}:
            raise ValueError("its episodes do not belong together")
        waiting = [by_id[episode_id] for episode_id in state["waiting"]]
        kept: list[npt.NDArray[Any]] = [
            latent for pair in memory.values() for latents in pair for latent in latents
        ]
        kept += [episode.latent for episode in episodes if episode.latent is not None]
        kept += [episode.center for episode in episodes if episode.center is not None]
        if any(latent.shape != self.encoder.latent_shape for latent in kept):
            raise ValueError(f"its latents are not of shape {self.encoder.latent_shape}")
        unpaid = set(state["unpaid"])
        for episode in episodes:
            is_waiting = episode in waiting
            frames = [*episode.recorder.kept, *([] if episode.video is None else episode.video)]
            if (
                episode.ended == (episode.video is None and episode.latent is None)
                or is_waiting != (episode.video is not None)
                or not (episode.ended or episode.recorder.is_consistent)
                or any(frame.shape != frames[0].shape or frame.ndim != 3 for frame in frames)
                or not self._has_potential(episode, is_paid=episode.episode_id not in unpaid)
            ):
                raise ValueError(f"episode {episode.episode_id} is incomplete")
        self.book.groups, self._complete = state["groups"], state["complete"]
        self._waiting = waiting
        self._unpaid = [by_id[episode_id] for episode_id in state["unpaid"]]
        self._memory.tasks = memory
        return [episode for episode in episodes if not episode.ended]

    def _has_potential(self, episode: OpenEpisode, is_paid: bool) -> bool:
        """Returns whether a restored episode has what its potential is made from, or has been."""
        if not episode.ended:
            return True
        shape = self.encoder.latent_shape[:-1] or (0,)
        steps = episode.potential_steps
        if episode.video is not None:
            steps, shape = episode.frame_steps, (len(episode.video),)
        if steps is None or steps.shape != shape or (np.diff(steps, prepend=0) < 0).any():
            return False
        if self.reference != "memory" or not is_paid:
            return True
        return episode.potential is not None and episode.potential.shape == shape

    # --- Scoring: encode and score first, change the state afterwards ---

    def _scored(self, groups: Sequence[OpenGroup]) -> list[Group]:
        """Scores groups and returns them closed; the open groups are not changed."""
        if self.reference == "memory":
            self._pay_from_memory()
            return [self._closed_from_memory(group) for group in groups]
        return self._compared(groups) if groups else []

    def _compared(self, groups: Sequence[OpenGroup]) -> list[Group]:
        """Rewards episodes by the successes of their group, or of their task in all groups."""
        self._encode()
        members = [(row, episode) for row, group in enumerate(groups) for episode in group.ended]
        by_task = self.reference == "task"
        ids: list[Hashable] = [episode.task if by_task else row for row, episode in members]
        result = relabel(
            np.stack([_latent(episode) for _, episode in members]),
            np.array([episode.success for _, episode in members]),
            ids,
            self.reward,
            credit=self._credit,
            own_group_ids=[row for row, _ in members],
        )
        closed: list[list[Episode]] = [[] for _ in groups]
        confidences = np.ones(len(groups))
        for index, (row, episode) in enumerate(members):
            confidences[row] = result.confidences[index]  # one for all members of a group
            closed[row].append(_scored_episode(episode, result, index))
        scored = [
            _group(
                group,
                episodes,
                result.clusterings[group.ended[0].task if by_task else row],
                confidence=float(confidences[row]),
            )
            for row, (group, episodes) in enumerate(zip(groups, closed, strict=True))
        ]
        return self._with_borrowed(groups, scored) if self.borrow else scored

    def _with_borrowed(self, groups: Sequence[OpenGroup], scored: list[Group]) -> list[Group]:
        """Compares groups without a success with those of their task, and remembers these.

        They are the successes of groups that closed earlier, or close now.
        """
        new: dict[Hashable, list[Latent]] = {}
        for rated in scored:
            won = [episode.latent for episode in rated.episodes if episode.success]
            new.setdefault(rated.task, []).extend(won)
        result = []
        for group, rated in zip(groups, scored, strict=True):
            successes = [*self._memory.successes(rated.task), *new[rated.task]]
            successes = successes[-self._memory.size :]
            if rated.num_successes == 0 and successes:
                rated = self._borrowing(group, successes)
            result.append(rated)
        for task, latents in new.items():
            self._memory.add(task, latents, [True] * len(latents))
        return result

    def _borrowing(self, group: OpenGroup, successes: list[Latent]) -> Group:
        """Returns a group without a success, compared with other successes of its task."""
        latents = [*successes, *(_latent(episode) for episode in group.ended)]
        succeeded = np.arange(len(latents)) < len(successes)
        result = relabel(
            np.stack(latents),
            succeeded,
            reward=self.reward,
            credit=self._credit,
            own_group_ids=succeeded,
        )
        (clustering,) = result.clusterings.values()
        episodes = [
            _scored_episode(episode, result, len(successes) + row)
            for row, episode in enumerate(group.ended)
        ]
        return _group(group, episodes, clustering, confidence=float(result.confidences[-1]))

    def _pay_from_memory(self) -> None:
        """Rewards the unpaid episodes by the successes of their task, old and new ones."""
        self._encode()
        by_task: dict[Hashable, list[OpenEpisode]] = {}
        for episode in self._unpaid:
            by_task.setdefault(episode.task, []).append(episode)
        results = []
        for task, episodes in by_task.items():
            latents = [_latent(episode) for episode in episodes]
            successes = [episode.success for episode in episodes]
            points, succeeded = self._memory.with_new(task, latents, successes)
            # Whether a group will have a success is not known yet, so none of its failures counts
            # on it: all failures together are one group without a success.
            result = relabel(
                points,
                succeeded,
                reward=self.reward,
                credit=self._credit,
                own_group_ids=succeeded,
            )
            results.append((task, episodes, latents, successes, result))
        for task, episodes, latents, successes, result in results:
            self._memory.add(task, latents, successes)
            first = len(result.rewards) - len(episodes)
            (clustering,) = result.clusterings.values()
            for row, episode in enumerate(episodes, start=first):
                episode.progress_reward = float(result.rewards[row])
                episode.distance = float(result.distances[row])
                episode.confidence = float(result.confidences[row])
                episode.potential = result.potentials[row].copy()
                nearest = result.nearest_centers[row]
                episode.center = clustering.centers[nearest] if nearest >= 0 else None
        self._unpaid = []

    def _closed_from_memory(self, group: OpenGroup) -> Group:
        centers: list[Floats] = []
        episodes = []
        for episode in group.ended:
            assert episode.potential is not None
            nearest = -1
            if episode.center is not None:
                equal = (i for i, c in enumerate(centers) if np.array_equal(c, episode.center))
                nearest = next(equal, len(centers))
                if nearest == len(centers):
                    centers.append(episode.center)
            episodes.append(
                _closed(
                    episode,
                    distance=episode.distance,
                    progress_reward=episode.progress_reward,
                    nearest_center=nearest,
                    potential=episode.potential,
                )
            )
        shape = (0, *self.encoder.latent_shape)
        successes = self._memory.successes(group.ended[0].task)
        now = success_centers(np.stack(successes) if successes else np.empty(shape))
        used = np.stack(centers) if centers else np.empty(shape)
        confidence = float(np.mean([episode.confidence for episode in group.ended]))
        return _group(group, episodes, now, centers=used, confidence=confidence)

    def _encode(self) -> None:
        if not self._waiting:
            return
        names = [f"episode {e.episode_id} of environment {e.env_index}" for e in self._waiting]
        videos = [episode.video for episode in self._waiting if episode.video is not None]
        latents = encode_checked(self.encoder, videos, names)
        moments = [moment_frames(self.encoder, len(video)) for video in videos]
        for episode, latent, frames in zip(self._waiting, latents, moments, strict=True):
            assert episode.frame_steps is not None
            episode.potential_steps = episode.frame_steps[frames]
            # Copied, because a view would keep the whole batch in memory.
            episode.latent, episode.video = latent.copy(), None
        self._waiting = []

    def _warn(self) -> None:
        """Logs a warning, once, if many groups are not closed."""
        incomplete = sum(not group.running for group in self.book.groups)
        if self._warned or (len(self._complete) < MANY_GROUPS and incomplete < MANY_INCOMPLETE):
            return
        self._warned = True
        if len(self._complete) >= MANY_GROUPS:
            logger.warning(
                "%d groups wait to be scored: with reference='task', call `close_groups` or "
                "`rewrite` after each rollout",
                len(self._complete),
            )
        else:
            logger.warning(
                "%d groups wait for more of their %d episodes: too few episodes share a group key. "
                "Pass `group_key`, start the episodes of a group from one task and initial state, "
                'or use reference="task" and call `close_groups` after each rollout',
                incomplete,
                self.group_size,
            )


def _latent(episode: OpenEpisode) -> Latent:
    assert episode.latent is not None
    return episode.latent


def _scored_episode(episode: OpenEpisode, result: Relabeling, row: int) -> Episode:
    return _closed(
        episode,
        distance=float(result.distances[row]),
        progress_reward=float(result.rewards[row]),
        nearest_center=int(result.nearest_centers[row]),
        potential=result.potentials[row],
    )


def _closed(
    episode: OpenEpisode,
    *,
    distance: float,
    progress_reward: float,
    nearest_center: int,
    potential: Floats,
) -> Episode:
    assert episode.last_step is not None
    assert episode.potential_steps is not None
    return Episode(
        episode_id=episode.episode_id,
        env_index=episode.env_index,
        first_step=episode.first_step,
        last_step=episode.last_step,
        success=episode.success,
        env_return=episode.env_return,
        last_env_reward=episode.last_env_reward,
        distance=distance,
        progress_reward=progress_reward,
        nearest_center=nearest_center,
        latent=_latent(episode),
        potential=potential.copy(),  # a view would keep those of the whole batch in memory
        potential_steps=episode.potential_steps,
        env_rewards=np.array(episode.env_rewards, np.float64),
    )


def _group(
    group: OpenGroup,
    episodes: Sequence[Episode],
    clustering: Clustering,
    centers: Floats | None = None,
    *,
    confidence: float,
) -> Group:
    return Group(
        key=group.key,
        task=group.ended[0].task,
        episodes=tuple(episodes),
        centers=clustering.centers if centers is None else centers,
        num_clusters=clustering.num_clusters,
        num_singles=clustering.num_singles,
        confidence=confidence,
    )
