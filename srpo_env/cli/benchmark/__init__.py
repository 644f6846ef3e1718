"""Measures rewards against the truth, and speed side by side with what others use."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = {
    "reward": "progress rewards against the truth: how well failures are ranked",
    "sim": "LIBERO's simulator against LIBERO's own: speed, resets, memory, images",
}
"""Name of each benchmark, which is also its module's here, and what it measures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's name; its own arguments follow."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = f"{parser.prog} [--help] BENCHMARK ..."
    lines = [f"  {name:10} {does}" for name, does in BENCHMARKS.items()]
    parser.epilog = "\n".join(["benchmarks:", *lines])
    parser.add_argument("benchmark", metavar="BENCHMARK", choices=BENCHMARKS, help="see below")
    parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="the benchmark's own"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark, whose module is like a command's."""
    benchmark = importlib.import_module(f"{__name__}.{args.benchmark}")
    parser = argparse.ArgumentParser(
        prog=f"srpo-env benchmark {args.benchmark}", description=benchmark.__doc__
    )
    benchmark.add_arguments(parser)
    return int(benchmark.run(parser.parse_args(args.arguments)))
