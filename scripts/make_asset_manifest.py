"""Writes the list of LIBERO's asset files that srpo-env verifies asset folders with.

    python scripts/make_asset_manifest.py FOLDER

FOLDER holds LIBERO's own assets, such as `libero/libero/assets` of a checkout of LIBERO, or the
folder that `pip install 'srpo-env[assets]'` installs; files that LIBERO-PRO adds are left out.
Writes `srpo_env/libero/asset_manifest.tsv`: for each file its SHA-256, its size in bytes, the
suites whose tasks load it, and its path. The files of a suite are found by building each of its
tasks and recording which files are opened.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

ADDED_BY_LIBERO_PRO = re.compile(
    r"custom_objects/.*"
    r"|articulated_objects/yellow_(cabinet|stove)(/|\.).*"
    r"|scenes/yellow_book/.*"
    r"|stable_hope_objects/(bigger|blue|green|red|yellow)_.*"
    r"|stable_scanned_objects/(bigger_.*|black_bowl/.*|yellow_.*|red_(?!bowl/).*)"
    r"|turbosquid_objects/(brown_rack|red_yellow_book|white_bottle|white_porcelain_mug"
    r"|yellow_desk_caddy|yellow_moka_pot)/.*"
)
NUM_FILES = 585
"""Files in LIBERO's asset tree at commit 8f1084e."""


class SceneBuiltError(Exception):
    """Stops LIBERO before it compiles a scene: by then all XML files have been read."""


def main(folder: Path) -> None:
    """Writes the manifest of the assets in ``folder``."""
    suites = suites_of_files(folder)
    paths = sorted(
        path
        for path in (file.relative_to(folder).as_posix() for file in folder.rglob("*"))
        if (folder / path).is_file() and not ADDED_BY_LIBERO_PRO.fullmatch(path)
    )
    if len(paths) != NUM_FILES:
        raise ValueError(f"FOLDER must hold LIBERO's {NUM_FILES} files, got {len(paths)}")
    foreign = sorted(set(suites) - set(paths))
    if foreign:
        raise ValueError(f"the tasks must load LIBERO's files only, and they load {foreign}")
    lines = []
    for path in paths:
        content = (folder / path).read_bytes()
        names = ",".join(suites.get(path, ())) or "-"
        lines.append(f"{hashlib.sha256(content).hexdigest()}\t{len(content)}\t{names}\t{path}\n")
    target = Path(__file__).parents[1] / "srpo_env/libero/asset_manifest.tsv"
    target.write_text("".join(lines))
    print(f"{target}: {len(lines)} files, of which tasks load {len(suites)}")


def suites_of_files(folder: Path) -> dict[str, list[str]]:
    """Returns for each file that tasks load the suites that they belong to."""
    from srpo_env.libero import building
    from srpo_env.libero.assets import LiberoAssets, prepare_libero
    from srpo_env.libero.suites import SUITES, tasks_of

    opened: set[str] = set()

    def record(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            opened.add(arguments[0])

    def record_scene(xml: str, *_: object) -> None:
        opened.update(re.findall(r'file="([^"]+)"', xml))
        raise SceneBuiltError

    sys.addaudithook(record)
    building.load_model = record_scene  # type: ignore[assignment]
    # Without the verification of the folder: it needs a manifest, and opens all files.
    assets = LiberoAssets(folder, "libero", "LIBERO_ASSETS")
    building.prepare_libero = functools.partial(prepare_libero, assets)  # type: ignore
    building.check_suite = lambda assets, suite: None
    found: dict[str, list[str]] = {}
    for suite in SUITES:
        opened.clear()
        for task in tasks_of(suite):
            try:
                building.build_upstream(task, "exact")
            except SceneBuiltError:
                pass
        paths = {os.path.relpath(os.path.abspath(name), folder) for name in opened}
        for path in sorted(paths):
            if not path.startswith("..") and (folder / path).is_file():
                found.setdefault(path, []).append(suite)
        print(f"{suite}: {sum(suite in suites for suites in found.values())} files")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
