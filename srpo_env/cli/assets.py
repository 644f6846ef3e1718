"""Shows which LIBERO assets are used, verifies a folder, or downloads LIBERO's assets."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the action and the folder to verify."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["show", "verify", "download"],
        default="show",
        help="show (default): print which assets are used; verify: compare each file with LIBERO's "
        "by SHA-256, with exit code 1 if any is missing or altered; download: fetch LIBERO's "
        "assets from the Hugging Face Hub",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="folder to verify (default: the assets in use)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the action and returns the exit code."""
    if args.folder is not None and args.action != "verify":
        raise ValueError(f"`{args.action}` takes no folder, got {str(args.folder)!r}")
    from srpo_env.libero.assets import asset_warnings_silenced, download_assets

    with asset_warnings_silenced():
        if args.action == "verify":
            return _verify(args.folder)
        if args.action == "download":
            download_assets()
        return _show()


def _show() -> int:
    from srpo_env.libero.assets import HOW_TO_GET_ASSETS, covered_suites, resolve_assets
    from srpo_env.libero.manifest import altered_files, first_few

    assets = resolve_assets()
    print(f"kind    {assets.kind}")
    print(f"source  {assets.source}")
    print(f"folder  {assets.path}")
    print(f"suites  {', '.join(covered_suites(assets))}")
    if assets.kind == "modified":
        altered = altered_files(assets.path)
        print(
            f"\n{len(altered)} files differ from LIBERO's: {first_few(altered)}.\n"
            "Results on them are not LIBERO results. `srpo-env assets verify` lists all of them."
        )
    elif assets.kind == "placeholder":
        print(
            "\nResults on placeholders are not LIBERO results. For LIBERO's own assets,\n"
            f"{HOW_TO_GET_ASSETS}."
        )
    return 0


def _verify(folder: Path | None) -> int:
    from srpo_env.libero.assets import HOW_TO_GET_ASSETS, resolve_assets
    from srpo_env.libero.manifest import altered_files, manifest, missing_files

    if folder is None:
        assets = resolve_assets()
        if assets.kind == "placeholder":
            raise FileNotFoundError(
                "the assets in use are placeholders: name a folder to verify, or "
                f"{HOW_TO_GET_ASSETS}"
            )
        folder = assets.path
    if not folder.is_dir():
        raise FileNotFoundError(f"`folder` must be an existing folder, got {str(folder)!r}")
    missing, altered = missing_files(folder), altered_files(folder, read_all=True)
    for path in missing:
        print(f"missing  {path}")
    for path in altered:
        print(f"altered  {path}")
    num_files = len(manifest())
    equal = num_files - len(missing) - len(altered)
    print(
        f"{folder}: {equal} of LIBERO's {num_files} files are equal, {len(missing)} are missing, "
        f"{len(altered)} are altered"
    )
    return 1 if missing or altered else 0
