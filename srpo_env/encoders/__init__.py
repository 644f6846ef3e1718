"""Encoders: an episode's video in, one latent out."""

from srpo_env.encoders.baselines import PixelEncoder, RandomProjectionEncoder
from srpo_env.encoders.protocol import TrajectoryEncoder

__all__ = ["PixelEncoder", "RandomProjectionEncoder", "TrajectoryEncoder"]
