"""Encodes a file's episodes: whole, in growing windows and with shifted frames; with a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward.encoder_rows import Paths, Row
from srpo_env.benchmarks.reward.image_shifts import SHIFTS, shift_of
from srpo_env.benchmarks.reward.metrics import window_ends
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.demos import recording_settings
from srpo_env.libero.perturbations import as_text
from srpo_env.readers.arrays import read_npz
from srpo_env.system.files import sha256_of
from srpo_env.types import Floats

SHIFTED_WINDOWS = {f"{shift} windows": shift for shift in SHIFTS}
"""Names of the windows with shifted frames, and of their shifts."""

PARTS = ("whole", "windows", *SHIFTS, *SHIFTED_WINDOWS)
"""Parts of the episodes that are encoded."""

MAX_SHIFTED = 20
"""Number of successes per task whose windows are encoded with shifted frames; limits the cost."""


@dataclass(frozen=True)
class TaskLatents:
    """Latents of the episodes of one file by one row."""

    whole: Paths
    """Whole episodes, ``(num_episodes, num_times, dim)``."""
    windows: Paths
    """Growing windows from the episode's start, ``(num_episodes, num_windows, ...)``."""
    shifted: dict[str, Paths]
    """Whole episodes with shifted frames, by the name of the shift; empty for states."""
    shifted_windows: dict[str, Paths]
    """Windows of the first `MAX_SHIFTED` successes with shifted frames, by name of the shift."""


def task_latents(
    row: Row,
    file: Path,
    episodes: Sequence[BehaviourEpisode],
    states: Sequence[Floats] | None,
    *,
    num_windows: int,
    cache: Path,
    progress: Callable[[str], object],
) -> TaskLatents:
    """Encodes the episodes of a file, or reads their latents from the cache.

    Args:
        row: The encoder.
        file: File of the episodes.
        episodes: All episodes of the file.
        states: States of each episode; needed if the row encodes states.
        num_windows: Number of growing windows per episode.
        cache: Folder of the cached latents.
        progress: Called after each of `PARTS`.
    """
    sequences: list[npt.NDArray[Any]]
    if row.sees_states:
        assert states is not None
        sequences = list(states)
    else:
        sequences = [episode.frames for episode in episodes]
    digest = _digest([row.key, sha256_of(file), num_windows, _shift_constants()])
    cached = cache / f"{row.name}-{digest}.npz"
    parts: dict[str, Paths] = {}
    if row.key is not None and cached.is_file():
        parts = _read_cached(cached)
    missing = [name for name in PARTS if name not in parts]
    if row.sees_states:
        missing = ["whole", "windows"]
    for name in PARTS:
        if name in missing:
            parts[name] = _encode(row, name, episodes, sequences, num_windows)
        progress(name)
    if row.key is not None and missing:
        _save(cached, parts)
    return TaskLatents(
        parts["whole"],
        parts["windows"],
        {shift: parts[shift] for shift in SHIFTS if shift in parts},
        {shift: parts[name] for name, shift in SHIFTED_WINDOWS.items() if name in parts},
    )


def _encode(
    row: Row,
    part: str,
    episodes: Sequence[BehaviourEpisode],
    sequences: Sequence[npt.NDArray[Any]],
    num_windows: int,
) -> Paths:
    """Encodes one of `PARTS`; ``sequences`` are the frames or states of the episodes."""
    if shift_name := SHIFTED_WINDOWS.get(part, part if part in SHIFTS else None):
        shift = shift_of(shift_name, episodes[0].task_id)
        sequences = [shift(frames) for frames in sequences]
    if part in SHIFTED_WINDOWS:
        succeeded = [s for s, episode in zip(sequences, episodes, strict=True) if episode.success]
        sequences = succeeded[:MAX_SHIFTED]
    if "windows" not in part:
        return row.encode_paths(sequences)
    windows = [s[:end] for s in sequences for end in window_ends(len(s), num_windows)]
    flat = row.encode_paths(windows)
    return flat.reshape(len(sequences), num_windows, *flat.shape[1:])


def task_states(file: Path, episodes: Sequence[BehaviourEpisode], cache: Path) -> list[Floats]:
    """Returns the simulator's states at the times of each episode's frames.

    Reads them from the file beside the episodes or from the cache; otherwise replays the episodes
    once and caches the states.

    Returns:
        Each ``(num_frames, 7)``.

    Raises:
        ValueError: If the episodes cannot be replayed, or a replay differs from the recording.
    """
    recorded = states_file(file)
    cached = recorded if recorded.is_file() else cache / f"states-{sha256_of(file)[:16]}.npz"
    if not cached.is_file():
        recording = recording_settings(file) or {}
        if "chunk" not in recording or "max_steps" not in recording:
            raise ValueError(
                f"the row 'state' needs {recorded.name} beside {str(file)!r}, or the settings "
                "`chunk` and `max_steps` in that file to replay its episodes, and both are "
                "missing: leave out the row 'state'"
            )
        # Imported here, because everything else runs without a simulator.
        from srpo_env.benchmarks.reward.simulator_states import replay_states

        chunk, max_steps = recording["chunk"], recording["max_steps"]
        save_states(cached, replay_states(episodes, chunk=chunk, max_steps=max_steps))
    arrays = _read_cached(cached)
    lengths = [len(episode.frames) for episode in episodes]
    if (
        arrays.keys() != {"states", "lengths"}
        or arrays["lengths"].tolist() != lengths
        or len(arrays["states"]) != sum(lengths)
    ):
        raise ValueError(
            f"{cached} must hold states of {len(lengths)} episodes with {sum(lengths)} frames "
            "together, as the file of the episodes: delete it, or record the episodes again"
        )
    return np.split(arrays["states"], np.cumsum(lengths)[:-1])


def states_file(file: Path) -> Path:
    """Returns the path of a file's states, which exists if they were recorded with the episodes."""
    return file.with_suffix(".states.npz")


def save_states(path: Path, states: Sequence[Floats]) -> None:
    """Writes states in the format that `task_states` reads."""
    _save(path, {"states": np.concatenate(states), "lengths": np.array(list(map(len, states)))})


def _shift_constants() -> list[Any]:
    """Returns the constants that define the shifts, for the cache key."""
    return [as_text((perturbation,)) for perturbation in SHIFTS.values()]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _read_cached(file: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return read_npz(file)
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and it is made again") from error


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)
