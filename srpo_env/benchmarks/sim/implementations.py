"""LIBERO's own vector environment and ours behind one interface, to time both on the same work.

Upstream is LIBERO's own environment, used as in LIBERO's evaluations: ``OffScreenRenderEnv`` in
``SubprocVectorEnv``, two images per control step, a reset followed by ``set_init_state``. With
``limit_threads``, its workers get one thread each for BLAS and for the software renderer, as ours
do, so that no ratio depends on a setting that users of LIBERO could change. Otherwise, it keeps its
defaults. It uses the faster OpenGL library in both cases.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium.vector import AutoresetMode
from threadpoolctl import threadpool_limits

from srpo_env.adapters.libero_venv import OBSERVATIONS, LiberoVenvToGymnasium
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.suites import Task
from srpo_env.libero.vector import LiberoVectorEnv
from srpo_env.types import Floats

Kind = Literal["no camera", "no camera, physics fast", "exact", "fast", "fast, physics fast"]

ENV_OPTIONS: dict[Kind, dict[str, Any]] = {
    "no camera": {"cameras": (), "visuals": "fast"},
    "no camera, physics fast": {"cameras": (), "visuals": "fast", "physics": "fast"},
    "exact": {"visuals": "exact"},
    "fast": {"visuals": "fast"},
    "fast, physics fast": {"visuals": "fast", "physics": "fast"},
}
"""Arguments of `LiberoEnv` by kind."""

CHUNK = 8
"""Number of control steps per image of ours; upstream renders at every control step."""

TIMEOUT = 600.0  # seconds; decimating the meshes of a task for the first time is slow

NO_HORIZON = 10**6  # control steps; the work may be repeated without a reset

SMAPS = "/proc/{}/smaps_rollup"
"""Linux's file of a process's memory, by process id."""


@dataclass(frozen=True)
class Work:
    """Work of every implementation: chunks of actions from a stored initial state."""

    task: Task
    init_state_id: int
    actions: Floats
    """Shape ``(num_chunks, num_envs, CHUNK, 7)``, in [-1, 1]."""

    @property
    def control_steps(self) -> int:
        """Number of control steps of all environments together."""
        num_chunks, num_envs, chunk, _ = self.actions.shape
        return int(num_chunks * num_envs * chunk)


class Implementation(ABC):
    """A running vector environment, with one or several environments per worker."""

    name: str
    num_envs: int
    processes: list[int]
    """Process ids of its workers."""

    @abstractmethod
    def reset(self, work: Work) -> None:
        """Resets all environments to the stored state of the work."""

    @abstractmethod
    def rewind(self, work: Work) -> None:
        """Restores that state in the fastest way, to repeat the work."""

    @abstractmethod
    def step(self, work: Work) -> None:
        """Executes all chunks of the work."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers."""

    def time_reset(self, work: Work) -> float:
        """Returns the seconds that a reset of all environments takes."""
        start = time.perf_counter()
        self.reset(work)
        return time.perf_counter() - start

    def steps_per_second(self, work: Work, min_seconds: float) -> float:
        """Returns control steps per second, repeating the work for at least ``min_seconds``.

        Call `reset` first. Rewinding between repetitions is not counted.
        """
        seconds, repeats = 0.0, 0
        while repeats == 0 or seconds < min_seconds:
            if repeats > 0:
                self.rewind(work)
            start = time.perf_counter()
            self.step(work)
            seconds += time.perf_counter() - start
            repeats += 1
        return repeats * work.control_steps / seconds

    def memory(self) -> int | None:
        """Returns the proportional set size of all workers in bytes; None except on Linux.

        A page that several processes share counts in equal parts.
        """
        sizes = []
        for process in self.processes:
            try:
                content = Path(SMAPS.format(process)).read_text()
            except OSError:
                return None
            match = re.search(r"^Pss:\s+(\d+) kB$", content, re.MULTILINE)
            if match is None:
                return None
            sizes.append(int(match[1]) * 1024)
        return sum(sizes)


class Upstream(Implementation):
    """LIBERO's own environment in its own ``SubprocVectorEnv``: one process per environment."""

    name = "upstream"

    def __init__(
        self,
        task: Task,
        kind: Kind,
        num_envs: int,
        image_size: int = 128,
        *,
        limit_threads: bool = True,
    ) -> None:
        """Starts the processes and builds the task in each.

        Raises:
            ConnectionError: If a process ends; with the last line of its output.
        """
        self.num_envs = num_envs
        prepare_libero()
        choose_gl()
        quieten_upstream()
        from libero.libero.envs.venv import SubprocVectorEnv

        self._log = tempfile.NamedTemporaryFile(prefix="libero-", suffix=".log")
        make = functools.partial(
            _make_upstream_worker,
            str(task.bddl_file),
            kind != "no camera",
            image_size,
            self._log.name,
            limit_threads,
        )
        with (
            ExitStack() as on_error,
            new_processes() as self.processes,
            self._explained_errors(),
        ):
            on_error.callback(self._log.close)
            self._venv = SubprocVectorEnv([make] * num_envs)
            names = [name for name in OBSERVATIONS if not name.endswith("_image")]
            self._envs = LiberoVenvToGymnasium(
                self._venv,
                task.init_states(),
                max_episode_steps=NO_HORIZON,
                observations=OBSERVATIONS if kind != "no camera" else names,
                settle_steps=0,
                timeout=TIMEOUT,
                autoreset_mode=AutoresetMode.DISABLED,
            )
            on_error.pop_all()

    def reset(self, work: Work) -> None:
        """Resets, which compiles the task again, and sets the state, as evaluations do."""
        with self._explained_errors():
            self._envs.reset(options={"init_state_id": work.init_state_id})

    def rewind(self, work: Work) -> None:
        """Sets the state without a reset."""
        state = work.task.init_states()[work.init_state_id]
        with self._explained_errors():
            self._venv.set_init_state([state] * self.num_envs)

    def step(self, work: Work) -> None:
        """Executes each control step separately, with an image from each camera."""
        with self._explained_errors():
            for chunk in work.actions:
                for step in range(CHUNK):
                    self._venv.step(chunk[:, step])

    def close(self) -> None:
        """Ends the processes."""
        self._envs.close()
        self._log.close()

    def _explained_errors(self) -> AbstractContextManager[None]:
        return explained_errors(self._log.name, "LIBERO's own environment")


class Ours(Implementation):
    """`LiberoVectorEnv`."""

    def __init__(
        self,
        task: Task,
        kind: Kind,
        num_envs: int,
        *,
        num_workers: int | None = None,
        image_size: int = 128,
    ) -> None:
        """Starts the workers, by default one per environment."""
        self.name, self.num_envs = kind, num_envs
        self._envs = LiberoVectorEnv(
            task.suite,
            num_envs,
            num_workers=num_envs if num_workers is None else num_workers,
            chunk=CHUNK,
            image_size=image_size,
            settle_steps=0,
            autoreset_mode=AutoresetMode.DISABLED,
            timeout=TIMEOUT,
            **ENV_OPTIONS[kind],
        )
        self.processes = self._envs.worker_pids

    def reset(self, work: Work) -> None:
        """Resets to the stored state; a task is compiled at its first reset only."""
        options = {"task_id": work.task.task_id, "init_state_id": work.init_state_id}
        self._envs.reset(options=options)

    def rewind(self, work: Work) -> None:
        """Resets, which is fast."""
        self.reset(work)

    def step(self, work: Work) -> None:
        """Executes chunk by chunk.

        Raises:
            RuntimeError: If an episode ended early, so that control steps are missing.
        """
        for chunk in work.actions:
            _, _, _, _, infos = self._envs.step(chunk)
        done, expected = infos["control_steps"], work.control_steps // self.num_envs
        if "worker_error" in infos or (done != expected).any():
            raise RuntimeError(
                f"each environment must execute {expected} control steps, got {done.tolist()}; "
                f"{infos.get('worker_error', '')}"
            )

    def close(self) -> None:
        """Ends the workers."""
        self._envs.close()


@contextmanager
def explained_errors(log: str, owner: str) -> Iterator[None]:
    """Adds the last line of a process's output, in the file ``log``, to the error if it ended."""
    try:
        yield
    except (EOFError, ConnectionError) as error:
        lines = Path(log).read_text(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else repr(error)
        raise ConnectionError(f"the process of {owner} ended: {reason}") from error


@contextmanager
def new_processes() -> Iterator[list[int]]:
    """Yields a list that holds the ids of the processes started in the block, after its end."""
    before = {child.pid for child in multiprocessing.active_children()}
    processes: list[int] = []
    yield processes
    after = {child.pid for child in multiprocessing.active_children()}
    processes.extend(sorted(pid for pid in after - before if pid is not None))


def make_upstream(bddl_file: str, cameras: bool, image_size: int = 128) -> Any:
    """Makes LIBERO's environment in this process; its reset raises the errors that LIBERO hides."""
    prepare_libero()
    choose_gl()
    quieten_upstream()
    from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

    settings: dict[str, Any] = {"bddl_file_name": bddl_file, "horizon": NO_HORIZON}
    if cameras:
        env = OffScreenRenderEnv(camera_heights=image_size, camera_widths=image_size, **settings)
    else:
        env = ControlEnv(use_camera_obs=False, has_offscreen_renderer=False, **settings)
    env.reset = env.env.reset  # LIBERO's method retries forever after an exception
    return env


def _make_upstream_worker(
    bddl_file: str, cameras: bool, image_size: int, log: str, limit_threads: bool
) -> Any:
    """Makes LIBERO's environment in a worker process, whose output goes to the file ``log``."""
    start_upstream_worker(log, limit_threads)
    return make_upstream(bddl_file, cameras, image_size)


def start_upstream_worker(log: str, limit_threads: bool) -> None:
    """Redirects the output of this process to the file ``log``, and limits its threads."""
    # Python writes to sys.stdout, libraries to file descriptor 1: redirect both.
    sys.stdout = sys.stderr = file = open(log, "a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    if limit_threads:
        threadpool_limits(limits=1)
    else:
        # Mesa's default; otherwise `choose_gl` would set 0 in this process.
        os.environ["LP_NUM_THREADS"] = str(os.cpu_count())


def quieten_upstream() -> None:
    """Silences robosuite's warning about an optional settings file."""
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
