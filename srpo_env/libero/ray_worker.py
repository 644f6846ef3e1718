"""A worker of `RayVectorEnv`: the worker of `LiberoVectorEnv`, in a Ray actor on any host.

The messages are those of a local worker. A reply brings the observations along, because hosts share
no memory.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from srpo_env.libero import worker
from srpo_env.libero.shared_observations import NUM_BUFFERS
from srpo_env.libero.worker import Setup
from srpo_env.libero.worker_handle import Worker
from srpo_env.libero.worker_process import ParentConnection, WorkerConnection, run_function
from srpo_env.system.text import one_line
from srpo_env.types import Array

START_SECONDS = 1.0
"""Seconds after which an actor is started again that has not run."""

Put = Callable[[int, int, Mapping[str, Array]], None]
"""Takes the slot of an environment, the index of a buffer, and the observation to write into it."""


# --- The actor's side -----------------------------------------------------------------------------


class Mailbox:
    """The worker's end of the connection: its messages wait until the parent asks for them.

    `poll`, `recv` and `send` are those of `multiprocessing.connection.Connection`, and are used by
    the thread of the worker. `deliver` and `collect` are called by the parent.
    """

    def __init__(self) -> None:
        """Initialises without messages."""
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._buffers: dict[int, int] = {}
        self._written: list[tuple[int, int, dict[str, Array]]] = []

    def poll(self) -> bool:
        """Returns whether a request waits."""
        return not self._requests.empty()

    def recv(self) -> Any:
        """Waits for the next request."""
        return self._requests.get()

    def write(self, slot: int, observation: dict[str, Array]) -> int:
        """Keeps an observation for the next reply; returns the buffer that the parent has for it.

        Copied, because an environment may write the next one into the same arrays.
        """
        buffer = self._buffers[slot] = (self._buffers.get(slot, 0) + 1) % NUM_BUFFERS
        copied = {name: np.array(value) for name, value in observation.items()}
        self._written.append((slot, buffer, copied))
        return buffer

    def send(self, message: tuple[int, str, Any]) -> None:
        """Sends a message; a reply with the observations that were written since the last one."""
        observations: list[tuple[int, int, dict[str, Array]]] = []
        if message[1] == "reply":
            observations, self._written = self._written, []
        self._messages.put((message, observations))

    def deliver(self, request: Any) -> None:
        """Adds a request."""
        self._requests.put(request)

    def collect(self) -> tuple[tuple[int, str, Any], list[tuple[int, int, dict[str, Array]]]]:
        """Waits for the next message; returns it and its observations."""
        message, observations = self._messages.get()
        return message, observations


def serve(parent: ParentConnection, setup: Setup) -> None:
    """Executes commands, and sends the observations with the replies."""
    worker.serve(parent, setup, observations=parent.connection)


class Simulator:
    """Runs a worker in a thread of its own."""

    def __init__(self, function: str, setup: Any) -> None:
        """Starts the worker; see `run_function`."""
        self._mailbox = Mailbox()
        threading.Thread(target=self._run, args=(function, setup), daemon=True).start()

    @ray.method(concurrency_group="requests")  # type: ignore[untyped-decorator]
    def deliver(self, request: Any) -> None:
        """Passes a request to the worker."""
        self._mailbox.deliver(request)

    @ray.method(concurrency_group="replies")  # type: ignore[untyped-decorator]
    def collect(self) -> Any:
        """Waits for the worker's next message."""
        return self._mailbox.collect()

    @ray.method(concurrency_group="requests")  # type: ignore[untyped-decorator]
    def place(self) -> tuple[str, int]:
        """Returns Ray's id of the node that the actor runs on, and its process id there."""
        return str(ray.get_runtime_context().get_node_id()), os.getpid()

    def _run(self, function: str, setup: Any) -> None:
        try:
            run_function(self._mailbox, function, setup)
        except BaseException:
            # As a worker process does, so that the parent learns of it.
            traceback.print_exc()
            os._exit(1)


# The groups are one thread each: requests arrive in order, and also while the parent waits.
SimulatorActor: Any = ray.remote(max_restarts=0, concurrency_groups={"requests": 1, "replies": 1})(
    Simulator
)


# --- The parent's side ----------------------------------------------------------------------------


class RayConnection:
    """The parent's end of the connection to an actor."""

    def __init__(self, start: Callable[[], Any], put: Put) -> None:
        """Starts the actor.

        Args:
            start: Starts a `SimulatorActor`, and returns before it runs.
            put: Called with each observation that arrives.
        """
        self._start, self._put = start, put
        self.actor = start()
        self.error = "it was stopped"
        """Why the actor has ended."""
        self._next: Any = None
        self._message: Any = None
        self._early: list[Any] | None = []
        """Requests that were sent before the actor's first message; None after it."""

    def send(self, request: Any) -> None:
        """Sends a request, and asks for the next message."""
        if self._early is not None:
            self._early.append(request)
        self.actor.deliver.remote(request)
        self._ask()

    def poll(self, timeout: float) -> bool:
        """Waits until a message has arrived; returns whether one has.

        Raises:
            ConnectionError: If the actor has ended, or its node.
        """
        deadline = time.monotonic() + timeout
        while self._message is None:
            self._ask()
            ready, _ = ray.wait([self._next], timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            try:
                self._message = ray.get(self._next)
            except RayError as error:
                self._next = None
                if self._early is None or getattr(error, "actor_init_failed", False):
                    self.error = one_line(error)
                    raise ConnectionError(self.error) from error
                self._start_again()
        return True

    def recv(self) -> tuple[int, str, Any]:
        """Returns the message that has arrived, and writes the observations that it brings."""
        (number, kind, content), observations = self._message
        self._message = self._next = self._early = None
        for slot, buffer, observation in observations:
            self._put(slot, buffer, observation)
        return number, kind, content

    def _ask(self) -> None:
        if self._next is None:
            self._next = self.actor.collect.remote()

    def _start_again(self) -> None:
        """Starts another actor in place of one that has never run, and repeats its requests.

        For some seconds, Ray does not know that a node has died, and may choose it for an actor.
        """
        time.sleep(START_SECONDS)
        self.actor = self._start()
        for request in self._early or []:
            self.actor.deliver.remote(request)


class RayWorkerConnection(WorkerConnection):
    """A worker in a Ray actor, and the connection to it."""

    _connection: RayConnection

    def __init__(self, setup: Setup, put: Put, options: Mapping[str, Any]) -> None:
        """Starts an actor; returns before Ray has found a host for it.

        Args:
            setup: What it runs.
            put: Called with each observation that arrives.
            options: Ray's options of the actor.
        """
        function = f"{__name__}:{serve.__name__}"
        start = partial(SimulatorActor.options(**options).remote, function, setup)
        super().__init__(RayConnection(start, put))

    def place(self) -> tuple[str, int]:
        """Returns Ray's id of its node, and its process id there; waits until it has started."""
        node_id, pid = ray.get(self._connection.actor.place.remote())
        return node_id, pid

    def describe_end(self) -> str:
        """Returns Ray's report."""
        return f"its Ray actor ended: {self._connection.error}"

    def wait(self, timeout: float) -> int | None:
        """Returns None at once: `kill` ends an actor, wherever it is."""
        return None

    def close_connection(self) -> None:
        """Ends the actor."""
        self.kill()

    def kill(self) -> None:
        """Ends the actor; may be called twice."""
        if ray.is_initialized():  # otherwise, Ray has ended it
            ray.kill(self._connection.actor)


class RayWorker(Worker):
    """One actor and its environments; Ray starts the actor that replaces it on any live host."""

    process: RayWorkerConnection

    def __init__(
        self,
        setup: Setup,
        show_progress: Callable[[Any], object],
        put: Put,
        options: Mapping[str, Any],
    ) -> None:
        """Starts the actor.

        Args:
            setup: What it runs.
            show_progress: Called with each report of progress.
            put: Called with each observation that arrives.
            options: Ray's options of the actor.
        """
        self._put, self._options = put, options
        super().__init__(setup, show_progress)

    def _start(self) -> RayWorkerConnection:
        return RayWorkerConnection(self.setup, self._put, self._options)
