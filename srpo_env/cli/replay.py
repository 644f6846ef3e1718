"""Replays demonstrations in LIBERO's HDF5 layout, and reports which of them reach the goal here.

Each demonstration starts from its recorded initial state. The exit code is 0 if all reach the goal,
1 if some do not, 2 after an error. With --lerobot, those that do are written into a LeRobot
dataset, with images of this simulator.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.cli.output_files import check_output_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the files and what to do with them."""
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="HDF5 files in LIBERO's layout, or folders with such files",
    )
    parser.add_argument(
        "--bddl",
        type=Path,
        metavar="FILE",
        help="BDDL file of the task (default: LIBERO's task that the HDF5 file names)",
    )
    parser.add_argument(
        "--drop-no-ops",
        action="store_true",
        help="also replay without the actions that do nothing, and export without them",
    )
    parser.add_argument(
        "--lerobot",
        type=Path,
        metavar="FOLDER",
        help="new folder for a LeRobot dataset (v3) of the demonstrations that reach the goal; "
        "needs lerobot 0.4 or later",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=256,
        metavar="N",
        help="height and width of the dataset's images in pixels (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write all results to")


def run(args: argparse.Namespace) -> int:
    """Replays the demonstrations, prints a table and writes the files."""
    from srpo_env.cli.replayed_demos import replay_all

    if args.json is not None:
        check_output_file(args.json)  # before hours of simulation
    return replay_all(args)
