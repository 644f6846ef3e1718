"""Statistics of OpenVLA's training data, with which its actions are scaled.

They are in ``dataset_statistics.json`` next to the weights, or in ``norm_stats`` of
``config.json``. Checkpoints without either take them from another checkpoint of the same suite.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srpo_env.readers.pretrained import download, is_hub_id
from srpo_env.system.files import read_json

FILE = "dataset_statistics.json"

SOURCES = "moojink/openvla-7b-oft-finetuned-libero-{suite}"
"""checkpoints with statistics, of the suites spatial, object, goal and 10"""

_SUITE = re.compile(r"libero[-_]?(spatial|object|goal|10)(?![0-9])")


@dataclass(frozen=True)
class ActionStatistics:
    """Range of each action dimension in the training data."""

    q01: tuple[float, ...]
    """1% quantiles, which the policy's -1 stands for"""
    q99: tuple[float, ...]
    """99% quantiles, which the policy's 1 stands for"""
    mask: tuple[bool, ...]
    """dimensions that are scaled; the gripper is not"""

    def __post_init__(self) -> None:
        """Checks the lengths and values.

        Raises:
            ValueError: If they differ, or a quantile is not a number, or an empty range is scaled.
        """
        low, high = np.array(self.q01, dtype=float), np.array(self.q99, dtype=float)
        if low.ndim != 1 or not len(low) or low.shape != high.shape or len(self.mask) != len(low):
            raise ValueError(
                "`q01`, `q99` and `mask` must have one entry for each action dimension, got "
                f"{len(self.q01)}, {len(self.q99)} and {len(self.mask)}"
            )
        if not np.isfinite([low, high]).all() or not (low < high)[np.array(self.mask)].all():
            raise ValueError(f"`q01` must be below `q99`, got {self.q01} and {self.q99}")

    @classmethod
    def from_json(cls, content: Any, source: str) -> ActionStatistics:
        """Reads the entry ``action`` of a data set.

        Raises:
            ValueError: If it is not that.
        """
        try:
            low, high = content["q01"], content["q99"]
            mask = content.get("mask", [True] * len(low))
            if not all(isinstance(value, bool) for value in mask):
                raise TypeError("`mask` must have true and false only")
            return cls(tuple(map(float, low)), tuple(map(float, high)), tuple(mask))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{source} must hold lists `q01`, `q99` and `mask` ({type(error).__name__}: "
                f"{error})"
            ) from error


def read_statistics(
    folder: Path,
    config: Mapping[str, Any],
    name: str,
    other: str | Path | None = None,
    key: str | None = None,
) -> ActionStatistics:
    """Finds the statistics of a checkpoint.

    Args:
        folder: Folder of the checkpoint.
        config: Its ``config.json``.
        name: What the user calls the checkpoint; its suite is taken from it.
        other: Another checkpoint with statistics: a folder or an id of the hub. Default: the
            checkpoint's own, else `SOURCES` for the suite that ``name`` contains.
        key: Name of the data set, such as ``libero_object_no_noops``. Default: the only one of
            LIBERO, or that of the suite that ``name`` contains.

    Raises:
        ConnectionError: If a download fails.
        FileNotFoundError: If there are no statistics.
        ValueError: If they are damaged, or the data set is not among them.
    """
    match = _SUITE.search(name.lower())
    suite = match[1] if match else None
    content, source = config.get("norm_stats"), f"`norm_stats` of {folder / 'config.json'}"
    if other is None and (folder / FILE).is_file():
        content, source = read_json(folder / FILE), str(folder / FILE)
    elif other is not None or not _libero_keys(content):
        if other is None and suite is None:
            raise FileNotFoundError(
                f"{name} has no {FILE} and its name contains no suite of LIBERO: name another "
                "checkpoint with statistics, such as "
                f"{SOURCES.format(suite='object')}"
            )
        other = SOURCES.format(suite=suite) if other is None else other
        place = Path(other)
        if not place.is_dir() and is_hub_id(str(other)):
            place = download(str(other), FILE, [FILE])
        content, source = read_json(place / FILE), str(place / FILE)
    keys = list(content) if isinstance(content, Mapping) else []
    candidates = [key] if key else _libero_keys(content)
    if len(candidates) > 1 and suite is not None:
        candidates = [c for c in candidates if c.startswith(f"libero_{suite}")]
    if len(candidates) != 1 or candidates[0] not in keys:
        raise ValueError(
            f"the data set must be one of those in {source} ({', '.join(map(str, keys)) or 'none'})"
            f", got {key!r}: name one of them"
        )
    entry = content[candidates[0]] if isinstance(content, Mapping) else None
    action = entry.get("action") if isinstance(entry, Mapping) else None
    return ActionStatistics.from_json(action, f"`action` of {candidates[0]} in {source}")


def _libero_keys(content: Any) -> list[str]:
    names = content if isinstance(content, Mapping) else ()
    return [name for name in names if isinstance(name, str) and name.startswith("libero")]
