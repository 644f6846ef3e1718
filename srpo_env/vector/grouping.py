"""Assigns episodes to groups when they start, and keeps them until their group is closed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from srpo_env.types import Floats, Ints, Latent, Video
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
    env_rewards: list[float] = field(default_factory=list)
    """The environment's own rewards, of the steps so far."""
    # Set when it ends.
    last_step: int | None = None
    success: bool = False
    video: Video | None = None
    """Frames to encode; None before the end and after encoding."""
    frame_steps: Ints | None = None
    """Number of steps before each frame of the video; None before the end."""
    latent: Latent | None = None
    """Latent of the frames; None before they are encoded."""
    potential_steps: Ints | None = None
    """Number of steps before each moment of the latent; None before the frames are encoded."""
    # Set at its end with the memory reference; otherwise when its group is closed.
    distance: float = np.nan
    progress_reward: float = 0.0
    confidence: float = 1.0
    potential: Floats | None = None
    center: Floats | None = None
    """The center that is nearest to it."""

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.last_step is not None

    @property
    def env_return(self) -> float:
        """Sum of the environment's own rewards so far."""
        return float(sum(self.env_rewards))

    @property
    def last_env_reward(self) -> float:
        """The environment's own reward of the last step."""
        return self.env_rewards[-1]


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
        """Its episodes that have not ended."""
        return [episode for episode in self.episodes if not episode.ended]


class GroupBook:
    """Assigns each episode to a group, and finds the groups that are complete.

    An episode is assigned when it *starts*. If the groups of many parallel episodes were filled in
    the order of their ends, the first group would get the short episodes, which are the successes,
    and the last group the failures.
    """

    def __init__(self, group_size: int) -> None:
        """Initialises an empty book.

        Args:
            group_size: Number of episodes in a group.
        """
        self.group_size = group_size
        self.groups: list[OpenGroup] = []

    def start(self, episode: OpenEpisode) -> None:
        """Assigns a new episode to the oldest group of its key that has a free place."""
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
        """Returns the groups with at least one ended episode."""
        return [group for group in self.groups if group.ended]

    def remove_ended(self) -> None:
        """Removes all episodes that have ended, and assigns the running ones to groups again.

        They are assigned in the order of their starts, so that the running episodes of two groups
        of one key can form one group.
        """
        running = [episode for group in self.groups for episode in group.running]
        self.groups = []
        for episode in sorted(running, key=lambda episode: episode.episode_id):
            self.start(episode)
