"""Checks on recorded episodes whether the progress reward follows progress.

Needs success labels and no simulator. Compares every success with the other successes of its task:
its progress should rise with time, and failures should be farther away. Prints tables, a verdict
and the next step. The exit code is 0 if the reward is usable, 1 if it is not or if there is too
little data, 2 after an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from srpo_env.benchmarks.plain_data import to_json
from srpo_env.benchmarks.recorded.report import draw, report
from srpo_env.benchmarks.recorded.verdict import check_reward
from srpo_env.cli.output_files import check_image_file, check_output_file
from srpo_env.cli.recordings import add_recordings, read_recordings
from srpo_env.encoders.named import HELP, WORLD_MODEL, named_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recordings, the encoder and the files to write."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_recordings(parser, metavar="EPISODES")
    parser.add_argument(
        "--encoder", default=WORLD_MODEL, metavar="NAME", help=f"{HELP} (default: %(default)s)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="image file to write, such as check.png"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="JSON file to write all results to"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the bootstrap (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks the reward, prints the report and writes the files."""
    if args.plot is not None:
        check_image_file(args.plot)  # before hours of encoding
    if args.json is not None:
        check_output_file(args.json)
    episodes = read_recordings(args)
    encoder = named_encoder(args.encoder)
    from tqdm import tqdm

    with tqdm(desc="encoding", unit="episode", disable=None) as bar:
        check = check_reward(
            episodes, encoder, name=args.encoder, seed=args.seed, progress=bar.update
        )
    print(report(check))
    if args.json is not None:
        args.json.write_text(to_json(check.as_dict()))
        print(f"\nresults written to {args.json}")
    if args.plot is not None:
        draw(check).savefig(args.plot)
        print(f"image written to {args.plot}")
    return 0 if check.verdict.status == "usable" else 1
