"""The parent's side of a worker of `LiberoVectorEnv`: its process, and the commands under way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srpo_env.libero.worker import Failure, Outcome, Setup
from srpo_env.libero.worker_process import WorkerConnection, WorkerProcess


@dataclass(eq=False)
class Pending:
    """A command that was sent to an environment."""

    command: Any
    answer: Outcome | Failure | None = None
    """None until the environment has answered."""


class Worker:
    """One process and its environments."""

    def __init__(self, setup: Setup, show_progress: Callable[[Any], object]) -> None:
        """Starts the process.

        Args:
            setup: What it runs.
            show_progress: Called with each report of progress.
        """
        self.slots = setup.slots
        self.failures: list[str] = []
        """Kinds of failures since the last successful command."""
        self.requests: dict[int, dict[int, Pending]] = {}
        """Commands that are not answered, by slot, of each request by its number."""
        self.setup, self._show_progress = setup, show_progress
        self.process = self._start()

    def _start(self) -> WorkerConnection:
        """Starts the process."""
        memory = self.setup.memory
        assert memory is not None
        return WorkerProcess("srpo_env.libero.worker:serve", self.setup, [memory])

    @property
    def under_way(self) -> list[Pending]:
        """All commands that are not answered."""
        return [pending for request in self.requests.values() for pending in request.values()]

    def receive(self, timeout: float) -> tuple[int, dict[int, Outcome | Failure] | Failure]:
        """Returns a request's number and answers, or a failure if the process has died or hangs.

        Args:
            timeout: Seconds to wait for the answers, or for the next report of progress.

        Raises:
            WorkerStartError: If the process could not be started.
        """
        try:
            number, reply = self.process.receive(timeout, self._show_progress)
        except TimeoutError as error:
            return 0, Failure("TimeoutError", str(error), "")
        except EOFError:
            return 0, Failure("WorkerDied", self.process.describe_end(), "")
        try:
            answers: dict[int, Outcome | Failure] = pickle.loads(reply)
        except Exception as error:  # an object that only the worker can import
            return number, Failure(type(error).__name__, str(error), "")
        return number, answers

    def replace(self) -> None:
        """Kills the process and starts another; its commands stay without an answer."""
        self.process.kill()
        self.requests.clear()
        self.process = self._start()
