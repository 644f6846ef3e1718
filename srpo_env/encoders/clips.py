"""Clips of recorded videos for training world models: random parts with augmentations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.encoders.preprocessing import VideoPreprocessing
from srpo_env.types import Video, even_indices


class DrawnClips(NamedTuple):
    """Clips, and the indices of their frames."""

    pixels: Tensor
    """Normalised, ``(batch, num_frames, 3, crop, crop)``."""
    frames: npt.NDArray[np.int64]
    """Frame indices in their videos, ``(batch, num_frames)``."""


@dataclass(frozen=True)
class Clips:
    """Videos in memory, from which clips are drawn."""

    videos: Sequence[Tensor]
    """Resized, each ``(num_frames, 3, height, width)``, uint8."""
    preprocessing: VideoPreprocessing
    num_frames: int
    """Number of frames of a clip."""
    min_window: float = 1.0
    """Minimum length of a clip, as a share of its video."""
    shift: int = 0
    """Maximum offset of a clip's crop from the middle, in pixels."""
    jitter: float = 0.0
    """Maximum relative change of brightness; half of it for each colour."""

    def draw(self, indices: Iterable[int], rng: np.random.Generator, device: str) -> DrawnClips:
        """Draws an augmented clip of each of the videos with these indices."""
        clips, shown = [], []
        for index in indices:
            video = self.videos[index]
            length = math.ceil(len(video) * rng.uniform(self.min_window, 1.0))
            start = int(rng.integers(len(video) - length + 1))
            shown.append(start + even_indices(length, self.num_frames))
            clips.append(self._shifted(video[shown[-1]], rng))
        images = torch.stack(clips).to(device).float()
        light = rng.uniform(1 - self.jitter, 1 + self.jitter, (len(clips), 1))
        light = light * rng.uniform(1 - self.jitter / 2, 1 + self.jitter / 2, (len(clips), 3))
        gain = torch.tensor(light, dtype=torch.float32, device=device)[:, None, :, None, None]
        pixels = self.preprocessing.normalize((images * gain).clamp_(0, 255))
        return DrawnClips(pixels, np.stack(shown))

    def whole(self, device: str) -> Tensor:
        """Returns all videos without augmentation, from first to last frame.

        Returns:
            Normalised, shape ``(num_videos, num_frames, 3, crop, crop)``.
        """
        frames = [video[even_indices(len(video), self.num_frames)] for video in self.videos]
        images = torch.stack([self.preprocessing.crop_middle(clip) for clip in frames])
        return self.preprocessing.normalize(images.to(device))

    def _shifted(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        crop, corner = self.preprocessing.crop, []
        for extent in frames.shape[-2:]:
            room = (extent - crop) // 2
            max_shift = min(self.shift, room)
            corner.append(room + int(rng.integers(-max_shift, max_shift + 1)))
        top, left = corner
        return frames[..., top : top + crop, left : left + crop]


def split_videos(
    videos: Iterable[Video], preprocessing: VideoPreprocessing, held_out: int, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Resizes videos and holds some of them out, drawn at random.

    Args:
        videos: Each ``(num_frames, height, width, 3)``.
        preprocessing: How they are resized.
        held_out: Number of videos to hold out.
        seed: Random seed of the split.

    Returns:
        Training videos and held-out videos, each ``(num_frames, 3, height, width)``.

    Raises:
        ValueError: If no training video would be left.
    """
    resized = [preprocessing.resize(torch.from_numpy(video)).contiguous() for video in videos]
    if len(resized) <= held_out:
        raise ValueError(
            f"there must be more videos than the {held_out} held out, got {len(resized)}: "
            "record more (`srpo-env record-behaviours`), or hold out fewer (--held-out)"
        )
    order = np.random.default_rng(seed).permutation(len(resized))
    return [resized[i] for i in order[held_out:]], [resized[i] for i in order[:held_out]]
