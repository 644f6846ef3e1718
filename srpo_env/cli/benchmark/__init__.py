"""Measures rewards against the simulator's progress, and speed against LIBERO's environment."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = {
    "reward": "how well progress rewards rank failures, against the simulator's progress",
    "sim": "speed, resets, memory and images of the simulation, against LIBERO's own environment",
}
"""Names of the benchmarks, which are also the names of their modules, and descriptions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name of the benchmark, which takes the remaining arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = f"{parser.prog} [--help] BENCHMARK ..."
    lines = [f"  {name:10} {description}" for name, description in BENCHMARKS.items()]
    parser.epilog = "\n".join(["benchmarks:", *lines])
    parser.add_argument("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help="see below")
    remaining = parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="arguments of the benchmark"
    )
    remaining.required = False  # see `srpo_env.cli.main`


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark's module, which has the same functions as a subcommand's."""
    benchmark = importlib.import_module(f"{__name__}.{args.benchmark}")
    parser = argparse.ArgumentParser(
        prog=f"srpo-env benchmark {args.benchmark}", description=benchmark.__doc__
    )
    benchmark.add_arguments(parser)
    return int(benchmark.run(parser.parse_args(args.arguments)))
