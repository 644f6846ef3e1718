"""Encoders by name, for command lines."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from srpo_env.encoders.baselines import PixelEncoder
from srpo_env.encoders.protocol import TrajectoryEncoder

WORLD_MODEL = "libero-vjepa2"
"""Name of the bundled world model, which is the default."""

HELP = (
    "a checkpoint of V-JEPA 2 (a folder, the name of a bundled one, or an id of the Hugging Face "
    "hub), followed by @mean for the paper's pooling if that is not its default; pixels; or "
    "MODULE:NAME of a class or function that returns an encoder when called without arguments"
)
"""Description of the names for ``--help``."""


def named_encoder(name: str = WORLD_MODEL) -> TrajectoryEncoder:
    """Makes an encoder.

    Args:
        name: A name as described by `HELP`.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ModuleNotFoundError: If torch, transformers or the named module is not installed.
        ValueError: If the name does not describe an encoder.
    """
    if name == "pixels":
        return PixelEncoder()
    module, colon, attribute = name.partition(":")
    if colon and not Path(name).is_dir():
        factory = getattr(_imported(module, name), attribute, None)
        rule = (
            "MODULE:NAME must be a class or function that returns an object with `latent_shape` "
            f"and `encode(videos)` when called without arguments, got {name!r}"
        )
        try:
            encoder = factory() if callable(factory) else None
        except TypeError as error:
            raise ValueError(f"{rule}: {error}") from error
        if not isinstance(encoder, TrajectoryEncoder):
            raise ValueError(rule)
        return encoder
    # Imported here, because torch and transformers take seconds.
    from srpo_env.encoders.vjepa2 import VJEPA2Encoder, as_pooling, find_checkpoint

    checkpoint, pooling = split_name(name)
    if checkpoint == "pixels":
        raise ValueError(f"pixels has no pooling: pass pixels, got {name!r}")
    try:
        folder = find_checkpoint(checkpoint)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. Other encoders: pixels, or MODULE:NAME") from error
    return VJEPA2Encoder(folder, pooling=as_pooling(pooling) if pooling else None)


def _imported(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Not an advice to install it: the module is most likely a file of the user.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"the module {module!r} of the encoder {name!r} was not found: add its folder to "
            f"PYTHONPATH, as in `PYTHONPATH=folder srpo-env ...`",
            name=error.name,
        ) from error


def split_name(name: str) -> tuple[str, str]:
    """Splits a name into the checkpoint and the pooling after ``@``, empty if there is none."""
    checkpoint, at, pooling = name.rpartition("@")
    return (checkpoint, pooling) if at and not Path(name).is_dir() else (name, "")


def default_encoder() -> TrajectoryEncoder:
    """Makes the bundled world model.

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
