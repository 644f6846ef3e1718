"""Encoders, which map an episode's video to one latent."""

from typing import TYPE_CHECKING, Any

from srpo_env.encoders.baselines import PixelEncoder, RandomProjectionEncoder
from srpo_env.encoders.protocol import TrajectoryEncoder

if TYPE_CHECKING:
    from srpo_env.encoders.vjepa2 import VJEPA2Encoder

__all__ = ["PixelEncoder", "RandomProjectionEncoder", "TrajectoryEncoder", "VJEPA2Encoder"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because torch and transformers take seconds.
    if name == "VJEPA2Encoder":
        from srpo_env.encoders.vjepa2 import VJEPA2Encoder

        return VJEPA2Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
