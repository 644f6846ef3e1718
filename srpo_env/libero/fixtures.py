"""Draws where fixtures stand, as LIBERO does at each reset: ``fixtures="random"``.

Fixtures, such as cabinets, stoves and racks, have no joints, so no state contains where they stand.
LIBERO draws it at each reset, in the regions of the task's BDDL file, together with the placement
of the objects; evaluations then replace the objects' placement by a stored state, and the fixtures
stay where they were drawn.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal, cast

import numpy as np

from srpo_env.libero.building import global_randomness
from srpo_env.libero.suites import NUM_SEEDS, Task
from srpo_env.types import Floats, check_choice

Fixtures = Literal["fixed", "random"]

MAX_TRIES = 20
"""Number of times that a placement is drawn again because objects overlap."""


def check_fixtures(fixtures: str) -> Fixtures:
    """Checks ``fixtures``.

    Raises:
        ValueError: If it is neither ``"fixed"`` nor ``"random"``.
    """
    check_choice("fixtures", fixtures, Fixtures)
    return cast("Fixtures", fixtures)


def check_fixture_seed(fixture_seed: Any, fixtures: Fixtures, task: Task) -> None:
    """Checks the reset option ``fixture_seed``, which selects where fixtures stand.

    Raises:
        ValueError: If fixtures are not drawn, or are drawn with the objects, or if it is no seed.
    """
    if fixtures == "fixed":
        raise ValueError(
            "`fixture_seed` needs an environment with fixtures='random', got fixtures='fixed'"
        )
    if task.init_states_file is None:
        raise ValueError(
            f"{task.name} has no stored initial states, so `init_state_id` is the seed of its "
            "fixtures and objects: leave out `fixture_seed`"
        )
    is_integer = isinstance(fixture_seed, (int, np.integer)) and not isinstance(fixture_seed, bool)
    if not is_integer or not 0 <= fixture_seed < NUM_SEEDS:
        raise ValueError(
            f"`fixture_seed` must be an integer in 0..{NUM_SEEDS - 1}, got {fixture_seed!r}"
        )


def draw_fixtures(env: Any, task: Task, seed: int) -> dict[str, Floats]:
    """Draws the poses of fixtures as a new upstream environment: ``seed(seed)``, ``reset()``.

    Draws what upstream draws up to the fixtures, in its order, and simulates nothing.

    Args:
        env: LIBERO's environment of the task, from `build_upstream`; it is not changed.
        task: The task, for the error.
        seed: Seed of NumPy's global generator, in ``0..2**32 - 1``; the generator is restored.

    Returns:
        Position (m) and quaternion of each fixture that is placed at random, by the name of its
        body, ``(7,)``.

    Raises:
        ValueError: If the objects cannot be placed without contact.
    """
    from robosuite.utils.errors import RandomizationError

    with global_randomness(seed):
        for num_models in range(2, 2 + MAX_TRIES):
            # The noise of the robot's joints, of magnitude 0.
            np.random.randn(len(env.robots[0].init_qpos))  # noqa: NPY002
            # Upstream adds the samplers of joints once more with each model that it builds: one in
            # the constructor, and one in each try of a reset.
            for sampler in env.object_property_initializers * num_models:
                sampler.sample()
            with contextlib.suppress(RandomizationError):
                placements = env.placement_initializer.sample()
                break
        else:
            raise ValueError(
                f"the objects of {task.name} could not be placed without contact in {MAX_TRIES} "
                f"tries (seed {seed}): enlarge their regions in {task.bddl_file}"
            )
    return {
        thing.root_body: np.hstack([position, quaternion])
        for name, (position, quaternion, thing) in placements.items()
        if name in env.fixtures_dict
    }
