"""Steps LIBERO for some seconds; ``python -m srpo_env.benchmarks.sim.speed_probe WORKERS SECONDS``.

Prints a `SpeedTest` as JSON. It is a separate program, like `srpo_env.libero.gl_probe`, because a
broken driver can end the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict

import numpy as np

from srpo_env.benchmarks.sim.speed_test import SpeedTest
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.pool import shared_simulation
from srpo_env.libero.simulation import SUBSTEPS
from srpo_env.libero.suites import get_task
from srpo_env.libero.vector import LiberoVectorEnv
from srpo_env.libero.visuals import check_visuals

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

SUITE = "libero_object"
PHYSICS_SHARE = 0.1
"""Share of the time in which MuJoCo steps alone."""


def speed_test(num_workers: int, seconds: float) -> SpeedTest:
    """Steps MuJoCo alone, then the default environment in one worker and in ``num_workers``."""
    load = os.getloadavg()[0]
    visuals = check_visuals(None)
    physics = _physics_steps_per_second(visuals, PHYSICS_SHARE * seconds)
    counts = sorted({1, num_workers})
    share = (1.0 - PHYSICS_SHARE) / len(counts)
    rates = {count: _steps_per_second(count, share * seconds) for count in counts}
    return SpeedTest(visuals, physics, rates[1], num_workers, rates[num_workers], load)


def _physics_steps_per_second(visuals: str, total: float) -> float:
    shared = shared_simulation(get_task(SUITE, 0), 128, check_visuals(visuals))
    resting = shared.settled(init_state_id=0, settle_steps=10)
    simulation = shared.simulation
    seconds: list[float] = []
    while sum(seconds) < total:
        # The restored controls hold the arm during the control step (0.05 s) that follows.
        simulation.load(resting)
        start = time.perf_counter()
        for _ in range(SUBSTEPS):
            mujoco.mj_step(simulation.model, simulation.data)
        seconds.append(time.perf_counter() - start)
    return 1.0 / float(np.median(seconds))


def _steps_per_second(num_workers: int, seconds: float) -> float:
    envs = LiberoVectorEnv(SUITE, num_workers, num_workers=num_workers)
    try:
        rng = np.random.default_rng(0)
        shape = envs.action_space.shape
        assert shape is not None
        envs.reset(seed=0, options={"task_id": 0})
        envs.step(np.zeros(shape, np.float32))  # compiles what is compiled on first use
        ended = np.zeros(num_workers, np.bool_)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            steps += shape[1] * int((~ended).sum())  # after an end, a step only resets
            actions = rng.uniform(-1.0, 1.0, shape).astype(np.float32)
            _, _, terminations, truncations, infos = envs.step(actions)
            if "worker_error" in infos:
                raise RuntimeError(str(infos["worker_error"]))
            ended = terminations | truncations
        return steps / (time.perf_counter() - start)
    finally:
        envs.close()


if __name__ == "__main__":
    print(json.dumps(asdict(speed_test(int(sys.argv[1]), float(sys.argv[2])))))
