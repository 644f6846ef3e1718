"""What encoding costs, as any encoder is used."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import TrajectoryEncoder, encoder_settings, reward_for


class TimedEncoder:
    """Does what another encoder does, and counts the seconds."""

    def __init__(self, encoder: TrajectoryEncoder) -> None:
        """Counts from 0."""
        self._encoder = encoder
        self.latent_shape = encoder.latent_shape
        self.distance = reward_for(encoder, None).distance
        self.settings = encoder_settings(encoder)
        self.seconds = 0.0
        """spent in `encode`; may be set back"""

    def encode(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Encodes videos as the other does."""
        began = time.monotonic()
        latents = self._encoder.encode(videos)
        self.seconds += time.monotonic() - began
        return latents
