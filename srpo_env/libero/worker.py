"""The process that runs several environments of a :class:`~srpo_env.libero.vector.LiberoVectorEnv`.

It receives one command per environment and sends one answer for each. Observations are sent through
shared memory, everything else through a pipe.
"""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy.typing as npt
from gymnasium.vector.utils import write_to_shared_memory
from threadpoolctl import threadpool_limits

from srpo_env.libero import progress
from srpo_env.libero.env import LiberoEnv, Observation

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
    """The result of a command; observations are in shared memory."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """return value of a call"""


@dataclass(frozen=True)
class Failure:
    """An exception of an environment."""

    kind: str
    message: str
    traceback: str


def run_worker(
    connection: Connection, env_kwargs: dict[str, Any], slots: list[int], memory: Any
) -> None:
    """Executes commands until it receives None.

    Args:
        connection: The pipe to the parent process.
        env_kwargs: Arguments of :class:`LiberoEnv`.
        slots: Indices of this worker's environments in the vector environment.
        memory: Shared memory for the observations of all environments.
    """
    # Ctrl-C reaches all processes of the terminal, and the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.listen(connection.send)
    # With more threads than cores, products of 7 x 7 matrices are several times slower.
    with threadpool_limits(limits=1):
        envs = {slot: LiberoEnv(**env_kwargs) for slot in slots}
        while True:
            try:
                commands: dict[int, Command] | None = connection.recv()
            except (EOFError, ConnectionError):
                return  # the parent has ended
            if commands is None:
                break
            connection.send(
                {
                    slot: _execute(envs[slot], slot, command, memory)
                    for slot, command in commands.items()
                }
            )
        for env in envs.values():
            env.close()
    connection.send("closed")


def _execute(env: LiberoEnv, slot: int, command: Command, memory: Any) -> Outcome | Failure:
    try:
        match command:
            case Reset(seed, options):
                observation, info = env.reset(seed=seed, options=options)
                _share(env, slot, observation, memory)
                return Outcome(info=info)
            case Step(action):
                observation, reward, terminated, truncated, info = env.step(action)
                _share(env, slot, observation, memory)
                return Outcome(reward, terminated, truncated, info)
            case Call(name, args, kwargs):
                attribute = env.get_wrapper_attr(name)
                return Outcome(
                    value=attribute(*args, **kwargs) if callable(attribute) else attribute
                )
            case SetAttr(name, value):
                env.set_wrapper_attr(name, value)
                return Outcome()
    except Exception as error:  # the parent handles it
        tail = "".join(traceback.format_exception(error)).strip().splitlines()[-TRACEBACK_LINES:]
        return Failure(type(error).__name__, str(error), "\n".join(tail))


def _share(env: LiberoEnv, slot: int, observation: Observation, memory: Any) -> None:
    # Gymnasium's type hints accept only arrays, its code all spaces.
    write_to_shared_memory(env.observation_space, slot, observation, memory)  # type: ignore[arg-type]
