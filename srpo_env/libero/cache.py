"""The folder for generated files, and atomic writes into it.

Several processes may write the same file or folder at once. Each writes to a temporary name and
renames it, so that no process ever reads a half-written file.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@functools.cache
def cache_folder() -> Path:
    """Returns this user's folder for generated files.

    It is ``srpo-env`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; if that is not writable, a folder in
    the system's temporary directory.
    """
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    in_temporary = Path(tempfile.gettempdir()) / f"srpo-env-{_user_id()}"
    for folder in (home_cache / "srpo-env", in_temporary):
        if folder.is_absolute() and _is_ours(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="srpo-env-"))


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically; an existing file is replaced.

    Args:
        file: The file to create; its folder is created if needed.
        write: Writes the content to the path that it is given.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as folder:
        new = Path(folder) / file.name
        write(new)
        os.replace(new, file)


@contextmanager
def lock(file: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock on a file's name while the ``with`` block runs; the file need not exist.

    Args:
        file: A file in `cache_folder`.
        wait: Waits if another process holds the lock.

    Yields:
        Whether the lock is held. Where the file system has no locks, always True.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / file.name, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            is_locked = False
        except OSError:
            is_locked = True
        yield is_locked  # closing the file releases the lock


def create_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Creates and fills a folder atomically; if another process was faster, its folder is kept.

    Args:
        folder: The folder to create.
        fill: Writes the content into the folder that it is given. All processes must write the
            same content.
    """
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(new)
        os.rename(new, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder atomically: other processes see the complete folder or none."""
    trash = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
    try:
        os.rename(folder, trash / folder.name)
    except FileNotFoundError:
        pass  # another process was faster
    shutil.rmtree(trash, ignore_errors=True)


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _is_ours(folder: Path) -> bool:
    """Returns whether ``folder`` exists or can be created, is this user's and is writable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != _user_id():
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
