"""Latents of a file's episodes: whole, over growing windows, and shifted; kept once computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward import image_shifts
from srpo_env.benchmarks.reward.encoder_rows import Paths, Row
from srpo_env.benchmarks.reward.image_shifts import SHIFTS
from srpo_env.benchmarks.reward.metrics import window_ends
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.libero.demos import recording_settings

Floats = npt.NDArray[np.float64]

SHIFTED_WINDOWS = {f"{shift} windows": shift for shift in SHIFTS}
"""Windows with changed frames, and the name of the change"""

PARTS = ("whole", "windows", *SHIFTS, *SHIFTED_WINDOWS)
"""What is encoded of the episodes"""

MAX_SHIFTED = 20
"""successes of a task whose windows are encoded with changed frames, being many"""


@dataclass(frozen=True)
class TaskLatents:
    """What a row made of the episodes of one file."""

    whole: Paths
    """``(num_episodes, num_times, dim)``"""
    windows: Paths
    """of windows that begin with the episode and grow, ``(num_episodes, num_windows, ...)``"""
    shifted: dict[str, Paths]
    """whole episodes with changed frames, by the name of the shift; none of states"""
    shifted_windows: dict[str, Paths]
    """the windows of the first `MAX_SHIFTED` successes, with the same changed frames"""


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
    """Encodes the episodes of a file, or reads what was encoded before.

    Args:
        row: The encoder.
        file: Where the episodes come from.
        episodes: All of it.
        states: Those of each episode, for a row that sees them.
        num_windows: Of each episode's growing windows.
        cache: Folder of what is kept.
        progress: Called after each of `PARTS`.
    """
    sequences: list[npt.NDArray[Any]]
    if row.sees_states:
        assert states is not None
        sequences = list(states)
    else:
        sequences = [episode.frames for episode in episodes]
    kept = cache / f"{row.name}-{_digest([row.key, _digest_of(file), num_windows, _shifts()])}.npz"
    parts: dict[str, Paths] = {}
    if row.key is not None and kept.is_file():
        with np.load(kept) as arrays:
            parts = dict(arrays)
    missing = [name for name in PARTS if name not in parts]
    if row.sees_states:
        missing = ["whole", "windows"]
    for name in PARTS:
        if name in missing:
            parts[name] = _encode(row, name, episodes, sequences, num_windows)
        progress(name)
    if row.key is not None and missing:
        _save(kept, parts)
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
    """One of `PARTS`; ``sequences`` are the episodes' frames, or states."""
    if shift_name := SHIFTED_WINDOWS.get(part, part if part in SHIFTS else None):
        shift = SHIFTS[shift_name](episodes[0].task_id)
        # Of all episodes in their order: some changes draw anew for each.
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
    """The simulator's states at the times of each episode's frames, ``(num_frames, 7)``.

    Read from beside the file, or else the episodes are played again, once.

    Raises:
        ValueError: If the episodes cannot be played again, or one goes otherwise than recorded.
    """
    beside = states_file(file)
    kept = beside if beside.is_file() else cache / f"states-{_digest_of(file)[:16]}.npz"
    if not kept.is_file():
        recording = recording_settings(file) or {}
        if "chunk" not in recording or "max_steps" not in recording:
            raise ValueError(
                f"{str(file)!r} must say `chunk` and `max_steps` for its episodes to be played "
                f"again, or {beside.name} must lie beside it: leave out the row 'state'"
            )
        # Imported here: everything else is done without a simulator.
        from srpo_env.benchmarks.reward.simulator_states import replay_states

        chunk, max_steps = recording["chunk"], recording["max_steps"]
        save_states(kept, replay_states(episodes, chunk=chunk, max_steps=max_steps))
    with np.load(kept) as arrays:
        return np.split(arrays["states"], np.cumsum(arrays["lengths"])[:-1])


def states_file(file: Path) -> Path:
    """Where the states of a file's episodes are, if they were noted when it was recorded."""
    return file.with_suffix(".states.npz")


def save_states(path: Path, states: Sequence[Floats]) -> None:
    """Writes what `task_states` reads."""
    _save(path, {"states": np.concatenate(states), "lengths": np.array(list(map(len, states)))})


def _shifts() -> list[Any]:
    """What decides the shifts."""
    return [value for name, value in sorted(vars(image_shifts).items()) if name.isupper()
            and isinstance(value, float | tuple)]  # fmt: skip


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _digest_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(path)
