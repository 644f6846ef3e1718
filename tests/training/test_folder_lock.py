import errno
import fcntl
import os
import subprocess
import sys

import pytest

from srpo_env.training.folder_lock import FolderLock

HOLD = """
import sys
from srpo_env.training.folder_lock import FolderLock
lock = FolderLock(sys.argv[1])
print("locked", flush=True)
input()
"""


def test_folder_of_another_process_is_refused_until_that_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match=rf"another run \(process {other.pid}\)"):
            FolderLock(tmp_path)
        other.kill()
    FolderLock(tmp_path).release()


def test_released_folder_can_be_locked_again(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError, match="another run"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()


def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    FolderLock(tmp_path).release()
    assert "do not start a second run" in caplog.text


def test_lock_that_cannot_be_written_is_released(tmp_path):
    (tmp_path / "run.lock").symlink_to("/dev/full")
    for _ in range(2):
        num_files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=r"No space left on device|Invalid argument"):
            FolderLock(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == num_files
