"""Rows of the benchmark: encoders that turn an episode into a path of latents."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.baselines import PixelEncoder, RandomProjectionEncoder
from srpo_env.encoders.named import named_encoder, split_name
from srpo_env.encoders.protocol import TrajectoryEncoder
from srpo_env.rewards.distances import Distance, coverage_distance
from srpo_env.system.files import read_json, sha256_of
from srpo_env.types import Ints, even_indices

Paths = npt.NDArray[np.float32]
Sequences = Sequence[npt.NDArray[Any]]

BASELINES = {
    "pixels": "frames averaged to 16 x 16 pixels",
    "random-projection": "the same frames, projected to 256 dimensions by a random matrix",
    "state": "positions of hand, object and fingers from the simulator: an upper bound",
    "random-vjepa": "an untrained V-JEPA 2 with random weights, as large as the bundled one",
}
"""Rows that need no training, and descriptions of their latents."""

NUM_TIMES = 16
"""Default number of times in a path: that of the bundled V-JEPA 2."""

SMALL_MODEL: dict[str, Any] = {
    "crop_size": 112,
    "patch_size": 16,
    "frames_per_clip": 16,
    "tubelet_size": 2,
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "pred_hidden_size": 96,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 3,
    "pred_num_mask_tokens": 1,
}
"""Configuration of the untrained V-JEPA 2 if no checkpoint provides one."""


@dataclass(frozen=True)
class Row:
    """One encoder of the benchmark."""

    name: str
    encode_paths: Callable[[Sequences], Paths]
    """Encodes videos, or sequences of states, to ``(N, num_times, dim)``."""
    key: str | None = None
    """Cache key of the latents: equal keys give equal latents; None if they are not cached."""
    sees_states: bool = False
    """Whether it encodes states instead of videos."""
    moment_frames: Callable[[int], Ints] | None = None
    """The encoder's own `moment_frames`: the last frame that each time shows."""
    distance: Distance = coverage_distance
    """The encoder's own distance of paths, to which the progress potential belongs."""

    def moments(self, num_frames: int, num_times: int) -> Ints:
        """Returns the last frame that each time of a path shows, ``(num_times,)``."""
        if self.moment_frames is not None:
            return self.moment_frames(num_frames)
        return even_indices(num_frames, num_times)


def make_rows(names: Sequence[str]) -> list[Row]:
    """Makes rows by name.

    Args:
        names: Names of `BASELINES`, or names that `named_encoder` accepts.

    Raises:
        ValueError: If a name is given twice, or does not name an encoder.
        FileNotFoundError: If a checkpoint does not exist.
    """
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"each encoder must be given once, got {', '.join(sorted(repeated))}")
    others = [name for name in names if name not in BASELINES and ":" not in name]
    checkpoints = [split_name(name)[0] for name in others]
    return [_make_row(name, checkpoints) for name in names]


def bundled_checkpoints() -> list[str]:
    """Lists the bundled checkpoints of V-JEPA 2, with the paper's and with their own pooling."""
    from srpo_env.encoders import vjepa2

    names = sorted(file.parent.name for file in vjepa2.WEIGHTS.glob("*/config.json"))
    return [name + pooling for name in names for pooling in ("@mean", "")]


def resampled(values: npt.NDArray[Any], num_times: int) -> npt.NDArray[Any]:
    """Selects evenly spaced rows, including the first and the last."""
    rows: npt.NDArray[Any] = values[even_indices(len(values), num_times)]
    return rows


def _make_row(name: str, checkpoints: Sequence[str]) -> Row:
    if name == "pixels":
        pixels = PixelEncoder(num_times=NUM_TIMES)
        return Row(name, lambda videos: _as_paths(pixels.encode(videos), NUM_TIMES))
    if name == "random-projection":
        projection = RandomProjectionEncoder(num_times=1)
        return Row(name, lambda videos: np.stack([_framewise(projection, v) for v in videos]))
    if name == "state":
        return Row(
            name,
            lambda states: np.stack([resampled(s, NUM_TIMES).astype(np.float32) for s in states]),
            sees_states=True,
        )
    if name == "random-vjepa":
        return _random_vjepa(name, checkpoints[0] if checkpoints else None)
    encoder = named_encoder(name)
    label = name if ":" in name else Path(name).resolve().name
    encode_paths = getattr(encoder, "encode_paths", None)
    if encode_paths is None and len(encoder.latent_shape) == 1:
        # A point is a path of one time.
        return Row(label, lambda videos: encoder.encode(videos)[:, None])
    key = None
    # Latents of user code are not cached: they may depend on more than its name.
    if ":" not in name:
        from srpo_env.encoders.vjepa2 import VJEPA2Encoder

        assert isinstance(encoder, VJEPA2Encoder)
        key = f"{_digest_of_files(encoder.checkpoint)} {encoder.pooling} {encoder.num_clips}"
    moments = getattr(encoder, "moment_frames", None)
    distance = getattr(encoder, "distance", None) or coverage_distance
    return Row(
        label, encode_paths or encoder.encode, key=key, moment_frames=moments, distance=distance
    )


def _framewise(encoder: TrajectoryEncoder, video: npt.NDArray[np.uint8]) -> Paths:
    return encoder.encode([frame[None] for frame in resampled(video, NUM_TIMES)])


def _random_vjepa(name: str, like: str | None) -> Row:
    import torch
    from safetensors.torch import save_file
    from transformers import VJEPA2Config, VJEPA2Model

    from srpo_env.encoders.preprocessing import VideoPreprocessing
    from srpo_env.encoders.vjepa2 import VJEPA2Encoder, find_checkpoint

    if like is None:
        config = VJEPA2Config(**SMALL_MODEL)
        preprocessing = VideoPreprocessing.for_crop(config.crop_size)
    else:
        config = VJEPA2Config.from_pretrained(find_checkpoint(like), local_files_only=True)
        preprocessing = VideoPreprocessing.read(find_checkpoint(like))
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = VJEPA2Model(config).state_dict()
        config.save_pretrained(folder)
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        preprocessing.write(Path(folder))
        encoder = VJEPA2Encoder(folder)
        key = _digest_of_files(Path(folder))
    return Row(name, encoder.encode_paths, key=key, moment_frames=encoder.moment_frames)


def _as_paths(latents: Paths, num_times: int) -> Paths:
    return latents.reshape(len(latents), num_times, -1)


def _digest_of_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.suffix == ".json":
            digest.update(json.dumps(read_json(file), sort_keys=True).encode())
        elif file.suffix == ".safetensors":
            digest.update(sha256_of(file).encode())
    return digest.hexdigest()
