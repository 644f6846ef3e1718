"""Measures the time that an encoder needs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import (
    TrajectoryEncoder,
    encoder_settings,
    moment_frames,
    reward_for,
)
from srpo_env.types import Ints, Video


class TimedEncoder:
    """Wraps an encoder and sums the seconds that it needs."""

    def __init__(self, encoder: TrajectoryEncoder) -> None:
        """Initialises the time with 0 seconds.

        Args:
            encoder: The encoder to measure.
        """
        self._encoder = encoder
        self.latent_shape = encoder.latent_shape
        self.distance = reward_for(encoder, None).distance
        self.settings = encoder_settings(encoder)
        self.seconds = 0.0
        """Seconds spent in `encode`; may be reset to 0."""

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos with the wrapped encoder."""
        start = time.monotonic()
        latents = self._encoder.encode(videos)
        self.seconds += time.monotonic() - start
        return latents

    def moment_frames(self, num_frames: int) -> Ints:
        """Returns the last frame of each moment of the wrapped encoder."""
        return moment_frames(self._encoder, num_frames)
