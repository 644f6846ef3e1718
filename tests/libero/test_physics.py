"""A control step in ``physics="fast"`` differs by at most 1e-9 from one in ``physics="exact"``.

The latter is equal to upstream's, see ``test_exactness.py``. The difference is the largest absolute
one of all joint positions and velocities, after one control step from the same state.
"""

import numpy as np
import pytest

from srpo_env.libero.assets import check_suite, resolve_assets
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.experts import run_expert
from srpo_env.libero.physics import TOLERANCE
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task, tasks_of

pytestmark = pytest.mark.libero

QUICK = [("libero_object", 5), ("libero_spatial", 2), ("libero_goal", 3), ("libero_10", 2)]
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


def build(suite, task_id):
    try:
        check_suite(resolve_assets(), suite)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return Simulation(get_task(suite, task_id), visuals="fast")


def motion_of(simulation):
    return np.concatenate([simulation.data.qpos, simulation.data.qvel])


def robot_touches(simulation):
    model, data = simulation.model, simulation.data
    base = model.body("robot0_base").id
    is_robot = model.body_rootid[model.geom_bodyid] == model.body_rootid[base]
    return bool(is_robot[data.contact.geom].any())


def compare(simulation, actions):
    """Takes each step in both ways and follows the exact one.

    Returns:
        The differences of the steps, and whether the robot touches something at their ends.
    """
    differences, touching = [], []
    for action in actions:
        before = simulation.save()
        simulation.physics = "fast"
        simulation.step(action)
        fast = motion_of(simulation)
        simulation.load(before)
        simulation.physics = "exact"
        simulation.step(action)
        differences.append(np.abs(motion_of(simulation) - fast).max())
        touching.append(robot_touches(simulation))
    return np.array(differences), np.array(touching)


def wandering(rng, num_steps, down):
    """Random motions of eight steps each, some of which press on the table and its objects."""
    actions = np.repeat(rng.uniform(-1.0, 1.0, (num_steps // 8, 7)), 8, axis=0)
    actions[:, 2] -= down
    return actions


def check_task(suite, task_id, num_states, num_steps):
    simulation = build(suite, task_id)
    rng = np.random.default_rng(task_id)
    states = simulation.task.init_states()
    results = []
    for state in range(num_states):
        simulation.reset(states[state])
        results.append(compare(simulation, wandering(rng, num_steps, down=0.4 * (state % 2))))
    differences, touching = (np.concatenate(parts) for parts in zip(*results, strict=True))
    assert differences.max() <= TOLERANCE
    assert np.median(differences[~touching]) > 0  # fast steps were taken
    assert touching.any()
    # From a state in which the robot touches something, a step is exact: there, rounding errors
    # would grow to 1e-3.
    assert (differences[1:][touching[:-1] & touching[1:]] == 0).mean() > 0.9


@pytest.mark.parametrize(("suite", "task_id"), QUICK)
def test_a_fast_step_equals_an_exact_one(suite, task_id):
    check_task(suite, task_id, num_states=2, num_steps=96)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("suite", "task_id"),
    [(suite, task.task_id) for suite in SUITES for task in tasks_of(suite)],
)
def test_a_fast_step_equals_an_exact_one_in_all_tasks(suite, task_id):
    check_task(suite, task_id, num_states=10, num_steps=160)


def test_fast_steps_with_a_grasped_object_equal_exact_ones():
    simulation = build("libero_object", 0)
    attempt = run_expert(simulation, 3)
    assert attempt.success
    simulation.reset(simulation.task.init_states()[3])
    differences, touching = compare(simulation, attempt.executed_actions)
    assert differences.max() <= TOLERANCE
    assert touching.any()


def test_the_fast_controller_leaves_singular_arms_to_the_exact_one():
    from srpo_env.libero.fast_torques import write_torques

    rng = np.random.default_rng(0)
    jac = rng.normal(size=(6, 9))

    def write(jac):
        ctrl = np.zeros(9)
        done = write_torques(
            jac[:3], jac[3:], np.zeros(9), np.zeros(9), np.eye(7).ravel(),
            np.arange(49).reshape(7, 7), np.zeros(3), np.eye(3), np.zeros(9), np.ones(3), np.eye(3),
            np.zeros(7), np.ones(6), np.ones(6), -np.ones(7), np.ones(7), ctrl,
        )  # fmt: skip
        return done, ctrl

    done, ctrl = write(jac)
    assert done
    # Unit mass, no velocity, at rest: Jp' (Jp Jp')^-1 a, clipped to the torque limits.
    position = jac[:3, :7]
    expected = position.T @ np.linalg.solve(position @ position.T, np.ones(3))
    np.testing.assert_allclose(ctrl[:7], np.clip(expected, -1, 1), rtol=1e-12)
    np.testing.assert_array_equal(ctrl[7:], 0)
    jac[4] = jac[3] + 1e-9 * jac[5]  # two directions of rotation are the same
    done, ctrl = write(jac)
    assert not done
    np.testing.assert_array_equal(ctrl, 0)
    jac[0, 0] = np.nan
    assert not write(jac)[0]


def test_episodes_start_from_the_same_state_in_both():
    envs = [LiberoEnv(cameras=(), chunk=2, physics=physics) for physics in ("fast", "exact")]
    states = []
    for env in envs:
        env.reset(options={"task_id": 1, "init_state_id": 4})
        states.append(motion_of(env.simulation))
    np.testing.assert_array_equal(*states)


def test_environments_with_different_physics_share_a_simulation():
    chunk = np.random.default_rng(0).uniform(-1, 1, (2, 7))

    def run(*names):
        """Plays an episode in each environment, in turn, and returns their last states."""
        envs = [LiberoEnv(cameras=(), chunk=2, physics=name) for name in names]
        for env in envs:
            env.reset(options={"task_id": 1, "init_state_id": 4})
        for _ in range(4):
            for env in envs:
                env.step(chunk)
        assert len({id(env.simulation) for env in envs}) == 1
        return [motion_of(env.simulation) for env in envs]

    (expected,) = run("exact")
    fast, exact = run("fast", "exact")
    np.testing.assert_array_equal(exact, expected)
    assert 0 < np.abs(fast - expected).max() < 1e-6


def test_unknown_physics_is_an_error():
    message = "`physics` must be 'exact' or 'fast', got 'quick'"
    with pytest.raises(ValueError, match=message):
        LiberoEnv(physics="quick")
    with pytest.raises(ValueError, match=message):
        build("libero_object", 0).physics = "quick"
