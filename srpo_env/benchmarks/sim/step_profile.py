"""Profiles one control step by part, in LIBERO's own environment and in ours.

Functions are replaced by timed ones, so call it in a separate process. The timers take a few
microseconds per substep, a few percent of our control step.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from srpo_env.benchmarks.sim.implementations import CHUNK, ENV_OPTIONS, Kind, make_upstream
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import Task

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

PARTS = ("physics", "extra forward", "controller", "observations", "rendering", "rest")
"""Parts of a control step.

``extra forward``: MuJoCo's forward passes in addition to its steps, two per substep in upstream;
``observations``: all except images; ``rest``: goal predicates, Python.
"""


class Stopwatch:
    """Sums the time spent in parts of a program; nested calls count for the inner part only."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts the clock; time outside timed functions counts as ``rest``."""
        self._clock = clock
        self._stack = ["rest"]
        self.reset()

    def reset(self) -> None:
        """Sets all times to 0."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._since = self._clock()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function wrapped so that its time counts for ``part``."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._stack.pop()

        return wrapper

    def read(self) -> dict[str, float]:
        """Returns the seconds in each part of `PARTS` since the last reset."""
        self._charge()
        return {part: self.seconds[part] for part in PARTS}

    def _charge(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def profile_step(
    task: Task, implementation: Literal["upstream", "ours"], kind: Kind, num_chunks: int
) -> dict[str, float]:
    """Measures milliseconds per control step by part, with random actions from a stored state.

    Call it in a new process for each implementation, because the timers are not removed.
    """
    watch = Stopwatch()
    for name in ("mj_step", "mj_step1", "mj_step2"):
        setattr(mujoco, name, watch.timed("physics", getattr(mujoco, name)))
    mujoco.mj_forward = watch.timed("extra forward", mujoco.mj_forward)
    start = _start_upstream if implementation == "upstream" else _start_ours
    with threadpool_limits(limits=1):
        step_chunk = start(task, kind, watch)
        rng = np.random.default_rng(0)
        step_chunk(rng.uniform(-1.0, 1.0, (CHUNK, 7)))  # includes one-time compilation
        watch.reset()
        for _ in range(num_chunks):
            step_chunk(rng.uniform(-1.0, 1.0, (CHUNK, 7)))
        seconds = watch.read()
    return {part: 1000 * value / (num_chunks * CHUNK) for part, value in seconds.items()}


def _start_upstream(task: Task, kind: Kind, watch: Stopwatch) -> Callable[[Any], None]:
    env = make_upstream(str(task.bddl_file), kind != "no camera")
    from robosuite.robots import SingleArm
    from robosuite.utils.binding_utils import MjSim
    from robosuite.utils.observables import Observable

    MjSim.render = watch.timed("rendering", MjSim.render)
    SingleArm.control = watch.timed("controller", SingleArm.control)
    Observable.update = watch.timed("observations", Observable.update)
    env.reset()
    env.set_init_state(task.init_states()[0])

    def step_chunk(chunk: Any) -> None:
        for action in chunk:
            env.step(action)

    return step_chunk


def _start_ours(task: Task, kind: Kind, watch: Stopwatch) -> Callable[[Any], None]:
    prepare_libero()  # before the controller, which compiles against robosuite
    from srpo_env.libero.controller import OscController

    patched: Any
    for patched, part, names in (
        (OscController, "controller", ("set_goal", "apply")),
        (Simulation, "observations", ("proprio",)),
        (Simulation, "rendering", ("render",)),
    ):
        for name in names:
            setattr(patched, name, watch.timed(part, getattr(patched, name)))
    env = LiberoEnv(task.suite, chunk=CHUNK, settle_steps=0, **ENV_OPTIONS[kind])
    env.reset(options={"task_id": task.task_id, "init_state_id": 0})

    def step_chunk(chunk: Any) -> None:
        env.step(chunk)

    return step_chunk
