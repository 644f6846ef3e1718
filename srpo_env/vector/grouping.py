"""Which episodes belong together, from their start until their group is closed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from srpo_env.types import Floats, Latent, Video
from srpo_env.vector.frames import FrameRecorder


@dataclass(eq=False)
class OpenEpisode:
    """An episode whose group is still open: it is running, or it has ended."""

    episode_id: int
    env_index: int
    first_step: int
    key: Hashable
    task: Hashable
    recorder: FrameRecorder
    env_return: float = 0.0
    # Set when it ends.
    last_step: int | None = None
    success: bool = False
    last_env_reward: float = 0.0
    video: Video | None = None
    """Frames, until they are encoded."""
    latent: Latent | None = None
    """Set when it is encoded."""
    # Set at its end with the memory reference; else the group's closing sets them.
    distance: float = np.nan
    progress_reward: float = 0.0
    center: Floats | None = None
    """The center that is nearest to it."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.last_step is not None


@dataclass(eq=False)
class OpenGroup:
    """Up to `group_size` episodes of one key, in the order of their starts."""

    key: Hashable
    episodes: list[OpenEpisode] = field(default_factory=list)

    @property
    def ended(self) -> list[OpenEpisode]:
        """Its episodes that have ended."""
        return [episode for episode in self.episodes if episode.ended]

    @property
    def running(self) -> list[OpenEpisode]:
        """Its episodes that have not."""
        return [episode for episode in self.episodes if not episode.ended]


class GroupBook:
    """Gives each episode a place in a group, and finds the groups that are complete.

    The place is given when an episode *starts*. Filled in the order of the ends, the first group
    of many parallel episodes would get the short ones, which are the successes, and the last
    group the failures.
    """

    def __init__(self, group_size: int) -> None:
        """Initialises an empty book.

        Args:
            group_size: Number of episodes in a group.
        """
        self.group_size = group_size
        self.groups: list[OpenGroup] = []

    def start(self, episode: OpenEpisode) -> None:
        """Gives a new episode a place in the oldest group of its key that has one."""
        for group in self.groups:
            if group.key == episode.key and len(group.episodes) < self.group_size:
                break
        else:
            group = OpenGroup(episode.key)
            self.groups.append(group)
        group.episodes.append(episode)

    def abandon(self, episode: OpenEpisode) -> None:
        """Frees the place of an episode that was reset before its end."""
        group = next(group for group in self.groups if episode in group.episodes)
        group.episodes.remove(episode)
        if not group.episodes:
            self.groups.remove(group)

    def take_complete(self) -> list[OpenGroup]:
        """Removes and returns the groups whose episodes have all ended."""
        complete = [group for group in self.groups if len(group.ended) == self.group_size]
        self.groups = [group for group in self.groups if group not in complete]
        return complete

    def with_an_end(self) -> list[OpenGroup]:
        """Returns the groups of which an episode has ended."""
        return [group for group in self.groups if group.ended]

    def remove_ended(self) -> None:
        """Removes all episodes that have ended, and groups the running ones again.

        In the order of their starts: what is left of two groups of one key may fill one.
        """
        running = [episode for group in self.groups for episode in group.running]
        self.groups = []
        for episode in sorted(running, key=lambda episode: episode.episode_id):
            self.start(episode)
