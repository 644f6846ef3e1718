"""Shows a warning once, although several processes may notice the same fault."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from logging.handlers import QueueHandler

_shown: dict[str, int] = {}
"""The process that first had a warning, by its text"""


def warn_once(logger: logging.Logger, message: str) -> None:
    """Logs a warning that this process has not shown yet, neither its own nor a worker's."""
    if message not in _shown:
        _shown[message] = os.getpid()
        logger.warning("%s", message)


def show_record(record: logging.LogRecord, process: int) -> None:
    """Logs what a worker has logged, unless another process has had the same.

    Args:
        record: From a `RecordSender` in the worker.
        process: Number of the worker, which no other process has. Its own repetitions are shown.
    """
    logger = logging.getLogger(record.name)
    is_first = _shown.setdefault(record.getMessage(), process) == process
    if is_first and logger.isEnabledFor(record.levelno):
        logger.handle(record)


class RecordSender(QueueHandler):
    """Sends log records to another process; their text is complete, so they can be pickled."""

    def __init__(self, send: Callable[[logging.LogRecord], object]) -> None:
        """Initialises the handler; ``send`` is called with each record."""
        super().__init__(None)  # type: ignore[arg-type]
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sends a record."""
        self._send(record)
