"""The form of recorded episodes in a run's folder, and their reader.

`srpo_env.training.sampled_episodes` decides what is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srpo_env.readers.arrays import read_npz
from srpo_env.system.files import DamagedFileError, parse_json
from srpo_env.types import Array, Bools, Floats, Ints, checked_count

EPISODES = "episodes"
"""name of the folder in a run's folder"""

FORMAT = "srpo-env episodes"
FORMAT_VERSION = 1

META = "meta"
"""name of the array that holds everything but the frames, as JSON"""

_NAME = re.compile(r"iteration_(\d+)\.npz")


@dataclass(frozen=True, eq=False)
class SampledEpisode:
    """One recorded episode."""

    num_steps: int
    """number of control steps"""
    steps: Ints
    """number of control steps before each decision and after the last one, ``(num_decisions + 1,)``
    """
    potential: Floats
    """progress potential at these steps, in [0, 1], same shape; empty if none was measured"""
    frame_steps: Ints
    """number of control steps before each frame, ``(num_frames,)``; none without frames"""
    strip: bytes
    """frames side by side as one JPEG, ``(height, num_frames * width)``; empty without frames"""


@dataclass(frozen=True, eq=False)
class SampledGroup:
    """Some episodes of a group, and the rewards of all."""

    task_id: int
    init_state_id: int
    rewards: Floats
    """reward of each episode of the group, ``(num_episodes,)``"""
    successes: Bools
    """whether each of them succeeded, ``(num_episodes,)``"""
    pairs: tuple[tuple[int, int | None], ...]
    """each failure that is shown and the success that is nearest to it, as rows of ``rewards``;
    None in a group without a success"""
    episodes: Mapping[int, SampledEpisode]
    """the episodes of these pairs, by their rows"""
    perturbation: str = ""
    """as text, empty without one"""


@dataclass(frozen=True, eq=False)
class Recording:
    """What one iteration has recorded."""

    iteration: int
    groups: tuple[SampledGroup, ...]


def episode_values(episode: SampledEpisode) -> dict[str, Any]:
    """Returns everything but the frames, for JSON."""
    return {
        "num_steps": episode.num_steps,
        "steps": episode.steps.tolist(),
        "potential": episode.potential.tolist(),
        "frame_steps": episode.frame_steps.tolist(),
    }


def read_recordings(folder: str | Path) -> list[Recording]:
    """Reads the recorded episodes of a run, in the order of their iterations.

    Args:
        folder: The run's folder; without recordings, the list is empty.

    Raises:
        DamagedFileError: If a file does not hold what was written to it.
        ValueError: If a file was written by another version of srpo-env.
    """
    files = {
        int(name[1]): file
        for file in (Path(folder) / EPISODES).glob("iteration_*.npz")
        if (name := _NAME.fullmatch(file.name))
    }
    return [_read(files[iteration]) for iteration in sorted(files)]


def _read(file: Path) -> Recording:
    arrays = read_npz(file)
    if META not in arrays or any(array.dtype != np.uint8 for array in arrays.values()):
        raise DamagedFileError(f"{file} must hold bytes, among them those of {META!r}")
    meta = parse_json(arrays[META].tobytes(), str(file))
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise DamagedFileError(f"{file} is not a file of format {FORMAT!r}")
    if meta.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} must have format version {FORMAT_VERSION}, got "
            f"{meta.get('format_version')!r}: use the version of srpo-env that wrote it"
        )
    try:
        groups = [_group(arrays, n, values) for n, values in enumerate(meta["groups"])]
        return Recording(checked_count("iteration", meta["iteration"]), tuple(groups))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise DamagedFileError(
            f"{file} is damaged: it does not hold recorded episodes "
            f"({type(error).__name__}: {error})"
        ) from error


def _group(arrays: Mapping[str, Array], number: int, values: Mapping[str, Any]) -> SampledGroup:
    rewards = _numbers("rewards", values["rewards"], -1e9, 1e9)
    successes = np.array(values["successes"])
    if successes.dtype != bool or successes.shape != rewards.shape:
        raise ValueError(f"successes must be a flag per reward, got {values['successes']!r}")
    pairs = tuple((failure, success) for failure, success in values["pairs"])
    used = {row for pair in pairs for row in pair if row is not None}
    if used != {int(row) for row in values["episodes"]}:
        raise ValueError("pairs must name the episodes that are recorded")
    if any(successes[failure] or not (s is None or successes[s]) for failure, s in pairs):
        raise ValueError("pairs must be failures and successes")
    episodes = {
        int(row): _episode(content, arrays[f"{number}.{row}"].tobytes())
        for row, content in values["episodes"].items()
    }
    return SampledGroup(
        task_id=checked_count("task_id", values["task_id"], minimum=0),
        init_state_id=checked_count("init_state_id", values["init_state_id"], minimum=0),
        rewards=rewards,
        successes=successes,
        pairs=pairs,
        episodes=episodes,
        perturbation=_text("perturbation", values.get("perturbation", "")),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value


def _episode(values: Mapping[str, Any], strip: bytes) -> SampledEpisode:
    num_steps = checked_count("num_steps", values["num_steps"])
    steps = _numbers("steps", values["steps"], 0, num_steps)
    potential = _numbers("potential", values["potential"], 0, 1)
    frame_steps = _numbers("frame_steps", values["frame_steps"], 0, num_steps)
    if len(steps) < 2 or len(potential) not in (0, len(steps)):
        raise ValueError("potential must have a value per moment, or none")
    if (np.diff(steps) < 0).any() or (np.diff(frame_steps) < 0).any():
        raise ValueError("numbers of steps must not fall")
    if (len(strip) > 0) != (len(frame_steps) > 0):
        raise ValueError("frames must have numbers of steps")
    return SampledEpisode(
        num_steps, steps.astype(np.int64), potential, frame_steps.astype(np.int64), strip
    )


def _numbers(name: str, values: Any, low: float, high: float) -> Floats:
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not ((array >= low) & (array <= high)).all():
        raise ValueError(f"{name} must be numbers in [{low:g}, {high:g}], got {values!r}")
    return array
