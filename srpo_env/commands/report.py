"""Draws the held-out success of training runs against their control steps and minutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.report import draw_curves, read_curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the runs, and the picture's file."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of agents/vla_grpo.py"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="picture to write (.png, .svg, .pdf)"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the runs, and prints where each of them started and ended."""
    curves = [read_curve(folder) for folder in args.runs]
    figure = draw_curves(curves)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out)
    for curve in curves:
        print(curve)
    print(f"written to {args.out}")
    return 0
