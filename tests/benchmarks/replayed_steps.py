"""Replays episodes with timers, and with nothing but ``mj_step``; for ``training.py``.

A module of its own, so that its processes do not import the agent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from srpo_env.benchmarks.sim.step_profile import Stopwatch
from srpo_env.libero import pool
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.simulation import SUBSTEPS, Simulation
from srpo_env.training.replay import Beginning


def replay(suite: str, physics: str, episodes: Sequence[Beginning]) -> dict[str, Any]:
    """Measures one process.

    Returns:
        Number of control ``steps``; processor seconds ``raw_cpu`` and seconds ``raw`` of MuJoCo
        alone; processor seconds of the ``parts`` of `LiberoEnv` with ``physics``.
    """
    with threadpool_limits(limits=1):
        exact = LiberoEnv(suite)
        recorded = [_record(exact, episode) for episode in episodes]
        alone = [_step_alone(exact, *pair) for pair in zip(episodes, recorded, strict=True)]
        parts = _parts(LiberoEnv(suite, physics=physics), episodes)
    cpu, wall = np.sum(alone, axis=0)
    steps = sum(len(controls) for controls, _ in recorded) // SUBSTEPS
    return {"steps": steps, "raw_cpu": cpu, "raw": wall, "parts": parts}


def _run(env: LiberoEnv, episode: Beginning) -> None:
    for chunk in episode.actions:
        _, _, terminated, truncated, _ = env.step(chunk)
        if terminated or truncated:
            return


def _reset(env: LiberoEnv, episode: Beginning) -> None:
    env.reset(options={"task_id": episode.task_id, "init_state_id": episode.init_state_id})


def _record(env: LiberoEnv, episode: Beginning) -> tuple[list[Any], Any]:
    """Returns the controls of each substep, and the joint positions at the end."""
    import mujoco

    controls: list[Any] = []
    step2 = mujoco.mj_step2

    def recording(model: Any, data: Any) -> None:
        controls.append(data.ctrl.copy())
        step2(model, data)

    _reset(env, episode)
    with _replaced(mujoco, "mj_step2", recording):
        _run(env, episode)
    return controls, env.simulation.data.qpos.copy()


def _step_alone(
    env: LiberoEnv, episode: Beginning, recorded: tuple[list[Any], Any]
) -> tuple[float, float]:
    """Returns processor seconds and seconds of the same substeps in MuJoCo alone."""
    import mujoco

    controls, end = recorded
    _reset(env, episode)
    model, data = env.simulation.model, env.simulation.data
    cpu, wall = time.process_time(), time.perf_counter()
    for control in controls:
        data.ctrl[:] = control
        mujoco.mj_step(model, data)
    seconds = time.process_time() - cpu, time.perf_counter() - wall
    assert np.array_equal(data.qpos, end), "not the same work"
    return seconds


def _parts(env: LiberoEnv, episodes: Sequence[Beginning]) -> dict[str, float]:
    """Returns processor seconds in the parts of the environment's steps; resets are left out."""
    import mujoco

    from srpo_env.libero.controller import OscController

    watch = Stopwatch(time.process_time)
    parts: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, part, names in (
            (mujoco, "physics", ("mj_step1", "mj_step2")),
            (OscController, "controller", ("set_goal", "apply", "apply_fast")),
            (Simulation, "rendering", ("render",)),
            (pool.EpisodeSlot, "change of episode", ("load",)),
        ):
            for name in names:
                timed = watch.timed(part, getattr(owner, name))
                stack.enter_context(_replaced(owner, name, timed))
        for episode in episodes:
            _reset(env, episode)
            watch.reset()
            _run(env, episode)
            watch.read()
            parts.update(watch.seconds)
    return dict(parts)


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)
