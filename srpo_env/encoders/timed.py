"""Measures the time that an encoder takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import TrajectoryEncoder, encoder_settings, reward_for
from srpo_env.types import Video


class TimedEncoder:
    """Wraps an encoder and sums the seconds that it takes."""

    def __init__(self, encoder: TrajectoryEncoder) -> None:
        """Starts at 0 seconds."""
        self._encoder = encoder
        self.latent_shape = encoder.latent_shape
        self.distance = reward_for(encoder, None).distance
        self.settings = encoder_settings(encoder)
        self.seconds = 0.0
        """time spent in `encode`; may be reset to 0"""

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos with the wrapped encoder."""
        start = time.monotonic()
        latents = self._encoder.encode(videos)
        self.seconds += time.monotonic() - start
        return latents
