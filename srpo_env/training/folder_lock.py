"""Keeps two runs from writing into one folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderLock:
    """Holds a folder for this process until `release`, or until the process ends in any way.

    The operating system ties the lock to the open file, so a lock of a killed process blocks
    nothing. The file stays in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Acquires the lock.

        Raises:
            BlockingIOError: If another process holds it.
        """
        self.file = Path(folder) / "run.lock"
        self._handle = self.file.open("a+")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.seek(0)
            process = self._handle.read().strip() or "unknown"
            self._handle.close()
            raise BlockingIOError(
                f"{folder} is used by another run (process {process}): wait for its end, stop it, "
                "or start a new run"
            ) from None
        self._handle.truncate(0)
        self._handle.write(f"{os.getpid()}\n")
        self._handle.flush()

    def release(self) -> None:
        """Releases the folder; may be called twice."""
        self._handle.close()
