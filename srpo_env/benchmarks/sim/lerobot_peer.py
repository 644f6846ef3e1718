"""lerobot's LIBERO environment, to time it on the same work as LIBERO's own environment and ours.

It is made by lerobot's ``create_libero_envs`` and run by the vector environment that
``make_env(..., use_async_envs=True)`` uses, with one process per environment, as all others here.
lerobot's default, all environments in one process (``SyncVectorEnv``), cannot use several cores;
images and states are the same. As for LIBERO's own environment, a worker may get one thread for
BLAS and for the software renderer. Facts about lerobot are those of version 0.6.1.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
from packaging.version import Version

from srpo_env.benchmarks.sim.implementations import (
    CHUNK,
    Implementation,
    Work,
    explained_errors,
    new_processes,
    quieten_upstream,
    start_upstream_worker,
)
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.suites import Task

OLDEST = "0.6.1"
"""Lowest version of lerobot that has the vector environment used here."""


def lerobot_version() -> str | None:
    """Returns the version of lerobot; None if it is not installed or too old."""
    try:
        version = importlib.metadata.version("lerobot")
    except importlib.metadata.PackageNotFoundError:
        return None
    return version if Version(version) >= Version(OLDEST) else None


class Lerobot(Implementation):
    """lerobot's ``LiberoEnv`` with state and two images, one process per environment."""

    name = "lerobot"

    def __init__(
        self, task: Task, num_envs: int, image_size: int = 128, *, limit_threads: bool = True
    ) -> None:
        """Starts the processes; each builds the task at its first reset."""
        self.num_envs = num_envs
        prepare_libero()
        choose_gl()
        quieten_upstream()
        # They import LIBERO, so after `prepare_libero`. Imported by name, because lerobot is no
        # requirement of this package.
        libero = importlib.import_module("lerobot.envs.libero")
        self._vector_class = importlib.import_module("lerobot.envs.utils")._LazyAsyncVectorEnv
        self._log = tempfile.NamedTemporaryFile(prefix="lerobot-", suffix=".log")
        self._limit_threads = limit_threads
        settings = {
            "task_ids": [task.task_id],
            "obs_type": "pixels_agent_pos",
            "observation_width": image_size,
            "observation_height": image_size,
            "num_steps_wait": 0,  # as the other implementations, which settle in no reset
        }
        with (
            contextlib.ExitStack() as on_error,
            contextlib.redirect_stdout(io.StringIO()),
            new_processes() as self.processes,
        ):
            on_error.callback(self._log.close)
            made = libero.create_libero_envs(
                task.suite, num_envs, settings, env_cls=self._start_workers
            )
            self._envs = made[task.suite][task.task_id]
            with self._explained_errors():
                self._envs.get_attr("task_id")  # its first use starts the processes
            on_error.pop_all()
        self.observations: dict[str, Any] = {}
        """lerobot's observations after the last reset or step."""

    def reset(self, work: Work) -> None:
        """Resets, which compiles the task again and sets the state."""
        with self._explained_errors():
            self._envs.call("set_wrapper_attr", "init_state_id", work.init_state_id)
            self.observations, _ = self._envs.reset()

    def rewind(self, work: Work) -> None:
        """Resets: lerobot's environment offers nothing faster."""
        self.reset(work)

    def step(self, work: Work) -> None:
        """Executes each control step separately, with an image from each camera.

        Raises:
            RuntimeError: If an episode ended, because lerobot's environment then stands still.
        """
        with self._explained_errors():
            for chunk in work.actions:
                for step in range(CHUNK):
                    self.observations, _, ends, _, _ = self._envs.step(chunk[:, step])
                    if ends.any():
                        raise RuntimeError("an episode of lerobot's environment ended early")

    def close(self) -> None:
        """Ends the processes."""
        self._envs.close()
        self._log.close()

    def _start_workers(self, makers: Sequence[Callable[[], Any]]) -> Any:
        one = makers[0]()  # it has no simulator before its first reset
        workers = [
            _Worker(cloudpickle.dumps(make), self._log.name, self._limit_threads, os.getpid())
            for make in makers
        ]
        return self._vector_class(workers, one.observation_space, one.action_space, one.metadata)

    def _explained_errors(self) -> contextlib.AbstractContextManager[None]:
        return explained_errors(self._log.name, "lerobot's environment")


@dataclass(frozen=True)
class _Worker:
    """Makes lerobot's environment in a worker, after LIBERO has been configured there."""

    pickled: bytes
    """lerobot's function, pickled, because reading it imports LIBERO."""
    log: str
    limit_threads: bool
    parent_id: int
    """The process that calls it once for the spaces, and keeps its output and threads."""

    def __call__(self) -> Any:
        if os.getpid() != self.parent_id:
            start_upstream_worker(self.log, self.limit_threads)
        prepare_libero()
        choose_gl()
        quieten_upstream()
        return cloudpickle.loads(self.pickled)()
