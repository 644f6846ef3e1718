"""Reads and writes files of behaviours, one HDF5 file per task and kind of assets.

``data/episode_0``, ... each hold ``obs/agentview_rgb`` (upright), ``progress``, and as attributes
everything that is needed to play the episode again: task, initial state, kind, seed. Needs no
simulator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srpo_env.libero.demos import IMAGE_KEYS, read_demos
from srpo_env.libero.hdf5 import find_files, whole_file
from srpo_env.readers.hdf5 import Hdf5Group, check_is_video, open_hdf5
from srpo_env.system.files import DamagedFileError
from srpo_env.types import Floats

Frames = npt.NDArray[np.uint8]

FORMAT = "srpo-env behaviours"

VIDEO = f"obs/{IMAGE_KEYS['agentview']}"


@dataclass(frozen=True)
class BehaviourEpisode:
    """One episode: frames of the camera, and the oracle progress at the same times."""

    task_id: int
    """Index in its suite."""
    init_state_id: int
    kind: str
    seed: int
    success: bool
    num_steps: int
    """Number of control steps."""
    frames: Frames
    """``agentview`` at the start, after every chunk and at the end, upright; (T, H, W, 3)."""
    progress: Floats
    """Oracle progress (`OracleProgress`) at each frame, ``(T,)``."""

    @property
    def max_progress(self) -> float:
        """Maximum oracle progress over the frames."""
        return float(self.progress.max())


class BehaviourWriter:
    """Appends episodes to an open file."""

    def __init__(self, data: h5py.Group) -> None:
        """Marks the group ``data`` of a new file as a group of behaviours."""
        data.attrs["format"] = FORMAT
        self._data = data

    def add(self, episode: BehaviourEpisode) -> None:
        """Writes one episode."""
        group = self._data.create_group(f"episode_{len(self._data)}")
        for name in ("task_id", "init_state_id", "kind", "seed", "success", "num_steps"):
            group.attrs[name] = getattr(episode, name)
        group["progress"] = episode.progress
        frames = episode.frames
        group.create_dataset(
            VIDEO,
            data=frames,
            chunks=(1, *frames.shape[1:]),
            compression="gzip",
            compression_opts=1,
        )


@contextmanager
def writing_behaviours(
    path: str | Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[BehaviourEpisode], None]]:
    """Opens a new file that appears at ``path`` if the block ends without an error.

    Args:
        path: The file to write.
        settings: The settings of the recording, serialisable to JSON.

    Yields:
        A function that appends an episode.
    """
    with whole_file(path) as file:
        data = file.create_group("data")
        data.attrs["recording"] = json.dumps(settings)
        yield BehaviourWriter(data).add


def read_behaviours(source: str | Path | Iterable[str | Path]) -> Iterator[BehaviourEpisode]:
    """Yields the episodes of files, one in memory at a time.

    Args:
        source: A folder (all its ``*.hdf5`` files, sorted by name), a file, or several of either.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no HDF5 file.
        ValueError: If a file is not an HDF5 file, or was not recorded by
            ``srpo-env record-behaviours``.
    """
    for path in find_files(source, "srpo-env record-behaviours"):
        if not _holds_behaviours(path):
            raise ValueError(
                f"{str(path)!r} must be a file recorded by `srpo-env record-behaviours`"
            )
        yield from _read(path)


def read_videos(source: str | Path | Iterable[str | Path], chunk: int = 8) -> Iterator[Frames]:
    """Yields agent-view videos of behaviours, and of demonstrations in LIBERO's layout.

    Args:
        source: A folder (all its ``*.hdf5`` files, sorted by name), a file, or several of either.
        chunk: Control steps between two frames of a demonstration, which has an image per control
            step; the last image is always included.

    Yields:
        Upright frames, each video ``(num_frames, height, width, 3)``.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no HDF5 file.
        ValueError: If a file is not an HDF5 file, or has another layout.
    """
    for path in find_files(source, "srpo-env record-behaviours"):
        if _holds_behaviours(path):
            yield from (episode.frames for episode in _read(path))
        else:
            for demo in read_demos(path):
                frames = demo.images["agentview"]
                times = np.append(np.arange(0, len(frames) - 1, chunk), len(frames) - 1)
                yield frames[times]


def _holds_behaviours(path: Path) -> bool:
    with open_hdf5(path) as file:
        data = file.group("data")
        return data is not None and data.text("format") == FORMAT


def _read(path: Path) -> Iterator[BehaviourEpisode]:
    with open_hdf5(path) as file:
        data = file.group("data")
        assert data is not None  # the file was checked before
        for number in range(len(data.names())):
            group = data.group(f"episode_{number}")
            if group is None:
                raise DamagedFileError(f"{str(path)!r} is damaged: it lacks data/episode_{number}")
            yield _read_episode(group)


def _read_episode(group: Hdf5Group) -> BehaviourEpisode:
    kind, frames, progress = group.text("kind"), group.array(VIDEO), group.array("progress")
    names = ("task_id", "init_state_id", "seed", "num_steps", "success")
    numbers = {name: group.number(name) for name in names}
    missing = [
        name for name, value in numbers.items() if value is None or not float(value).is_integer()
    ]
    if kind is None or frames is None or progress is None or missing:
        raise DamagedFileError(
            f"{group.place} must have {VIDEO}, `progress`, the attribute `kind`, and integers as "
            f"attributes {', '.join(names)}"
        )
    check_is_video(frames, group.place)
    values = progress.read() if progress.shape == (len(frames),) else np.array(np.nan)
    if not np.isfinite(values).all():
        raise DamagedFileError(
            f"{progress.place} must have one finite number per frame, {len(frames)}, got shape "
            f"{progress.shape}"
        )
    integers = {name: int(value) for name, value in numbers.items() if value is not None}
    return BehaviourEpisode(
        kind=kind,
        frames=frames.read(),
        progress=values,
        success=bool(integers.pop("success")),
        **integers,
    )
