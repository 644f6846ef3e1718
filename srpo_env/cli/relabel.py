"""Computes progress rewards for recorded episodes, and writes them to new files beside them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from srpo_env.encoders.named import HELP, WORLD_MODEL, named_encoder
from srpo_env.offline import (
    RecordedEpisode,
    RelabeledEpisodes,
    read_lerobot,
    read_libero,
    relabel_episodes,
    rewards_file,
    write_rewards,
)
from srpo_env.rewards.progress import ProgressReward


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options: recordings, encoder, camera and formula."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="HDF5 files in LIBERO's layout, folders with such files, or LeRobot dataset folders; "
        "all episodes of a task are compared with each other, across files",
    )
    parser.add_argument(
        "--encoder",
        default=WORLD_MODEL,
        metavar="NAME",
        help=f"{HELP} (default: %(default)s, which is bundled)",
    )
    parser.add_argument(
        "--camera",
        metavar="NAME",
        help="which images to use (default: the third-person camera of LIBERO)",
    )
    parser.add_argument(
        "--formula",
        default="paper",
        choices=("paper", "siirl"),
        help="formula of the progress reward: the paper's, or that of its released code "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--max-frames",
        type=int,
        default=64,
        metavar="N",
        help="frames of each episode that the encoder sees, evenly spaced (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace reward files that exist already"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the rewards and prints a table with one line per recording."""
    sources = [source for path in args.paths for source in _sources_at(path)]
    written = [rewards_file(source) for source in sources if rewards_file(source).exists()]
    if written and not args.overwrite:  # checked before hours of encoding
        raise FileExistsError(
            f"{', '.join(map(str, written))} exists already: move it away, or pass --overwrite"
        )
    encoder = named_encoder(args.encoder)
    episodes = (episode for source in sources for episode in _read(source, args))
    result = relabel_episodes(episodes, encoder, reward=ProgressReward(args.formula))
    files = write_rewards(result, overwrite=args.overwrite)
    print(f"{'episodes':>8} {'failures':>8} {'rewards':>15}  written to")
    for source, file in files.items():
        print(f"{_figures(result, source)}  {file}")
    unshaped = sorted({t for t, clusters in result.relabeling.clusterings.items()
                       if not len(clusters.centers)}, key=str)  # fmt: skip
    if unshaped:
        print(f"Not rewarded, because no episode of the task succeeded: {unshaped}")
    return 0


def _figures(result: RelabeledEpisodes, source: str) -> str:
    rows = np.array(result.sources) == source
    failures = result.relabeling.rewards[rows & ~result.successes]
    spread = f"{failures.min():.2f} to {failures.max():.2f}" if len(failures) else "-"
    return f"{rows.sum():8} {len(failures):8} {spread:>15}"


def _sources_at(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"No recorded episodes at {str(path)!r}: no such path")
    if path.is_file() or _is_lerobot(path):
        return [path]
    files = sorted(path.glob("*.hdf5"))
    if not files:
        raise FileNotFoundError(
            f"A folder must contain *.hdf5 files or be a LeRobot dataset, got {str(path)!r}"
        )
    return files


def _is_lerobot(path: Path) -> bool:
    return (path / "meta" / "info.json").is_file()


def _read(source: Path, args: argparse.Namespace) -> Iterator[RecordedEpisode]:
    if not source.is_dir():
        camera = args.camera or "agentview_rgb"
        return read_libero(source, camera=camera, max_frames=args.max_frames)
    try:
        lerobot = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except ImportError as error:
        raise ImportError(
            f"{str(source)!r} is a LeRobot dataset and needs lerobot: run `pip install lerobot`"
        ) from error
    dataset = lerobot.LeRobotDataset(source.name, root=source)
    return read_lerobot(dataset, camera=args.camera, max_frames=args.max_frames)
