"""Keeps two runs from writing into one folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

from srpo_env.system.files import errors_name

logger = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""errors of file systems that do not lock files, as some network file systems"""


class FolderLock:
    """Holds a folder for this process until `release`, or until the process ends in any way.

    The operating system ties the lock to the open file, so a lock of a killed process blocks
    nothing. The file stays in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Acquires the lock.

        Raises:
            BlockingIOError: If another process holds it.
            OSError: If the folder cannot be written.
        """
        self.file = Path(folder) / "run.lock"
        # Unbuffered: what a full disk refuses must not be written again when the file is closed.
        self._handle = self.file.open("ab+", buffering=0)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with errors_name(self.file):
                self._handle.truncate(0)
                self._handle.write(f"{os.getpid()}\n".encode())
        except BlockingIOError:
            self._handle.seek(0)
            process = self._handle.read().decode().strip() or "unknown"
            self._handle.close()
            raise BlockingIOError(
                f"{folder} is used by another run (process {process}): wait for its end, stop it, "
                "or start a new run"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                self._handle.close()
                raise
            logger.warning(
                "%s is on a file system without locks: do not start a second run in this folder",
                folder,
            )

    def release(self) -> None:
        """Releases the folder; may be called twice."""
        self._handle.close()
