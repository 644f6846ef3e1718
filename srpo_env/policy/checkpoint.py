"""Checkpoints of policies: ``NAME.safetensors`` with the weights, ``NAME.json`` with the rest.

Both are data, not code. The JSON file holds the policy's settings, how it was trained, and the
SHA-256 of the weights, so that files of different checkpoints are not mixed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from srpo_env.readers.arrays import read_safetensors
from srpo_env.system.files import DamagedFileError, read_versioned_json, sha256_of, write_file

logger = logging.getLogger(__name__)

FORMAT = "srpo-env policy"
FORMAT_VERSION = 1

WEIGHTS = Path(__file__).parent.parent / "weights"
"""folder of the bundled checkpoints"""


def save_checkpoint(
    path: str | Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a checkpoint; each of its files is replaced in one step.

    Args:
        path: Folder and name, without an extension.
        weights: State dict of the policy.
        config: Settings of the policy, for JSON.
        provenance: Description of the training, for JSON.
        dtype: Data type of the stored weights; they are read as float32.
    """
    stem = Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    blob = save_tensors({k: v.detach().cpu().to(dtype).contiguous() for k, v in weights.items()})
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": dict(config),
        "provenance": dict(provenance),
        "sha256": hashlib.sha256(blob).hexdigest(),
    }
    write_file(_file(stem, ".safetensors"), blob)
    write_file(_file(stem, ".json"), json.dumps(header, indent=2).encode() + b"\n")


def load_checkpoint(
    path: str | Path, dtype: torch.dtype | None = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint: weights, and the content of the JSON file.

    Args:
        path: A checkpoint, see `resolve_checkpoint`.
        dtype: Data type of the weights; None: the stored one.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a file is damaged or of another format version, or the files do not match.
    """
    stem = resolve_checkpoint(path)
    header_file, weights_file = _file(stem, ".json"), _file(stem, ".safetensors")
    header = read_header(stem)
    if sha256_of(weights_file) != header.get("sha256"):
        raise DamagedFileError(
            f"{weights_file} does not match {header_file.name}: it is damaged, incomplete, or of "
            "another checkpoint"
        )
    weights = read_safetensors(weights_file)
    return {name: value.to(dtype or value.dtype) for name, value in weights.items()}, header


def read_header(path: str | Path) -> dict[str, Any]:
    """Reads the JSON file of a checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the file is damaged or of another format version.
    """
    file = _file(resolve_checkpoint(path), ".json")
    return read_versioned_json(file, FORMAT, FORMAT_VERSION)


def has_checkpoint(path: str | Path) -> bool:
    """Returns whether a path or name is that of a checkpoint of this package."""
    try:
        resolve_checkpoint(path)
    except FileNotFoundError:
        return False
    return True


def warn_about_look(path: str | Path, look: str) -> None:
    """Warns if a checkpoint's policy was trained on images of another look.

    Args:
        path: A checkpoint, as in `load_policy`; published ones do not record their look.
        look: The look that it will see, as in `srpo_env.libero.look`.
    """
    provenance = read_header(path).get("provenance") if has_checkpoint(path) else None
    conditions = provenance.get("conditions") if isinstance(provenance, dict) else None
    trained = conditions.get("look") if isinstance(conditions, dict) else None
    if trained not in (None, look):
        logger.warning(
            "%s was trained on images with look=%r and now sees look=%r: pass `--look %s`, unless "
            "the change is intended",
            path,
            trained,
            look,
            trained,
        )


def resolve_checkpoint(path: str | Path) -> Path:
    """Finds a checkpoint by its path, with or without extension, or by the name of a bundled one.

    Returns:
        Folder and name, without an extension.

    Raises:
        FileNotFoundError: If one of its two files is missing.
    """
    stem = Path(path)
    if stem.suffix in (".safetensors", ".json"):
        stem = stem.with_suffix("")
    candidates = [stem, WEIGHTS / stem] if len(stem.parts) == 1 else [stem]
    for candidate in candidates:
        if _file(candidate, ".json").is_file() and _file(candidate, ".safetensors").is_file():
            return candidate
    bundled = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
    raise FileNotFoundError(
        "a checkpoint must be a path to NAME.safetensors with NAME.json next to it, or the name of "
        f"a bundled one ({', '.join(bundled) or 'none'}), got {str(path)!r}"
    )


def _file(stem: Path, extension: str) -> Path:
    return stem.with_name(stem.name + extension)
