"""Starts a process that answers numbered requests, and ends when its parent does.

`WorkerProcess` is used by the parent, `ParentConnection` by the worker. The function that the
worker runs defines the meaning of the requests.

A process of `multiprocessing` would import the parent's main module again. That fails in
scripts without ``if __name__ == "__main__"``, and daemonic processes could have no workers. Here,
the worker is a new interpreter that imports only what it needs.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from srpo_env.system.notices import RecordSender, show_record

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that workers ignore. A terminal or a scheduler sends them to all processes, and the
parent decides what follows, for example that a checkpoint is saved before the workers end."""

END_SECONDS = 5.0
"""Seconds that a worker has to end by itself."""

# Imports nothing from the current folder, and nothing but the standard library before `sys.path` is
# the parent's.
_PROGRAM = f"""
import signal, sys
for number in {[int(number) for number in SIGNALS]}:
    signal.signal(number, signal.SIG_IGN)
sys.path = [entry for entry in sys.path if entry]
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
try:
    sys.path = connection.recv()
    from {__name__} import run
except EOFError:
    pass
except Exception as error:
    connection.send((0, "start failure", f"{{type(error).__name__}}: {{error}}"))
else:
    run(connection)
"""

_is_worker = False


class WorkerStartError(RuntimeError):
    """A worker process could not be started."""


def is_worker_process() -> bool:
    """Returns whether this process is a worker, whose parent shows warnings and progress."""
    return _is_worker or multiprocessing.parent_process() is not None


# --- The parent's side --------------------------------------------------------------------------

_identities = itertools.count(-1, -1)  # process ids are positive


class WorkerConnection(ABC):
    """The parent's connection to a worker, wherever that runs.

    Each request has a number, and its reply has the same one. Several requests can be under way.
    An exception between `send` and `receive`, such as a KeyboardInterrupt, cannot make the reply
    of one request that of another.
    """

    def __init__(self, connection: Any) -> None:
        """Initialises a connection without requests.

        Args:
            connection: Has the methods ``send``, ``poll`` and ``recv`` of
                `multiprocessing.connection.Connection`, whose errors are OSErrors and EOFErrors.
        """
        self._connection = connection
        self._identity = next(_identities)
        self._number = 0
        self._is_in_sync = True

    @property
    def is_in_sync(self) -> bool:
        """Whether the connection can be used.

        False if sending or receiving a message was interrupted, so that half of it is left.
        """
        return self._is_in_sync

    def send(self, request: bytes) -> int:
        """Sends a request; if the worker has died, `receive` raises the error.

        Returns:
            The request's number, which its reply will have.
        """
        self._number += 1
        self._is_in_sync = False
        try:
            self._connection.send((self._number, request))
        except OSError:
            pass
        self._is_in_sync = True
        return self._number

    def receive(
        self, timeout: float, on_report: Callable[[Any], object] = lambda report: None
    ) -> tuple[int, bytes]:
        """Returns the next reply, and the number of its request.

        Args:
            timeout: Seconds to wait for the reply, or for the next report or log record.
            on_report: Called with each report that the worker sends while it works.

        Raises:
            TimeoutError: If there is neither a reply nor a report in time.
            WorkerStartError: If the worker could not import what it needs.
            EOFError: If the worker has died.
        """
        while True:
            try:
                is_ready = self._connection.poll(timeout)
                if is_ready:
                    self._is_in_sync = False
                    number, kind, content = self._connection.recv()
                    self._is_in_sync = True
            except OSError as error:  # the connection is closed
                raise EOFError(str(error)) from error
            if not is_ready:
                raise TimeoutError(f"no answer from its worker for {timeout:g} s")
            if kind == "start failure":
                raise WorkerStartError(f"a worker process could not be started: {content}")
            if kind == "report":
                on_report(content)
                continue
            if kind == "log":
                show_record(content, self._identity)
                continue
            return number, content

    @abstractmethod
    def describe_end(self) -> str:
        """Returns how the worker has ended, after `receive` has raised an EOFError."""

    @abstractmethod
    def wait(self, timeout: float) -> int | None:
        """Waits until the worker has ended; returns its exit code, None if there is none."""

    @abstractmethod
    def close_connection(self) -> None:
        """Closes the connection, upon which the worker ends as soon as it is idle."""

    @abstractmethod
    def kill(self) -> None:
        """Ends the worker if it still runs; may be called twice."""


class WorkerProcess(WorkerConnection):
    """A worker process of this machine, and the connection to it."""

    def __init__(self, function: str, setup: Any, pass_fds: Sequence[int] = ()) -> None:
        """Starts the process; returns before it is ready.

        Args:
            function: Function that the process runs, as ``"module:name"``. It is called with a
                `ParentConnection` and ``setup``.
            setup: Picklable argument of the function.
            pass_fds: File descriptors that the process inherits, with their numbers.

        Raises:
            WorkerStartError: If the process cannot be started.
        """
        connection, theirs = multiprocessing.Pipe()
        super().__init__(connection)
        # An empty entry is the current folder, which can change.
        path = [os.path.abspath(entry) for entry in sys.path]
        try:
            with _signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *pass_fds),
                )
        except OSError as error:
            self._connection.close()
            raise WorkerStartError(f"a worker process could not be started: {error}") from error
        finally:
            theirs.close()
        # Runs also when the interpreter exits, but not in a fork of this process.
        self._end = weakref.finalize(self, _end, os.getpid(), self._process, self._connection)
        with suppress(OSError):  # it has died; `receive` raises the error
            self._connection.send(path)
            self._connection.send((os.getpid(), function, setup))

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative if a signal ended the process; None while it runs."""
        return self._process.poll()

    def describe_end(self) -> str:
        """Returns the exit code of the process, in words."""
        return f"its worker process ended with exit code {self.wait(END_SECONDS)}"

    def wait(self, timeout: float) -> int | None:
        """Waits until the process has ended; returns its exit code, None if it still runs."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def close_connection(self) -> None:
        """Closes the connection, upon which the process ends as soon as it is idle."""
        if self._end.alive:
            self._connection.close()

    def kill(self) -> None:
        """Ends the process if it still runs; may be called twice."""
        self._end()


def _end(owner: int, process: subprocess.Popen[bytes], connection: Connection) -> None:
    if os.getpid() != owner:
        return  # a fork of the parent
    connection.close()
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks `SIGNALS` in this thread; a process that it starts inherits the block.

    The worker would otherwise be killed by a signal that comes before it ignores them. The parent's
    own signals are delivered after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- The worker's side --------------------------------------------------------------------------


@dataclass
class ParentConnection:
    """The connection of a worker to its parent."""

    connection: Any
    """Has the methods of `multiprocessing.connection.Connection`."""
    number: int = 0
    """Number of the last request."""

    @property
    def has_request(self) -> bool:
        """Whether `receive` returns at once, with a request or with None."""
        try:
            return bool(self.connection.poll())
        except OSError:
            return True

    def receive(self) -> tuple[int, bytes] | None:
        """Waits for the next request; returns None when the parent has ended or wants no more.

        Returns:
            The request's number and its content.
        """
        try:
            self.number, request = self.connection.recv()
        except (EOFError, OSError):
            return None
        return self.number, request

    def reply(self, number: int, content: bytes) -> None:
        """Answers a request; the order of the answers is free."""
        self._send(number, "reply", content)

    def report(self, content: Any) -> None:
        """Sends something that the parent shows while it waits for the reply."""
        self._send(self.number, "report", content)

    def log(self, record: logging.LogRecord) -> None:
        """Sends a log record, which the parent shows unless another worker has sent the same."""
        self._send(self.number, "log", record)

    def _send(self, number: int, kind: str, content: Any) -> None:
        with suppress(OSError):  # the parent has ended
            self.connection.send((number, kind, content))


def run(connection: Connection) -> None:
    """Runs the function that the parent names; the main function of a worker process."""
    try:
        parent_id, function, setup = connection.recv()
    except (EOFError, ConnectionError):
        return  # the parent has ended
    except Exception as error:  # the modules of the setup cannot be imported
        _report_start_failure(connection, error)
        return
    _exit_with(parent_id)
    run_function(connection, function, setup)


def run_function(connection: Any, function: str, setup: Any) -> None:
    """Runs the function of a worker, and sends an error in its start to the parent.

    Args:
        connection: Has the methods ``send``, ``poll`` and ``recv`` of
            `multiprocessing.connection.Connection`.
        function: As for `WorkerProcess`.
        setup: Its second argument.
    """
    global _is_worker
    _is_worker = True
    parent = ParentConnection(connection)
    logger = logging.getLogger(__name__.partition(".")[0])
    logger.addHandler(RecordSender(parent.log))
    logger.propagate = False
    try:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(parent, setup)
    except (EOFError, ConnectionError):
        return  # the parent has ended
    except Exception as error:
        if parent.number > 0:
            raise
        _report_start_failure(connection, error)


def _report_start_failure(connection: Any, error: Exception) -> None:
    """Sends an error that the parent raises.

    Printed here, the traceback would come from every worker.
    """
    with suppress(OSError):  # the parent has closed the connection
        connection.send((0, "start failure", f"{type(error).__name__}: {error}"))


def _exit_with(parent: int) -> None:
    """Ends this process within a second after its parent's end, whatever it does.

    The end of the connection is not enough: a fork of the parent can hold it open.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def dumps(content: Any) -> bytes:
    """Returns the pickle of a request or reply."""
    return pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
