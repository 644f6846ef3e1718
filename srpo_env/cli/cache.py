"""Lists the files that srpo-env has generated, or removes outdated ones.

The cache folder is `srpo-env` in $XDG_CACHE_HOME or ~/.cache. It holds placeholders for LIBERO's
assets and decimated models. Everything in it is generated again when it is needed, except
`datasets`, the folder that LIBERO's own scripts download to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srpo_env.libero.cache import CacheEntry

CONTENTS = {
    "datasets": "datasets that LIBERO's scripts have downloaded",
    "locks": "locks of processes that make decimated models",
    "matplotlib": "matplotlib's cache",
    "numba": "numba's cache",
    "verified-assets": "results of comparing assets with LIBERO's",
}
"""What the cache folder can hold besides placeholders, decimated models and configurations."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action and ``--all``."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["show", "clean"],
        default="show",
        help="show (default): list what the cache folder holds; clean: remove what is outdated: "
        "files of other versions of srpo-env, MuJoCo or fast-simplification",
    )
    parser.add_argument(
        "--all", action="store_true", help="with clean: remove everything in the cache folder"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the action and returns the exit code."""
    if args.all and args.action != "clean":
        raise ValueError(f"`--all` belongs to `clean`, got `{args.action} --all`")
    return _clean(args.all) if args.action == "clean" else _show()


def _show() -> int:
    from srpo_env.libero.cache import cache_entries, cache_folder

    print(cache_folder())
    total = outdated = 0
    for entry in cache_entries():
        content = _content(entry)
        total += entry.size
        outdated += 0 if content else entry.size
        print(f"{_megabytes(entry.size)}  {entry.path.name:36}  {content or 'outdated'}")
    print(f"{_megabytes(total)}  in total, of which {_megabytes(outdated).strip()} are outdated")
    if outdated:
        print("`srpo-env cache clean` removes what is outdated")
    return 0


def _clean(everything: bool) -> int:
    from srpo_env.libero.cache import cache_entries, cache_folder, remove_entry

    entries = [entry for entry in cache_entries() if everything or not _content(entry)]
    for entry in entries:
        remove_entry(entry.path)
        print(f"removed {_megabytes(entry.size)}  {entry.path.name}")
    size = sum(entry.size for entry in entries)
    print(f"removed {len(entries)} entries of {cache_folder()}, {_megabytes(size).strip()}")
    return 0


def _content(entry: CacheEntry) -> str | None:
    """Describes an entry; returns None if it is outdated."""
    from srpo_env.libero.assets import placeholder_folder

    name = entry.path.name
    if entry.is_temporary:
        return None if entry.is_abandoned else "being written"
    if name == placeholder_folder():
        return "placeholders for LIBERO's assets"
    if name.startswith("libero-config-"):
        return "LIBERO's configuration" if _is_config_usable(entry.path) else None
    if name == _decimation_folder():
        return "decimated models"
    return CONTENTS.get(name)


def _is_config_usable(folder: Path) -> bool:
    """Returns whether the asset folder of a configuration still exists."""
    from srpo_env.libero.assets import placeholder_folder
    from srpo_env.libero.cache import cache_folder

    try:
        assets = Path(json.loads((folder / "config.yaml").read_text())["assets"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    is_old = assets.parent == cache_folder() and assets.name != placeholder_folder()
    return assets.is_dir() and not is_old


def _decimation_folder() -> str | None:
    from srpo_env.libero.visuals import decimation_folder

    try:
        return decimation_folder()
    except ModuleNotFoundError:  # without fast-simplification nothing is decimated
        return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:8.1f} MB"
