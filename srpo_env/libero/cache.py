"""The folder for generated files, atomic writes into it, and checks of what is read from it.

Several processes may write the same file or folder at once. Each writes to a temporary name and
renames it, so that no process ever reads a half-written file. A file starts with a checksum of its
name and content, so that a truncated or altered one is made again. If nothing can be written, for
example on a full disk, the caller goes on without the cache.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from srpo_env.system.notices import warn_once

logger = logging.getLogger(__name__)

CHECKSUM_SIZE = hashlib.sha256().digest_size
"""Bytes at the start of a cached file."""

SHARED_MEMORY = "/dev/shm"
"""Folder of files in memory, which is not full when the disks are."""

TEMPORARY_SECONDS = 24 * 3600
"""Age after which a temporary folder was left by a process that was killed."""


@functools.cache
def cache_folder() -> Path:
    """Returns this user's folder for generated files.

    It is ``srpo-env`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; if that is not writable, a folder in
    the system's temporary directory.
    """
    home_cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = home_cache / "srpo-env"
    if folder.is_absolute() and _is_ours(folder):
        return folder
    return next(other_folders(), None) or Path(tempfile.mkdtemp(prefix="srpo-env-"))


def other_folders() -> Iterator[Path]:
    """Yields this user's folders for what must be written if it cannot be in `cache_folder`.

    They are in the system's temporary directory, and in memory.
    """
    parents = []
    with suppress(FileNotFoundError):  # there is none, or its disk is full
        parents.append(tempfile.gettempdir())
    for parent in (*parents, SHARED_MEMORY):
        folder = Path(parent) / f"srpo-env-{_user_id()}"
        if folder.parent.is_dir() and _is_ours(folder):
            yield folder


def read_file(file: Path) -> bytes | None:
    """Returns the content of a file written by `write_file`.

    Returns:
        None if there is no such file, or if it is truncated or altered; then it is logged.
    """
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("Not using the cached file %s: %s.", file, error.strerror)
        return None
    checksum, content = stored[:CHECKSUM_SIZE], stored[CHECKSUM_SIZE:]
    if checksum != _checksum(file, content):
        logger.warning("Not using the cached file %s: it is truncated or altered.", file)
        return None
    return content


def write_file(file: Path, content: bytes) -> bool:
    """Writes a file atomically; an existing file is replaced.

    Args:
        file: The file to write, in `cache_folder`; its folder is created if needed.
        content: What `read_file` will return.

    Returns:
        Whether the file was written; if not, a warning is logged once.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Directly in the cache folder, where `cache_entries` finds what a killed process has left.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=cache_folder()) as folder:
            new = Path(folder) / file.name
            new.write_bytes(_checksum(file, content) + content)
            os.replace(new, file)
    except OSError as error:
        warn_once(
            logger,
            f"Nothing can be written to the cache folder {cache_folder()} ({error.strerror}), so "
            "other processes must compute the same again. Free some space, or set XDG_CACHE_HOME "
            "to another folder.",
        )
        return False
    return True


def _checksum(file: Path, content: bytes) -> bytes:
    # With the name, so that two files that were exchanged are found too.
    return hashlib.sha256(f"{file.name}\n".encode() + content).digest()


@contextmanager
def lock(file: Path, *, wait: bool) -> Iterator[bool]:
    """Holds a lock on a file's name while the ``with`` block runs; the file need not exist.

    Args:
        file: A file in `cache_folder`.
        wait: Waits if another process holds the lock.

    Yields:
        Whether the lock is held. Where the file system has no locks or cannot be written, always
        True.
    """
    folder = cache_folder() / "locks"
    try:
        folder.mkdir(exist_ok=True)
        handle = open(folder / file.name, "w")
    except OSError:
        yield True
        return
    with handle:
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

    Raises:
        OSError: If the folder cannot be written.
    """
    new = None
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        fill(new)
        os.rename(new, folder)
    except OSError as error:
        if not folder.is_dir():
            raise OSError(
                f"{str(folder)!r} could not be written ({error.strerror}): free some space, or set "
                "XDG_CACHE_HOME to another folder"
            ) from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder atomically: other processes see the complete folder or none."""
    trash = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
    try:
        os.rename(folder, trash / folder.name)
    except FileNotFoundError:
        pass  # another process was faster
    shutil.rmtree(trash, ignore_errors=True)


# --- What is in the folder ----------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """A file or folder directly in the cache folder."""

    path: Path
    size: int
    """in bytes"""
    is_temporary: bool
    """whether a process is writing it"""
    is_abandoned: bool
    """whether a process that was killed has left it half-written"""


def cache_entries() -> list[CacheEntry]:
    """Returns what is in the cache folder, sorted by name."""
    entries = []
    for path in sorted(cache_folder().iterdir()):
        is_temporary = path.name.startswith(".")
        age = 0.0
        with suppress(OSError):  # another process has renamed it
            age = time.time() - path.lstat().st_mtime
        is_abandoned = is_temporary and age > TEMPORARY_SECONDS
        entries.append(CacheEntry(path, _size(path), is_temporary, is_abandoned))
    return entries


def remove_entry(path: Path) -> None:
    """Removes a file or folder directly in the cache folder; a link, but not what it leads to.

    Raises:
        ValueError: If ``path`` is elsewhere.
        OSError: If it cannot be removed.
    """
    if path.parent != cache_folder() or path.name in ("", ".", ".."):
        raise ValueError(f"`path` must be directly in {str(cache_folder())!r}, got {str(path)!r}")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Returns the number of bytes in a file, or in all files of a folder."""
    size = 0
    with suppress(OSError):  # another process has removed it
        size = path.lstat().st_size
    if path.is_dir() and not path.is_symlink():
        size = 0
        for folder, _, names in os.walk(path):  # does not follow links
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(folder, name)).st_size
    return size


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
