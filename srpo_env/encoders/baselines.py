"""Encoders without training: baselines for world models, fast enough for first experiments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.projection import random_projection
from srpo_env.types import Video, even_indices


class PixelEncoder:
    """Averages frames at evenly spaced times to a few pixels; measures visual similarity only.

    Examples:
        >>> encoder = PixelEncoder(num_times=2, size=4)
        >>> encoder.encode([np.zeros((5, 32, 32, 3), np.uint8)]).shape
        (1, 96)
    """

    def __init__(self, *, num_times: int = 8, size: int = 16) -> None:
        """Initialises the encoder.

        Args:
            num_times: Number of frames, evenly spaced, the first and the last among them.
            size: Height and width in pixels that a frame is averaged to.

        Raises:
            ValueError: If an argument is below 1.
        """
        if num_times < 1 or size < 1:
            raise ValueError(
                f"`num_times` and `size` must be at least 1, got {num_times} and {size}"
            )
        self.num_times = num_times
        self.size = size
        self.latent_shape: tuple[int, ...] = (num_times * size * size * 3,)
        self.settings = {"num_times": num_times, "size": size}

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos ``(num_frames, height, width, 3)`` to ``(num_videos, *latent_shape)``.

        Pixel values are scaled to [0, 1].
        """
        latents = np.empty((len(videos), *self.latent_shape), dtype=np.float32)
        for row, video in enumerate(videos):
            times = even_indices(len(video), self.num_times)
            latents[row] = _shrink(video[times], self.size).ravel() / 255.0
        return latents


class RandomProjectionEncoder:
    """Projects the latents of `PixelEncoder` with a random matrix, which nearly keeps distances."""

    def __init__(self, *, latent_dim: int = 256, seed: int = 0, num_times: int = 8) -> None:
        """Draws the random matrix.

        Args:
            latent_dim: Dimensions of a latent.
            seed: Random seed of the matrix.
            num_times: Number of frames, evenly spaced.
        """
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.settings = {"seed": seed, "num_times": num_times}
        self._pixels = PixelEncoder(num_times=num_times)
        self._matrix = random_projection(self._pixels.latent_shape[0], latent_dim, seed)

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos ``(num_frames, height, width, 3)`` to ``(num_videos, *latent_shape)``."""
        latents: npt.NDArray[np.float32] = self._pixels.encode(videos) @ self._matrix
        return latents


def _shrink(frames: Video, size: int) -> npt.NDArray[np.float32]:
    """Averages blocks of pixels to ``(num_frames, size, size, 3)``; repeats pixels if too few."""
    _, height, width, _ = frames.shape
    small = frames.astype(np.float32)
    for axis, extent in ((1, height), (2, width)):
        edges = np.arange(size) * extent // size
        blocks = np.maximum(np.diff(np.append(edges, extent)), 1)
        small = np.add.reduceat(small, edges, axis=axis)
        small /= blocks.reshape([-1 if a == axis else 1 for a in range(4)])
    return small
