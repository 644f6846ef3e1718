"""Compares the speed of LIBERO's own vector environment with that of `LiberoVectorEnv`.

lerobot's LIBERO environment is compared as well where lerobot 0.6.1 or newer is installed.
All execute the same actions, in turn. They use the same OpenGL library and, unless
--upstream-defaults is passed, one thread per worker for BLAS and for the software renderer. Run it
on an idle machine. The tables show median [minimum, maximum] of the repeats; ratios are computed
within a repeat.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from srpo_env.cli.output_files import check_image_file, check_output_file

PARTS = ("speed", "memory", "images", "profile")
"""Parts of the measurement."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--suite", default="libero_object", help="LIBERO's name of the suite")
    parser.add_argument("--task", type=int, default=0, help="task id in the suite")
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="repeats per speed",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=80,
        help="control steps per repeat and of the profile",
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of worker processes, with one environment each",
    )
    parser.add_argument(
        "--upstream-defaults",
        action="store_true",
        help="do not limit the threads of LIBERO's own environment and of lerobot's",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure"
    )
    parser.add_argument(
        "--json", type=Path, default=argparse.SUPPRESS, help="JSON file to write all results to"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=argparse.SUPPRESS,
        help="image of the time of each part of a control step to write (.png, .svg, .pdf)",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints the tables and writes the files."""
    from tqdm import tqdm

    from srpo_env.benchmarks.sim.benchmark import Settings, describe, measure, num_measurements
    from srpo_env.benchmarks.sim.report import draw_profile, header, tables
    from srpo_env.libero.assets import asset_warnings_silenced
    from srpo_env.libero.suites import check_suite_name

    settings = Settings(
        suite=check_suite_name(args.suite),
        task_id=args.task,
        steps=args.steps,
        repeats=args.repeats,
        workers=tuple(sorted(set(args.workers))),
        limit_upstream_threads=not args.upstream_defaults,
        parts=tuple(args.parts),
    )
    if "plot" in args and "profile" not in settings.parts:
        raise ValueError("`--plot` draws the profile, so `--parts` must contain profile")
    if "plot" in args:
        check_image_file(args.plot)  # before minutes of measurements
    if "json" in args:
        check_output_file(args.json)
    with asset_warnings_silenced():
        print(header(describe(settings)), flush=True)
        with tqdm(total=num_measurements(settings), disable=None) as bar:

            def progress(step: str) -> None:
                bar.set_description(step)
                bar.update()

            result = measure(settings, progress)
    print(f"\n{tables(result)}")
    if "json" in args:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nfigures written to {args.json}")
    if "plot" in args:
        draw_profile(result).savefig(args.plot)
        print(f"picture written to {args.plot}")
    return 0
