"""LIBERO's own vector environment and ours, each made to do the same work and timed.

Upstream is used as evaluations of LIBERO use it: ``OffScreenRenderEnv`` in ``SubprocVectorEnv``,
two images per control step, a reset and then ``set_init_state``. If it is helped, it gets what we
give ourselves (one thread per worker for BLAS and for the software renderer), so that no ratio
comes from settings that its users could have changed; else it runs as it comes. It gets the faster
OpenGL library either way.
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from threadpoolctl import threadpool_limits

from srpo_env.adapters.libero_venv import OBSERVATIONS, LiberoVenvToGymnasium
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.simulation import CAMERAS
from srpo_env.libero.suites import Task
from srpo_env.libero.vector import LiberoVectorEnv

Floats = npt.NDArray[np.float64]

Kind = Literal["no camera", "exact", "fast"]

CHUNK = 8
"""control steps between two looks at the cameras; upstream renders at each of them"""

TIMEOUT = 600.0  # seconds; the first thin model of a task takes a while to make

NO_HORIZON = 10**6  # control steps; the work may be repeated without a reset

_SMAPS = "/proc/{}/smaps_rollup"


@dataclass(frozen=True)
class Work:
    """What both sides do: from a stored state, one chunk after the other."""

    task: Task
    init_state_id: int
    actions: Floats
    """shape ``(num_chunks, num_envs, CHUNK, 7)``, in [-1, 1]"""

    @property
    def control_steps(self) -> int:
        """Of all environments together."""
        num_chunks, num_envs, chunk, _ = self.actions.shape
        return int(num_chunks * num_envs * chunk)


class Side(ABC):
    """A vector environment that runs, with one worker per environment or several."""

    name: str
    num_envs: int
    processes: list[int]
    """ids of its workers"""

    @abstractmethod
    def reset(self, work: Work) -> None:
        """Resets all environments to the work's stored state."""

    @abstractmethod
    def rewind(self, work: Work) -> None:
        """Goes back to that state the quick way, to do the work once more."""

    @abstractmethod
    def step(self, work: Work) -> None:
        """Executes all chunks of the work."""

    @abstractmethod
    def close(self) -> None:
        """Ends the workers."""

    def time_reset(self, work: Work) -> float:
        """Seconds until all environments are reset."""
        start = time.perf_counter()
        self.reset(work)
        return time.perf_counter() - start

    def steps_per_second(self, work: Work, min_seconds: float) -> float:
        """Control steps per second; the work is repeated until it has taken ``min_seconds``.

        Call :meth:`reset` first; what rewinds in between is not counted.
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
        """Bytes of all workers: proportional set size; None where the system does not tell.

        Pages that several processes share count in equal parts. Reading it needs Linux.
        """
        sizes = []
        for process in self.processes:
            try:
                content = Path(_SMAPS.format(process)).read_text()
            except OSError:
                return None
            match = re.search(r"^Pss:\s+(\d+) kB$", content, re.MULTILINE)
            if match is None:
                return None
            sizes.append(int(match[1]) * 1024)
        return sum(sizes)


class Upstream(Side):
    """LIBERO's own environment in its own ``SubprocVectorEnv``: one process per environment."""

    name = "upstream"

    def __init__(
        self, task: Task, kind: Kind, num_envs: int, image_size: int = 128, *, helped: bool = True
    ) -> None:
        """Starts the processes and builds the task in each.

        Raises:
            ConnectionError: If that fails; with the last line of what LIBERO said.
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
            helped,
        )
        with _new_processes() as self.processes, self._told():
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

    def reset(self, work: Work) -> None:
        """Resets, which compiles the task anew, and sets the state, as evaluations do."""
        with self._told():
            self._envs.reset(options={"init_state_id": work.init_state_id})

    def rewind(self, work: Work) -> None:
        """Sets the state alone."""
        state = work.task.init_states()[work.init_state_id]
        with self._told():
            self._venv.set_init_state([state] * self.num_envs)

    def step(self, work: Work) -> None:
        """Takes each control step by itself, with an image from each camera."""
        with self._told():
            for chunk in work.actions:
                for step in range(CHUNK):
                    self._venv.step(chunk[:, step])

    def close(self) -> None:
        """Ends the processes."""
        self._envs.close()
        self._log.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says why, where a process has ended."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else repr(error)
            raise ConnectionError(
                f"LIBERO's own environment ended in its process: {reason}"
            ) from error


class Ours(Side):
    """:class:`LiberoVectorEnv`."""

    def __init__(
        self,
        task: Task,
        kind: Kind,
        num_envs: int,
        *,
        num_workers: int | None = None,
        image_size: int = 128,
    ) -> None:
        """Starts the workers; by default one per environment."""
        self.name, self.num_envs = kind, num_envs
        with _new_processes() as self.processes:
            self._envs = LiberoVectorEnv(
                task.suite,
                num_envs,
                num_workers=num_envs if num_workers is None else num_workers,
                cameras=() if kind == "no camera" else tuple(CAMERAS),
                chunk=CHUNK,
                image_size=image_size,
                visuals="fast" if kind == "no camera" else kind,
                settle_steps=0,
                autoreset_mode=AutoresetMode.DISABLED,
                timeout=TIMEOUT,
            )

    def reset(self, work: Work) -> None:
        """Resets to the stored state; a task is compiled when it is met for the first time."""
        options = {"task_id": work.task.task_id, "init_state_id": work.init_state_id}
        self._envs.reset(options=options)

    def rewind(self, work: Work) -> None:
        """Resets: it is quick."""
        self.reset(work)

    def step(self, work: Work) -> None:
        """Executes chunk by chunk.

        Raises:
            RuntimeError: If an episode ended early, so that less was done than was to be.
        """
        for chunk in work.actions:
            _, _, _, _, infos = self._envs.step(chunk)
        done, wanted = infos["control_steps"], work.control_steps // self.num_envs
        if "worker_error" in infos or (done != wanted).any():
            raise RuntimeError(
                f"each environment had to do {wanted} control steps, they did {done.tolist()}; "
                f"{infos.get('worker_error', '')}"
            )

    def close(self) -> None:
        """Ends the workers."""
        self._envs.close()


@contextmanager
def _new_processes() -> Iterator[list[int]]:
    """A list that, at the end of the block, holds the ids of the processes started in it."""
    before = {child.pid for child in multiprocessing.active_children()}
    processes: list[int] = []
    yield processes
    after = {child.pid for child in multiprocessing.active_children()}
    processes.extend(sorted(pid for pid in after - before if pid is not None))


def make_upstream(bddl_file: str, cameras: bool, image_size: int = 128) -> Any:
    """LIBERO's environment in this process, whose reset raises what LIBERO's would hide."""
    prepare_libero()
    choose_gl()
    quieten_upstream()
    from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

    settings: dict[str, Any] = {"bddl_file_name": bddl_file, "horizon": NO_HORIZON}
    if cameras:
        env = OffScreenRenderEnv(camera_heights=image_size, camera_widths=image_size, **settings)
    else:
        env = ControlEnv(use_camera_obs=False, has_offscreen_renderer=False, **settings)
    env.reset = env.env.reset  # LIBERO's own repeats for ever what raises
    return env


def _make_upstream_worker(
    bddl_file: str, cameras: bool, image_size: int, log: str, helped: bool
) -> Any:
    """Builds LIBERO's environment in its process; what that prints from then on goes to ``log``."""
    # Its Python and its libraries write to different places of the same name.
    sys.stdout = sys.stderr = file = open(log, "a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    if helped:
        threadpool_limits(limits=1)
    else:
        # What Mesa takes where nothing is said: in this process `choose_gl` would say 0.
        os.environ["LP_NUM_THREADS"] = str(os.cpu_count())
    return make_upstream(bddl_file, cameras, image_size)


def quieten_upstream() -> None:
    """Keeps robosuite from warning of a settings file that nobody needs."""
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
