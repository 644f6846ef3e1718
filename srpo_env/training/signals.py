"""Ends a run between two of its steps after Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_received: list[int] = []
"""numbers of the stop signals that arrived inside `deferred_signals`"""


class Stopped(BaseException):
    """Raised by `check_signals` after a stop signal; not an error, so no ``except Exception``."""

    def __init__(self, signum: int) -> None:
        """Stores the signal's number."""
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + signal, the exit code that shells and job schedulers expect."""
        return 128 + self.signum


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defers SIGINT, SIGTERM and SIGHUP to the next `check_signals`.

    A second SIGINT raises `KeyboardInterrupt` at once, and a second SIGTERM or SIGHUP ends the
    process. SIGINT is handled even if the process was started with it ignored, as a non-interactive
    shell does for background jobs. SIGHUP stays ignored if it was, because that is what ``nohup``
    is for. To be used in the main thread, where Python handles signals.
    """
    previous = {}
    default: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }

    def receive(signum: int, frame: FrameType | None) -> None:
        _received.append(signum)
        signal.signal(signum, default[signal.Signals(signum)])

    _received.clear()
    for signum in default:
        if signum is signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
            continue
        previous[signum] = signal.signal(signum, receive)
    try:
        yield
    finally:
        _received.clear()
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def check_signals() -> None:
    """Raises `Stopped` if a stop signal arrived; does nothing outside `deferred_signals`.

    Raises:
        Stopped: With the number of the first signal.
    """
    if _received:
        raise Stopped(_received[0])
