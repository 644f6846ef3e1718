"""Draws the held-out success of training runs against their control steps and minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.cli.output_files import check_image_file
from srpo_env.training.report import compare_steps, draw_curves, read_curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``srpo-env report``."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of agents/vla_grpo.py"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("curves.png"),
        help="image file to write (.png, .svg, .pdf)",
    )
    parser.add_argument(
        "--to",
        nargs="+",
        type=float,
        default=[],
        metavar="RATE",
        help="also print the control steps that each reward needed to a held-out success rate, for "
        "example 0.9",
    )


def run(args: argparse.Namespace) -> int:
    """Draws the runs, and prints the first and the last success rate of each."""
    for rate in args.to:
        if not 0 < rate <= 1:
            raise ValueError(f"`--to` must be above 0 and at most 1, got {rate}")
    check_image_file(args.out)
    # A run that is given twice, under any of its paths, would count twice in means and medians.
    runs: dict[Path, Path] = {}
    for folder in args.runs:
        runs.setdefault(folder.resolve(), folder)
    curves = [read_curve(folder) for folder in runs.values()]
    figure = draw_curves(curves)
    figure.savefig(args.out)
    for curve in curves:
        print(curve)
    for rate in args.to:
        print(compare_steps(curves, rate))
    print(f"The picture is in {args.out}")
    return 0
