"""Replays demonstrations in LIBERO's HDF5 layout, and reports which of them reach the goal here.

Each demonstration starts from its recorded initial state. The exit code is 0 if all reach the goal,
1 if some do not, 2 after an error. With --lerobot, those that do are written into a LeRobot
dataset, with images of this simulator.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_env import __version__
from srpo_env.cli.output_files import check_output_file

if TYPE_CHECKING:
    from srpo_env.libero.replay_files import ReplayedDemo


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
    from tqdm import tqdm

    from srpo_env.adapters.lerobot_dataset import writing_dataset
    from srpo_env.libero.demo_replay import task_of
    from srpo_env.libero.hdf5 import find_files
    from srpo_env.libero.own_suites import single_task
    from srpo_env.libero.replay_files import replay_file
    from srpo_env.system.files import write_file

    # Everything that can be wrong is checked before hours of simulation.
    if args.json is not None:
        check_output_file(args.json)
    files = find_files(args.paths, "srpo-env demos")
    own = None if args.bddl is None else single_task(args.bddl).tasks[0]
    tasks = {file: own or task_of(file) for file in files}
    rows: list[ReplayedDemo] = []
    with ExitStack() as stack:
        export = None
        if args.lerobot is not None:
            export = stack.enter_context(writing_dataset(args.lerobot, args.image_size)).add
        bar = stack.enter_context(tqdm(unit="demo", disable=None))
        for file, task in tasks.items():
            bar.set_description(file.name)
            for row in replay_file(
                file,
                task,
                drop_no_ops=args.drop_no_ops,
                export=export,
                image_size=args.image_size,
            ):
                rows.append(row)
                bar.update()
        if export is not None and not any(row.passed for row in rows):
            raise ValueError(f"no demonstration reaches the goal, so {args.lerobot} is not written")
    print(_table(rows))
    num_passed = sum(row.passed for row in rows)
    if args.lerobot is not None:
        print(f"{num_passed} episodes written to {args.lerobot}")
    if args.json is not None:
        write_file(args.json, json.dumps(_as_dict(rows), indent=2).encode())
        print(f"results written to {args.json}")
    return 0 if num_passed == len(rows) else 1


def _table(rows: list[ReplayedDemo]) -> str:
    lines = [f"{'demos':>5} {'success':>7} {'deviation':>9} {'no-ops':>6}  file"]
    for file in dict.fromkeys(row.file for row in rows):
        part = [row for row in rows if row.file == file]
        deviation = max(row.max_deviation for row in part)
        no_op_share = sum(row.num_no_ops for row in part) / sum(row.num_steps for row in part)
        lines.append(
            f"{len(part):5} {sum(row.success for row in part):7} {deviation:9.2g} "
            f"{no_op_share:6.1%}  {file}"
        )
    for row in rows:
        if not row.passed:
            which = "" if not row.success else " without its no-ops"
            lines.append(f"not to the goal{which}: {row.demo} of {row.file}")
    num_moved = sum(row.fixtures == "seed 0" for row in rows)
    if num_moved:
        lines.append(
            f"the files do not say where the fixtures of {num_moved} demonstrations stood: they "
            "stood where seed 0 puts them"
        )
    lines.append(f"{sum(row.success for row in rows)} of {len(rows)} replay to success")
    filtered = [row for row in rows if row.success_without_no_ops is not None]
    if filtered:
        count = sum(bool(row.success_without_no_ops) for row in filtered)
        lines.append(f"{count} of {len(rows)} replay to success without their no-ops")
    return "\n".join(lines)


def _as_dict(rows: list[ReplayedDemo]) -> dict[str, Any]:
    from srpo_env.libero.assets import resolve_assets

    return {
        "srpo_env": __version__,
        "mujoco": importlib.metadata.version("mujoco"),
        "assets": resolve_assets().kind,
        "num_demos": len(rows),
        "num_successes": sum(row.success for row in rows),
        "demos": [asdict(row) for row in rows],
    }
