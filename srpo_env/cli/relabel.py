"""Computes progress rewards for recorded episodes, and writes them to new files beside them."""

from __future__ import annotations

import argparse

import numpy as np

from srpo_env.cli.recordings import add_recordings, read_recordings, sources_of
from srpo_env.encoders.named import HELP, WORLD_MODEL, named_encoder
from srpo_env.offline import (
    RelabeledEpisodes,
    check_rewards_files,
    relabel_episodes,
    write_rewards,
)
from srpo_env.rewards.progress import ProgressReward


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options: recordings, encoder, camera and formula."""
    add_recordings(parser)
    parser.add_argument(
        "--encoder",
        default=WORLD_MODEL,
        metavar="NAME",
        help=f"{HELP} (default: %(default)s, which is bundled)",
    )
    parser.add_argument(
        "--formula",
        default="paper",
        choices=("paper", "siirl"),
        help="formula of the progress reward: the paper's, or that of its released code "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--credit",
        default="episode",
        choices=("episode", "dense"),
        help="dense: also writes rewards per step, paid along the way; needs an encoder whose "
        "latents are paths, such as the bundled one (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace reward files that exist already"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the rewards and prints a table with one line per recording."""
    # before hours of encoding
    check_rewards_files(sources_of(args.paths), overwrite=args.overwrite)
    episodes = read_recordings(args)
    encoder = named_encoder(args.encoder)
    result = relabel_episodes(
        episodes, encoder, reward=ProgressReward(args.formula), credit=args.credit
    )
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
