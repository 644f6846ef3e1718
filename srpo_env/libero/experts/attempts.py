"""Plays episodes of the scripted experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srpo_env.libero.experts.tasks import make_expert
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_suite
from srpo_env.types import Floats


@dataclass(frozen=True)
class Attempt:
    """One episode of the expert."""

    success: bool
    actions: Floats
    """The expert's actions, shape ``(num_steps, 7)``, in [-1, 1]."""
    executed_actions: Floats
    """The same actions with noise, as they were executed."""


def run_expert(
    simulation: Simulation,
    init_state_id: int,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    settle_steps: int = 10,
    observe: Callable[[], None] | None = None,
) -> Attempt:
    """Plays one episode up to success or the suite's limit of control steps, without rendering.

    Args:
        simulation: A task that the experts solve.
        init_state_id: Stored initial state of the task to start from.
        noise: Standard deviation of the Gaussian noise on each entry of the executed actions.
        rng: Random generator of the noise; required if there is noise.
        settle_steps: Control steps without motion before the expert starts.
        observe: Called before each action of the expert is executed.

    Raises:
        ValueError: If the experts do not solve the task, there is no such initial state,
            ``noise`` is negative, or ``rng`` is missing.
    """
    states = simulation.task.init_states()
    if not 0 <= init_state_id < len(states):
        raise ValueError(f"`init_state_id` must be in 0..{len(states) - 1}, got {init_state_id}")
    if not noise >= 0:
        raise ValueError(f"`noise` must be at least 0, got {noise}")
    if noise > 0 and rng is None:
        raise ValueError(f"`rng` must be given to draw noise (`noise` is {noise}), got None")
    simulation.reset(states[init_state_id])
    for _ in range(settle_steps):
        simulation.step(SETTLE_ACTION)
    expert = make_expert(simulation)

    actions: list[Floats] = []
    executed: list[Floats] = []
    success, max_steps = False, get_suite(simulation.task.suite).max_steps
    while not success and len(actions) < max_steps:
        if observe is not None:
            observe()
        actions.append(expert.act())
        disturbance = noise * rng.standard_normal(7) if rng is not None else np.zeros(7)
        executed.append(np.clip(actions[-1] + disturbance, -1.0, 1.0))
        success = simulation.step(executed[-1])
    return Attempt(success, np.array(actions), np.array(executed))
