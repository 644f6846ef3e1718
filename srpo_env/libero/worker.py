"""The process that runs several environments of a :class:`~srpo_env.libero.vector.LiberoVectorEnv`.

It is told what to do by lists of commands, one per environment, and answers each list at once.
Observations go through shared memory, all else through the pipe.
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
    """What a reset or a step gave; the observation is in shared memory."""

    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    """what a call returned"""


@dataclass(frozen=True)
class Failure:
    """What an environment raised."""

    kind: str
    message: str
    traceback: str


def run_worker(
    connection: Connection, env_kwargs: dict[str, Any], slots: list[int], memory: Any
) -> None:
    """Serves ``slots`` (indices into the vector environment's shared memory) until told to end."""
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.listen(connection.send)
    # More threads than cores make each of these 7 x 7 products several times slower.
    with threadpool_limits(limits=1):
        envs = {slot: LiberoEnv(**env_kwargs) for slot in slots}
        while True:
            try:
                commands: dict[int, Command] | None = connection.recv()
            except (EOFError, ConnectionError):
                return  # the parent is gone
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
    except Exception as error:  # goes to the parent, which knows what it means
        tail = "".join(traceback.format_exception(error)).strip().splitlines()[-TRACEBACK_LINES:]
        return Failure(type(error).__name__, str(error), "\n".join(tail))


def _share(env: LiberoEnv, slot: int, observation: Observation, memory: Any) -> None:
    # Gymnasium's types know arrays only, its code all spaces.
    write_to_shared_memory(env.observation_space, slot, observation, memory)  # type: ignore[arg-type]
