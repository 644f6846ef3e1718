"""Finds and writes HDF5 files; shared by demonstrations and behaviours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py


def find_files(source: str | Path | Iterable[str | Path], command: str) -> list[Path]:
    """Returns the HDF5 files at some paths.

    Args:
        source: A folder (all its ``*.hdf5`` files, sorted by name), a file, or several of either.
        command: The command that records such files, for the error message.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no HDF5 file.
    """
    files: list[Path] = []
    for path in map(Path, [source] if isinstance(source, str | Path) else source):
        found = sorted(path.glob("*.hdf5")) if path.is_dir() else [path]
        found = [file for file in found if not file.is_dir()]
        if not found or not found[0].is_file():
            raise FileNotFoundError(
                f"there must be *.hdf5 files at {str(path)!r}, found none: record some with "
                f"`{command}`"
            )
        files += found
    return files


@contextmanager
def whole_file(path: str | Path) -> Iterator[h5py.File]:
    """Opens a new file that appears at ``path`` if the block ends without an error.

    An existing file is therefore always complete, and an interruption leaves no partial file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    os.close(descriptor)
    try:
        with h5py.File(unfinished, "w") as file:
            yield file
        # mkstemp lets only the owner read. The result gets the permissions of other new files.
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
