"""The process that runs several environments of a `LiberoVectorEnv`.

It receives requests of one command per environment and sends one answer for each. Observations are
written into shared memory, or beside the answers if the parent is on another host; everything else
goes through the connection.
"""

from __future__ import annotations

import pickle
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt
from threadpoolctl import threadpool_limits

from srpo_env.libero import progress
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.shared_observations import SharedObservations
from srpo_env.libero.worker_process import ParentConnection, dumps
from srpo_env.types import Array

TRACEBACK_LINES = 15


@dataclass(frozen=True)
class Reset:
    """Starts an episode in one environment."""

    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Executes one chunk in one environment."""

    action: npt.NDArray[Any]


@dataclass(frozen=True)
class Call:
    """Reads an attribute, or calls a method with arguments."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetAttr:
    """Sets an attribute."""

    name: str
    value: Any


Command = Reset | Step | Call | SetAttr


@dataclass(frozen=True)
class Outcome:
    """The result of a command; observations are in the parent's memory."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """Return value of a call."""
    buffer: int = 0
    """Index of the shared buffer that has the observation."""

    @property
    def has_ended(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Failure:
    """An exception of an environment."""

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Setup:
    """Arguments of a worker process."""

    env_kwargs: dict[str, Any]
    """Arguments of `LiberoEnv`."""
    slots: tuple[int, ...]
    """Indices of this worker's environments in the vector environment."""
    num_envs: int
    """Number of environments of the vector environment."""
    wrap: Callable[[LiberoEnv], Any] | None
    """Wraps each environment; None: they stay as they are."""
    memory: int | None
    """File descriptor of the shared observations; None if they are sent."""
    attributes: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Attributes that were set since, by environment: a process that replaces another sets them."""


class ObservationWriter(Protocol):
    """Takes the observations of environments to the parent; `SharedObservations` is one."""

    def write(self, slot: int, observation: dict[str, Array]) -> int:
        """Writes the observation of one environment; returns the index of its buffer."""


def serve(
    parent: ParentConnection, setup: Setup, observations: ObservationWriter | None = None
) -> None:
    """Executes commands until the parent ends or closes the connection.

    Args:
        parent: The connection.
        setup: What to run.
        observations: Where observations are written; by default the memory of the setup.
    """
    progress.listen(parent.report)
    # With more threads than cores, products of 7 x 7 matrices are several times slower.
    with threadpool_limits(limits=1):
        envs: dict[int, Any] = {slot: LiberoEnv(**setup.env_kwargs) for slot in setup.slots}
        if setup.wrap is not None:
            envs = {slot: setup.wrap(env) for slot, env in envs.items()}
        for slot, attributes in setup.attributes.items():
            for name, value in attributes.items():
                envs[slot].set_wrapper_attr(name, value)
        if observations is None:
            space = envs[setup.slots[0]].observation_space
            observations = SharedObservations(space, setup.num_envs, setup.memory)
        requests: deque[_Request] = deque()
        while True:
            while not requests or parent.has_request:
                received = parent.receive()
                if received is None:
                    for env in envs.values():
                        env.close()
                    return
                request = _Request.read(*received)
                # The policy waits for resets, while the steps of other environments are under way.
                if all(isinstance(command, Reset) for command in request.commands.values()):
                    requests.appendleft(request)
                else:
                    requests.append(request)
            request = requests[0]
            if request.commands:
                slot = next(iter(request.commands))
                command = request.commands.pop(slot)
                request.answers[slot] = _execute(envs[slot], slot, command, observations)
            if not request.commands:
                requests.popleft()
                parent.reply(request.number, request.reply())


@dataclass
class _Request:
    """A request, which is executed one environment at a time."""

    number: int
    commands: dict[int, Command]
    """The commands that have not been executed, by slot."""
    answers: dict[int, Outcome | Failure]

    @classmethod
    def read(cls, number: int, content: bytes) -> _Request:
        """Reads a pickled pair of slots and their pickled commands."""
        slots, pickled = pickle.loads(content)
        try:
            commands: list[Command] = pickle.loads(pickled)
        except Exception as error:  # a class that only the parent's main module has
            return cls(number, {}, dict.fromkeys(slots, _failure(error)))
        return cls(number, dict(zip(slots, commands, strict=True)), {})

    def reply(self) -> bytes:
        try:
            return dumps(self.answers)
        except Exception:  # a value that cannot be pickled
            return dumps({slot: _picklable(answer) for slot, answer in self.answers.items()})


def _picklable(answer: Outcome | Failure) -> Outcome | Failure:
    try:
        dumps(answer)
    except Exception as error:
        return _failure(error)
    return answer


def _execute(
    env: Any, slot: int, command: Command, observations: ObservationWriter
) -> Outcome | Failure:
    try:
        match command:
            case Reset(seed, options):
                observation, info = env.reset(seed=seed, options=options)
                return Outcome(info=info, buffer=observations.write(slot, observation))
            case Step(action):
                observation, reward, terminated, truncated, info = env.step(action)
                buffer = observations.write(slot, observation)
                return Outcome(reward, terminated, truncated, info, buffer=buffer)
            case Call(name, args, kwargs):
                attribute = env.get_wrapper_attr(name)
                return Outcome(
                    value=attribute(*args, **kwargs) if callable(attribute) else attribute
                )
            case SetAttr(name, value):
                env.set_wrapper_attr(name, value)
                return Outcome()
    except Exception as error:  # the parent handles it
        return _failure(error)


def _failure(error: Exception) -> Failure:
    tail = "".join(traceback.format_exception(error)).strip().splitlines()[-TRACEBACK_LINES:]
    return Failure(type(error).__name__, str(error), "\n".join(tail))
