"""Compares asset folders with LIBERO's own files, by size and SHA-256.

The bundled manifest lists the 585 files of LIBERO's asset tree (commit 8f1084e) and the suites
whose tasks load each of them. ``scripts/make_asset_manifest.py`` writes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srpo_env.libero.cache import cache_folder, read_file, write_file

logger = logging.getLogger(__name__)

MANIFEST_FILE = Path(__file__).with_name("asset_manifest.tsv")


@dataclass(frozen=True)
class AssetFile:
    """One of LIBERO's asset files."""

    path: str
    """Relative to the asset folder, with forward slashes."""
    size: int
    """In bytes."""
    sha256: str
    suites: tuple[str, ...]
    """Suites with a task that loads the file; empty if none does."""


@functools.cache
def manifest() -> tuple[AssetFile, ...]:
    """Returns LIBERO's asset files, sorted by path."""
    files = []
    for line in MANIFEST_FILE.read_text().splitlines():
        sha256, size, suites, path = line.split("\t")
        names = () if suites == "-" else tuple(suites.split(","))
        files.append(AssetFile(path, int(size), sha256, names))
    return tuple(files)


def missing_files(folder: Path, suites: Sequence[str] | None = None) -> list[str]:
    """Returns the paths of LIBERO's files that a folder lacks, sorted.

    Args:
        folder: The asset folder.
        suites: Counts only files that tasks of these suites load; default: all of LIBERO's files.
    """
    return [
        file.path
        for file in manifest()
        if (suites is None or set(suites) & set(file.suites)) and not (folder / file.path).is_file()
    ]


def altered_files(folder: Path, *, read_all: bool = False) -> list[str]:
    """Returns the paths of the files in a folder that differ from LIBERO's, sorted.

    Files that the folder lacks do not count. Reads all files the first time (400 MB, about a
    second). The result is cached until the size or modification time of a file changes.

    Args:
        folder: The asset folder.
        read_all: Reads the files even if there is a cached result.
    """
    folder = folder.resolve()
    present: list[AssetFile] = []
    state = hashlib.sha256(MANIFEST_FILE.read_bytes())
    for file in manifest():
        try:
            status = (folder / file.path).stat()
        except OSError:
            continue
        present.append(file)
        state.update(f"{file.path} {status.st_size} {status.st_mtime_ns}\n".encode())
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    cached = cache_folder() / "verified-assets" / name
    if not read_all:
        stored = read_file(cached)
        if stored is not None:
            content = json.loads(stored)
            if content["state"] == state.hexdigest():
                return list(content["altered"])
        logger.info("comparing the files in %s with LIBERO's", folder)
    altered = [file.path for file in present if not _is_equal(folder / file.path, file)]
    content = {"folder": str(folder), "state": state.hexdigest(), "altered": altered}
    write_file(cached, json.dumps(content, indent=2).encode())
    return altered


def _is_equal(path: Path, file: AssetFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def first_few(paths: Sequence[str], num: int = 3) -> str:
    """Formats the first paths of a list and the number of the others."""
    more = f" and {len(paths) - num} more" if len(paths) > num else ""
    return ", ".join(paths[:num]) + more
