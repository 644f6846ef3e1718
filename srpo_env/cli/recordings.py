"""Arguments that name recorded episodes, and the readers of each kind of recording."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from srpo_env.offline import RecordedEpisode, read_lerobot, read_libero
from srpo_env.readers.hdf5 import open_hdf5
from srpo_env.readers.successes import assign_successes, read_successes
from srpo_env.system.files import DamagedFileError, read_json
from srpo_env.types import checked_count, even_indices

MAX_EPISODES = 10**7
"""Largest number of episodes of a LeRobot dataset"""


def add_recordings(parser: argparse.ArgumentParser, metavar: str = "PATH") -> None:
    """Adds ``paths``, ``--camera``, ``--max-frames`` and ``--successes``."""
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
    parser.add_argument(
        "--successes",
        type=Path,
        metavar="FILE",
        help="which episodes succeeded, for recordings without rewards: lines such as demo_0,true, "
        'or JSON such as {"demo_0": true}; with several recordings walk_demo.hdf5:demo_0',
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


def read_recordings(args: argparse.Namespace) -> Iterator[RecordedEpisode]:
    """Reads the episodes that the arguments of `add_recordings` name, one recording at a time.

    Raises:
        FileNotFoundError: If there is none at a path.
        ValueError: If ``--successes`` does not fit the recordings.
    """
    sources = sources_of(args.paths)
    successes: dict[str, dict[str, bool]] = {}
    if args.successes is not None:  # checked before hours of encoding
        for source in sources:
            if not source.is_dir() and _holds_behaviours(source):
                raise ValueError(
                    f"--successes is for recordings that do not say which episodes succeeded, and "
                    f"{str(source)!r} does"
                )
        named = read_successes(args.successes)
        names = {str(source): episode_names(source) for source in sources}
        successes = assign_successes(named, names, args.successes)
    return (
        episode
        for source in sources
        for episode in read_source(
            source,
            camera=args.camera,
            successes=successes.get(str(source)),
            max_frames=args.max_frames,
        )
    )


def episode_names(source: Path) -> list[str]:
    """Returns the names of a recording's episodes, such as ``demo_0``, without reading them.

    Raises:
        ValueError: If it cannot be read.
    """
    if source.is_dir():
        info = read_json(source / "meta" / "info.json")
        count = info.get("total_episodes") if isinstance(info, dict) else None
        if type(count) is not int or not 0 <= count <= MAX_EPISODES:
            raise DamagedFileError(f"{source}/meta/info.json must have `total_episodes`")
        return [f"episode_{number}" for number in range(count)]
    with open_hdf5(source) as file:
        data = file.group("data")
        return [] if data is None else data.names()


def read_source(
    source: Path,
    *,
    camera: str | None = None,
    successes: Mapping[str, bool] | None = None,
    max_frames: int = 64,
) -> Iterator[RecordedEpisode]:
    """Reads the episodes of one recording.

    Args:
        source: An HDF5 file or the folder of a LeRobot dataset.
        camera: Name of the images; default: LIBERO's third-person camera, or the only one.
        successes: Which episodes succeeded, by their `episode_names`; default: as the recording
            says.
        max_frames: Frames taken of each episode, evenly spaced.

    Raises:
        ImportError: If it is a LeRobot dataset and lerobot is not installed.
        ValueError: If it cannot be read.
    """
    if not source.is_dir():
        if _holds_behaviours(source):
            return _read_behaviours(source, max_frames)
        return read_libero(
            source,
            camera=camera or "agentview_rgb",
            successes=successes,
            max_frames=max_frames,
        )
    try:
        lerobot = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except ImportError as error:
        raise ImportError(
            f"{str(source)!r} is a LeRobot dataset and needs lerobot: run `pip install lerobot`"
        ) from error
    dataset = lerobot.LeRobotDataset(source.resolve().name, root=source)  # "." has no name
    flags = None if successes is None else [successes[name] for name in episode_names(source)]
    return read_lerobot(dataset, camera=camera, successes=flags, max_frames=max_frames)


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
