"""Checks the observations that policies get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PROPRIO_DIM = 8
"""Number of proprioception values: position, orientation as axis-angle, two fingers."""


def entry(observations: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    """Returns an observation.

    Raises:
        KeyError: If it is missing.
    """
    if name not in observations:
        raise KeyError(f"observations must hold {name!r}, got {', '.join(map(repr, observations))}")
    return observations[name]


def image_batch(
    observations: Mapping[str, npt.NDArray[Any]], name: str, batch: int
) -> npt.NDArray[np.uint8]:
    """Returns images of shape ``(batch, height, width, 3)``.

    Raises:
        KeyError: If they are missing.
        ValueError: If they are not uint8, or of another shape.
    """
    images = np.asarray(entry(observations, name))
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"`{name}` must be uint8 of shape (B, height, width, 3), "
            f"got {images.dtype} of shape {images.shape}"
        )
    check_rows(name, images, batch)
    return images


def proprio_batch(
    observations: Mapping[str, npt.NDArray[Any]], batch: int
) -> npt.NDArray[np.float32]:
    """Returns proprioception of shape ``(batch, PROPRIO_DIM)``.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is of another shape.
    """
    proprio = np.asarray(entry(observations, "proprio"), dtype=np.float32)
    if proprio.shape[1:] != (PROPRIO_DIM,):
        raise ValueError(f"`proprio` must have shape (B, {PROPRIO_DIM}), got {proprio.shape}")
    check_rows("proprio", proprio, batch)
    return proprio


def check_rows(name: str, values: npt.NDArray[Any], batch: int) -> None:
    """Checks the number of rows.

    Raises:
        ValueError: If there is not one for each instruction.
    """
    if len(values) != batch:
        raise ValueError(
            f"`{name}` must have one row for each of the {batch} instructions, got {len(values)}"
        )
