"""Runs in child processes that are killed, or get errors from the disk, at a chosen moment.

The moments are accesses to files: opening, flushing, renaming, deleting. They are the same in each
run, so all of them can be tried; killing after a time reaches the moments between them.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.corridor import PRELOADED

ACCESSES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
"""names of CPython's audit events"""

# Importing torch takes seconds, forking a process that has imported it takes milliseconds. The last
# two are what the first run in a process imports when it needs it. A process has one such list, so
# this one contains that of the other tests.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [*PRELOADED, "agents.vla_grpo", "tests.agents.toy_suite", "sklearn.cluster", "torch._dynamo"]
)


@dataclass(frozen=True)
class Fault:
    """What happens to a child process, and when."""

    kind: Literal["kill", "full disk"]
    """``kill``: SIGKILL; ``full disk``: writing fails from that access on"""
    access: int
    """number of the access to a file below the watched folder, from 0, before which it happens"""


@dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    exit_code: int
    output: str
    """what it printed to stdout and stderr"""
    accesses: int
    """number of accesses to files below the watched folder; 0 if it was killed"""


def run_child(
    function: Any,
    *arguments: Any,
    watch: Path,
    fault: Fault | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Calls a function of a module in a child process, and waits for the end of it.

    Args:
        function: The function.
        *arguments: Its arguments.
        watch: Folder whose files count.
        fault: What happens to the child.
        kill_after: Seconds after which the child is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, count = Path(folder) / "output", Path(folder) / "accesses"
        process = CONTEXT.Process(
            target=_child, args=(function, arguments, watch, fault, output, count)
        )
        process.start()
        try:
            process.join(kill_after)
            if kill_after is not None:
                process.kill()
            process.join(timeout=300)
            assert process.exitcode is not None, "the child hangs"
        finally:
            process.kill()
        return Ended(
            process.exitcode,
            output.read_text() if output.exists() else "",
            int(count.read_text()) if count.exists() else 0,
        )


def _child(
    function: Any, arguments: Any, watch: Path, fault: Fault | None, output: Path, count: Path
) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    accesses = 0

    def access(writes: bool) -> None:
        nonlocal accesses
        if fault is not None and accesses >= fault.access:
            if fault.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif writes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        accesses += threading.current_thread() is threading.main_thread()

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event not in ACCESSES or isinstance(values[0], int):
            return
        path = os.fsdecode(values[0])
        # Deleting a folder names its files relative to it.
        if Path(path).is_relative_to(watch) or (
            event in ("os.remove", "os.rmdir") and path[0] != "/"
        ):
            deletes = event in ("os.remove", "os.rmdir")
            reads = event == "open" and not values[2] & (os.O_WRONLY | os.O_RDWR)
            access(writes=not (deletes or reads))

    # Without flushing, which takes time: a killed process loses nothing that the kernel holds.
    os.fsync = lambda file: access(writes=True)
    sys.addaudithook(hook)
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        count.write_text(str(accesses))
