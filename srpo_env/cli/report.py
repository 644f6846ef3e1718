"""Makes a page of one training run, or draws the held-out success of several."""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.cli.output_files import check_image_file, check_matplotlib, check_output_file
from srpo_env.system.files import write_file
from srpo_env.training.report import compare_steps, draw_curves, read_curve

PAGE = "report.html"
"""name of a run's page in its folder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``srpo-env report``."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of agents/vla_grpo.py"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write: a page of one run (.html), or a picture of the learning curves (.png, "
        ".svg, .pdf); default: report.html in the folder of the run, or curves.png for several "
        "runs",
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
    """Makes the page or the picture, and prints the first and the last success rate of each run."""
    for rate in args.to:
        if not 0 < rate <= 1:
            raise ValueError(f"`--to` must be above 0 and at most 1, got {rate}")
    # A run that is given twice, under any of its paths, would count twice in means and medians.
    runs: dict[Path, Path] = {}
    for folder in args.runs:
        runs.setdefault(folder.resolve(), folder)
    folders = list(runs.values())
    out: Path = args.out or (folders[0] / PAGE if len(folders) == 1 else Path("curves.png"))
    is_page = out.suffix.lower() == ".html"
    if is_page and len(folders) > 1:
        raise ValueError(f"{str(out)!r} would be the page of one run, got {len(folders)} runs")
    if is_page:
        check_matplotlib(out)
    else:
        check_image_file(out)
    curves = [read_curve(folder) for folder in folders]
    if is_page:
        check_output_file(out)
        from srpo_env.training.page import run_page  # needs the simulator's package

        write_file(out, run_page(folders[0]).encode())
    else:
        draw_curves(curves).savefig(out)
    for curve in curves:
        print(curve)
    for rate in args.to:
        print(compare_steps(curves, rate))
    print(f"The {'page' if is_page else 'picture'} is in {out}")
    return 0
