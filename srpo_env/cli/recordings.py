"""Arguments that name recorded episodes, and the readers of each kind of recording."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

from srpo_env.offline import RecordedEpisode, read_lerobot, read_libero
from srpo_env.readers.hdf5 import open_hdf5
from srpo_env.types import checked_count, even_indices


def add_recordings(parser: argparse.ArgumentParser, metavar: str = "PATH") -> None:
    """Adds ``paths``, ``--camera`` and ``--max-frames``."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar=metavar,
        help="HDF5 files in LIBERO's layout or of `srpo-env record-behaviours`, folders with such "
        "files, or LeRobot dataset folders; all episodes of a task are compared with each other, "
        "across files",
    )
    parser.add_argument(
        "--camera",
        metavar="NAME",
        help="which images to use (default: the third-person camera of LIBERO, or the only one)",
    )
    parser.add_argument(
        "--max-frames",
        type=int,
        default=64,
        metavar="N",
        help="frames of each episode that the encoder sees, evenly spaced (default: %(default)s)",
    )


def sources_of(paths: list[Path]) -> list[Path]:
    """Lists the recordings at these paths: HDF5 files and folders of LeRobot datasets.

    A recording that is named twice, also by another path, is listed once: its episodes would be
    compared with themselves.

    Raises:
        FileNotFoundError: If there is none at a path.
    """
    sources: dict[Path, Path] = {}
    for path in paths:
        for source in _sources_at(path):
            sources.setdefault(source.resolve(), source)
    return list(sources.values())


def read_source(
    source: Path, *, camera: str | None = None, max_frames: int = 64
) -> Iterator[RecordedEpisode]:
    """Reads the episodes of one recording.

    Args:
        source: An HDF5 file or the folder of a LeRobot dataset.
        camera: Name of the images; default: LIBERO's third-person camera, or the only one.
        max_frames: Frames taken of each episode, evenly spaced.

    Raises:
        ImportError: If it is a LeRobot dataset and lerobot is not installed.
        ValueError: If it cannot be read.
    """
    if not source.is_dir():
        if _holds_behaviours(source):
            return _read_behaviours(source, max_frames)
        return read_libero(source, camera=camera or "agentview_rgb", max_frames=max_frames)
    try:
        lerobot = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except ImportError as error:
        raise ImportError(
            f"{str(source)!r} is a LeRobot dataset and needs lerobot: run `pip install lerobot`"
        ) from error
    dataset = lerobot.LeRobotDataset(source.name, root=source)
    return read_lerobot(dataset, camera=camera, max_frames=max_frames)


def _holds_behaviours(file: Path) -> bool:
    with open_hdf5(file) as content:
        data = content.group("data")
        found = None if data is None else data.text("format")
    if found is None:
        return False
    from srpo_env.libero.behaviour_files import FORMAT  # needs the extra `libero`

    return found == FORMAT


def _read_behaviours(file: Path, max_frames: int) -> Iterator[RecordedEpisode]:
    from srpo_env.libero.behaviour_files import read_behaviours

    checked_count("max_frames", max_frames, minimum=2)
    for number, episode in enumerate(read_behaviours(file)):
        num_frames = len(episode.frames)
        rows = even_indices(num_frames, min(num_frames, max_frames))
        yield RecordedEpisode(
            name=f"data/episode_{number}",
            task=file.stem,
            success=episode.success,
            video=episode.frames[rows],
            source=str(file),
        )


def _sources_at(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"No recorded episodes at {str(path)!r}: no such path")
    if path.is_file() or (path / "meta" / "info.json").is_file():
        return [path]
    files = sorted(file for file in path.glob("*.hdf5") if not file.is_dir())
    if not files:
        raise FileNotFoundError(
            f"A folder must contain *.hdf5 files or be a LeRobot dataset, got {str(path)!r}"
        )
    return files
