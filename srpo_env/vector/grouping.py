"""Which running and finished episodes belong together, before their group is closed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from srpo_env.types import FrameRecorder, Video


@dataclass
class RunningEpisode:
    """An episode between its reset and its end."""

    episode_id: int
    env_index: int
    first_step: int
    key: Hashable
    task: Hashable
    recorder: FrameRecorder
    env_return: float = 0.0


@dataclass
class EndedEpisode:
    """An episode after its end, whose group is still open."""

    episode_id: int
    env_index: int
    first_step: int
    last_step: int
    key: Hashable
    task: Hashable
    success: bool
    env_return: float
    last_env_reward: float
    video: Video | None
    """frames, until they are encoded"""
    latent: npt.NDArray[np.float32] | None = None
    """set when encoded"""
    # Set when it is rewarded: at its end with the memory reference, else when its group closes.
    distance: float = np.nan
    progress_reward: float = 0.0
    nearest_center: int = -1


@dataclass
class OpenGroup:
    """Up to `group_size` episodes of one key, running or ended."""

    key: Hashable
    running: list[int] = field(default_factory=list)
    ended: list[EndedEpisode] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Episodes that have a place in it."""
        return len(self.running) + len(self.ended)


class GroupBook:
    """Gives each episode a place in a group, and tells when a group is complete.

    The place is given when an episode *starts*. Filled in the order of the ends, the first group
    of many parallel episodes would get the short ones, which are the successes, and the last
    group the failures.
    """

    def __init__(self, group_size: int) -> None:
        """Starts without groups.

        Args:
            group_size: Episodes in a group.
        """
        self.group_size = group_size
        self.groups: list[OpenGroup] = []

    def start(self, episode: RunningEpisode) -> None:
        """Gives a new episode a place in the oldest group of its key that has one."""
        self._place(episode.key, episode.episode_id)

    def abandon(self, episode_id: int) -> None:
        """Frees the place of an episode that was reset before its end."""
        group = self._group_of(episode_id)
        group.running.remove(episode_id)
        if group.size == 0:
            self.groups.remove(group)

    def end(self, episode: EndedEpisode) -> OpenGroup | None:
        """Takes an ended episode.

        Returns:
            Its group, if that is complete now, and no longer kept here.
        """
        group = self._group_of(episode.episode_id)
        group.running.remove(episode.episode_id)
        group.ended.append(episode)
        if len(group.ended) < self.group_size:
            return None
        self.groups.remove(group)
        return group

    def close(self) -> list[OpenGroup]:
        """Closes all groups that have an ended episode.

        Those that still run are grouped anew, again in the order of their starts: what is left of
        two groups of one key may fill one.
        """
        closed = [OpenGroup(group.key, ended=group.ended) for group in self.groups if group.ended]
        keys = {episode_id: group.key for group in self.groups for episode_id in group.running}
        self.groups = []
        for episode_id in sorted(keys):
            self._place(keys[episode_id], episode_id)
        return closed

    def _place(self, key: Hashable, episode_id: int) -> None:
        for group in self.groups:
            if group.key == key and group.size < self.group_size:
                break
        else:
            group = OpenGroup(key)
            self.groups.append(group)
        group.running.append(episode_id)

    def _group_of(self, episode_id: int) -> OpenGroup:
        return next(group for group in self.groups if episode_id in group.running)
