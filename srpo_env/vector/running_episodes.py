"""The running episode of each sub-environment: what a step or a reset changes in it.

Nothing here calls user code, so that a step is recorded completely or not at all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from gymnasium.vector import AutoresetMode

from srpo_env.types import Array, Ints
from srpo_env.vector.autoreset_check import AutoresetCheck
from srpo_env.vector.frames import FrameRecorder
from srpo_env.vector.grouping import GroupBook, OpenEpisode
from srpo_env.vector.step_reader import Change, Start


class RunningEpisodes:
    """Starts, continues and ends the episodes of all sub-environments."""

    def __init__(
        self, num_envs: int, mode: AutoresetMode, max_frames: int, book: GroupBook
    ) -> None:
        """Initialises it without an episode.

        Args:
            num_envs: Number of sub-environments.
            mode: Their autoreset mode.
            max_frames: Number of frames of an episode that the encoder gets.
            book: Assigns the episodes to groups.
        """
        self.slots: list[OpenEpisode | None] = [None] * num_envs
        """The running episode of each sub-environment, or None."""
        self.next_episode_id = 0
        self.late_task: Hashable = None
        """The task, if only the infos of episodes' ends name it."""
        self._max_frames = max_frames
        self._book = book
        self._autoreset = AutoresetCheck(mode, num_envs)

    @property
    def num_frames(self) -> int:
        """Number of frames that are held."""
        return sum(len(episode.recorder.kept) for episode in self.slots if episode is not None)

    @property
    def num_bytes(self) -> int:
        """Memory that the frames take, in bytes."""
        running = (episode for episode in self.slots if episode is not None)
        return sum(frame.nbytes for episode in running for frame in episode.recorder.kept)

    @property
    def ids(self) -> Ints:
        """Number of the episode of each sub-environment, -1 without one, shape ``(num_envs,)``."""
        return np.array([-1 if e is None else e.episode_id for e in self.slots], dtype=np.int64)

    def restore(
        self, episodes: Sequence[OpenEpisode], next_episode_id: int, late_task: Hashable
    ) -> None:
        """Replaces everything by a saved state; `book` must have these episodes already."""
        self.slots = [None] * len(self.slots)
        for episode in episodes:
            self.slots[episode.env_index] = episode
        self.next_episode_id, self.late_task = next_episode_id, late_task

    def start(self, start: Start, first_step: int) -> None:
        """Starts an episode.

        Args:
            start: What the reset returned.
            first_step: Number of the episode's first step.

        Raises:
            RuntimeError: If the environment does not reset as it declares.
        """
        episode = OpenEpisode(
            episode_id=self.next_episode_id,
            env_index=start.index,
            first_step=first_step,
            key=start.key,
            task=start.task,
            recorder=FrameRecorder(self._max_frames),
        )
        episode.recorder.add(start.frame)
        self._autoreset.start(start.index, start.frame)
        self.next_episode_id += 1
        self.slots[start.index] = episode
        self._book.start(episode)

    def abandon(self, index: int) -> None:
        """Drops the running episode of a sub-environment, if it has one."""
        running = self.slots[index]
        if running is not None:
            self._book.abandon(running)
            self.slots[index] = None

    def record_rewards(self, rewards: Array) -> None:
        """Records the environment's own rewards of a step, shape ``(num_envs,)``."""
        for running in self.slots:
            if running is not None:
                running.env_rewards.append(float(rewards[running.env_index]))

    def record(self, changes: Sequence[Change], step: int) -> list[OpenEpisode]:
        """Records the changes of a step, and returns the episodes that ended in it.

        Args:
            changes: Effect of the step on each sub-environment.
            step: Its number.

        Raises:
            RuntimeError: If the environment does not reset as it declares.
        """
        ended = []
        for change in changes:
            running = self.slots[change.index]
            if running is not None:
                running.success = change.success
            if running is not None and change.frame is not None:
                running.recorder.add(change.frame)
            elif running is not None and change.broken:
                self.abandon(change.index)
            elif running is not None and change.last_frame is not None:
                self.late_task = change.late_task
                self._end(running, change, step)
                ended.append(running)
            if change.start is not None:
                self.start(change.start, step + 1)
        return ended

    def _end(self, episode: OpenEpisode, change: Change, step: int) -> None:
        kept = episode.recorder.kept
        assert change.last_frame is not None
        self._autoreset.end(episode.env_index, kept[0], kept[-1], change.last_frame)
        episode.last_step = step
        if change.latent is None:
            episode.video = episode.recorder.video(change.last_frame)
            episode.frame_steps = episode.recorder.frame_numbers()
        else:
            episode.latent, episode.potential_steps = change.latent, change.latent_steps
        kept.clear()
        self.slots[episode.env_index] = None
