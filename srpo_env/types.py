"""What is kept of an episode: bounded frames while it runs, numbers and a latent afterwards."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Video = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode and its reward."""

    episode_id: int
    """unique within a wrapper, counting from 0 in the order of the starts"""
    env_index: int
    """sub-environment in which it ran"""
    first_step: int
    """number of its first step, counting the calls of `step` from 0"""
    last_step: int
    """number of the step that ended it; its reward belongs there"""
    success: bool
    env_return: float
    """sum of the environment's own rewards"""
    last_env_reward: float
    """the environment's own reward of the last step, which `rewrite` adds the progress reward to"""
    distance: float
    """from its latent to the nearest center, L2 or as the wrapper was told; NaN where there was no
    success to compare with"""
    progress_reward: float
    """1 for a success; for a failure below the weight, and 0 in a group that is not shaped"""
    nearest_center: int
    """row of that center in `Group.centers`; -1 without"""
    latent: npt.NDArray[np.float32]
    """the encoder's vector, shape ``(latent_dim,)``"""

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last_step - self.first_step + 1


@dataclass(frozen=True, eq=False)
class Group:
    """Episodes that were compared with each other, in the order in which they started."""

    key: Hashable
    """what `group_key` returned for each of them"""
    task: Hashable
    """what `task_key` returned for each of them"""
    episodes: tuple[Episode, ...]
    centers: npt.NDArray[np.float64]
    """what the distances lead to, shape ``(num_centers, latent_dim)``; of the task or memory with
    those references"""
    num_clusters: int
    """centers that are the mean of several successes"""
    num_singles: int
    """centers that are one success without neighbours"""

    @property
    def num_successes(self) -> int:
        """Number of its own episodes that succeeded."""
        return sum(episode.success for episode in self.episodes)

    @property
    def shaped(self) -> bool:
        """Whether a failure in it was rewarded for its progress."""
        return any(not e.success and not np.isnan(e.distance) for e in self.episodes)

    @cached_property
    def rewards(self) -> npt.NDArray[np.float64]:
        """Progress rewards of the episodes, shape ``(len(episodes),)``."""
        return np.array([episode.progress_reward for episode in self.episodes])

    @cached_property
    def latents(self) -> npt.NDArray[np.float32]:
        """Latents of the episodes, shape ``(len(episodes), latent_dim)``."""
        return np.stack([episode.latent for episode in self.episodes])


@dataclass
class FrameRecorder:
    """Keeps a video of any length in less than ``2 * max_frames`` frames.

    Every `stride`-th frame is kept; when that makes ``2 * max_frames``, every other one goes and
    the stride doubles. So there are always ``max_frames`` or more to choose from, and a chosen
    frame is at most half a stride from its even place. The last frame is handed in at the end:
    frames between the strides need not be copied, as none of them was the last.
    """

    max_frames: int
    """frames to hand over, at least 2: the first and the last"""
    num_seen: int = 0
    stride: int = 1
    kept: list[Video] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the setting."""
        self.max_frames = checked_count("max_frames", self.max_frames, at_least=2)

    def add(self, frame: Video) -> None:
        """Takes the next frame but the last, shape ``(height, width, 3)``."""
        if self.num_seen % self.stride == 0:
            # Copied, as environments reuse the arrays that they return.
            self.kept.append(np.array(frame))
            if len(self.kept) == 2 * self.max_frames:
                self.kept = self.kept[::2]
                self.stride *= 2
        self.num_seen += 1

    def video(self, last_frame: Video) -> Video:
        """The frames to encode, evenly spaced, the first and the last among them.

        Returns:
            Shape ``(num_frames, height, width, 3)``, where ``num_frames`` is ``max_frames``, or
            the number of frames of the episode where that is smaller.
        """
        last = self.num_seen
        if last < self.max_frames:
            return np.stack([*self.kept, last_frame])
        # The kept frame nearest to i * last / intervals, rounded in whole numbers: with floats,
        # places halfway between two frames could name one frame twice.
        intervals, stride = self.max_frames - 1, self.stride
        rows = [
            (2 * i * last + intervals * stride) // (2 * intervals * stride)
            for i in range(intervals)
        ]
        return np.stack([*(self.kept[row] for row in rows), last_frame])


def checked_count(name: str, value: int, *, at_least: int = 1) -> int:
    """The value of a setting that counts something, as Python's own int, so that it can be saved.

    Raises:
        ValueError: If it is not a whole number, or too small.
    """
    if not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"`{name}` must be a whole number and at least {at_least}, got {value!r}")
    return int(value)
