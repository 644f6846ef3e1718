"""Where the time of one control step goes, in LIBERO's own environment and in ours.

Functions are wrapped with timers in a process that is then thrown away. The timers themselves take
some microseconds per substep, a few percent of ours.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from srpo_env.benchmarks.sim.implementations import CHUNK, Kind, make_upstream
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

PARTS = ("physics", "physics again", "controller", "observations", "rendering", "rest")
"""
``physics again``: MuJoCo's forward pass beside its steps, which upstream runs twice per substep;
``observations``: all but images; ``rest``: goal predicates, Python
"""


class Stopwatch:
    """Adds up the time spent in parts of a program; what is nested counts for the inner one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts, with all time counting as ``rest``."""
        self._clock = clock
        self._stack = ["rest"]
        self.reset()

    def reset(self) -> None:
        """Forgets what it has measured."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._since = self._clock()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does the same, and whose time counts for ``part``."""

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
        """Seconds in each part of :data:`PARTS` since the last reset."""
        self._charge()
        return {part: self.seconds[part] for part in PARTS}

    def _charge(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now


def profile_step(
    task: Task, side: Literal["upstream", "ours"], kind: Kind, num_chunks: int = 5
) -> dict[str, float]:
    """Milliseconds of one control step by part, from a stored state with random actions.

    Call it in a process of its own, since the timers stay: upstream and ours must not share one.
    """
    watch = Stopwatch()
    for name in ("mj_step", "mj_step1", "mj_step2"):
        setattr(mujoco, name, watch.timed("physics", getattr(mujoco, name)))
    mujoco.mj_forward = watch.timed("physics again", mujoco.mj_forward)
    start = _upstream if side == "upstream" else _ours
    with threadpool_limits(limits=1):
        step_chunk = start(task, kind, watch)
        rng = np.random.default_rng(0)
        step_chunk(rng.uniform(-1.0, 1.0, (CHUNK, 7)))  # compiles what is compiled on first use
        watch.reset()
        for _ in range(num_chunks):
            step_chunk(rng.uniform(-1.0, 1.0, (CHUNK, 7)))
        seconds = watch.read()
    return {part: 1000 * value / (num_chunks * CHUNK) for part, value in seconds.items()}


def _upstream(task: Task, kind: Kind, watch: Stopwatch) -> Callable[[Any], None]:
    env = make_upstream(str(task.bddl_file), kind != "no camera")
    from robosuite.utils.binding_utils import MjSim

    MjSim.render = watch.timed("rendering", MjSim.render)
    inner = env.env
    inner._pre_action = watch.timed("controller", inner._pre_action)
    for name in ("_update_observables", "_get_observations"):
        setattr(inner, name, watch.timed("observations", getattr(inner, name)))
    env.reset()
    env.set_init_state(task.init_states()[0])

    def step_chunk(chunk: Any) -> None:
        for action in chunk:
            env.step(action)

    return step_chunk


def _ours(task: Task, kind: Kind, watch: Stopwatch) -> Callable[[Any], None]:
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
    env = LiberoEnv(
        task.suite,
        chunk=CHUNK,
        cameras=() if kind == "no camera" else tuple(CAMERAS),
        visuals="fast" if kind == "no camera" else kind,
        settle_steps=0,
    )
    env.reset(options={"task_id": task.task_id, "init_state_id": 0})

    def step_chunk(chunk: Any) -> None:
        env.step(chunk)

    return step_chunk
