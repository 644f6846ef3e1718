"""Encoders by name, as command lines have them."""

from __future__ import annotations

import importlib
from pathlib import Path

from srpo_env.encoders.baselines import PixelEncoder
from srpo_env.encoders.protocol import TrajectoryEncoder

WORLD_MODEL = "libero-vjepa2"
"""Name of the world model that ships and is the default"""

HELP = (
    "a checkpoint of V-JEPA 2 (a folder, the name of one that ships, an id of the Hugging Face "
    "hub), with @mean after it for the paper's pooling where another is its default; pixels; or "
    "MODULE:NAME of what makes an encoder when called without arguments"
)
"""What a name may be"""


def named_encoder(name: str = WORLD_MODEL) -> TrajectoryEncoder:
    """Makes an encoder.

    Args:
        name: What `HELP` says.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ModuleNotFoundError: If torch, transformers or the named module is not installed.
        ValueError: If the name makes no encoder.
    """
    if name == "pixels":
        return PixelEncoder()
    module, colon, attribute = name.partition(":")
    if colon and not Path(name).is_dir():
        maker = getattr(importlib.import_module(module), attribute, None)
        rule = (
            "an encoder must be MODULE:NAME of what makes an object with `latent_shape` and "
            f"`encode(videos)` when called without arguments, got {name!r}"
        )
        try:
            encoder = maker() if callable(maker) else None
        except TypeError as error:
            raise ValueError(f"{rule}: {error}") from error
        if not isinstance(encoder, TrajectoryEncoder):
            raise ValueError(rule)
        return encoder
    # Imported here: torch and transformers take seconds.
    from srpo_env.encoders.vjepa2 import VJEPA2Encoder, as_pooling

    checkpoint, pooling = split_name(name)
    return VJEPA2Encoder(checkpoint, pooling=as_pooling(pooling) if pooling else None)


def split_name(name: str) -> tuple[str, str]:
    """A checkpoint's name, and the pooling after ``@`` or an empty string."""
    checkpoint, at, pooling = name.rpartition("@")
    return (checkpoint, pooling) if at and not Path(name).is_dir() else (name, "")


def default_encoder() -> TrajectoryEncoder:
    """The world model that ships.

    Raises:
        ModuleNotFoundError: If torch or transformers is not installed.
    """
    try:
        return named_encoder()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the default encoder is a world model and needs {error.name}: run "
            "`pip install 'srpo-env[encoders]'`, or pass another, such as srpo_env.PixelEncoder()",
            name=error.name,
        ) from error
