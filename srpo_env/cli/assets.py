"""Shows which LIBERO assets are used, or downloads LIBERO's own."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from srpo_env.libero import assets as libero_assets
from srpo_env.libero.suites import SUITES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action, ``show`` (default) or ``download``."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["show", "download"],
        default="show",
        help="show (default): which assets are used; download: fetch LIBERO's own",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the assets in use, after downloading them if asked to."""
    if args.action == "download":
        libero_assets.download_assets()
    with announcement_left_out():
        assets = libero_assets.resolve_assets()
    print(f"kind    {assets.kind} ({assets.source})")
    print(f"folder  {assets.path}")
    print(f"suites  {', '.join(covered_suites(assets))}")
    if assets.kind == "stand-in":
        print(
            "\nResults on stand-ins are not LIBERO results. For LIBERO's own assets run\n"
            "`srpo-env assets download`, or set LIBERO_ASSETS to a folder that has them."
        )
    return 0


@contextmanager
def announcement_left_out() -> Iterator[None]:
    """Keeps the warning about stand-ins out of the log of a command that prints the same."""
    logger = logging.getLogger(libero_assets.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def covered_suites(assets: libero_assets.LiberoAssets) -> list[str]:
    """The suites whose scenes and objects are among ``assets``."""
    covered = []
    for suite in SUITES:
        try:
            libero_assets.check_suite(assets, suite)
        except FileNotFoundError:
            continue
        covered.append(suite)
    return covered
