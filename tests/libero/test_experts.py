from __future__ import annotations

import functools
import types

import numpy as np
import pytest

from srpo_env.libero.experts import PickAndPlaceExpert, run_expert
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_task, tasks_of

pytestmark = pytest.mark.libero

TASKS = range(10)
# By default, only tasks that other tests load too: meshes are decimated once per task.
SOME_TASKS = [
    pytest.param(task_id, marks=[] if task_id in (0, 3, 7) else pytest.mark.exhaustive)
    for task_id in TASKS
]
MAX_EXPERT_STEPS = 150
"""Maximum number of control steps of an expert without noise; the suite's limit is 280."""


@functools.cache
def simulation_of(task_id):
    return Simulation(get_task("libero_object", task_id))


@pytest.fixture
def started():
    """The milk task at its first initial state, settled."""
    simulation = simulation_of(7)
    simulation.reset(simulation.task.init_states()[0])
    for _ in range(10):
        simulation.step(SETTLE_ACTION)
    return simulation


@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_it_solves_every_task(task_id):
    for init_state_id in (0, 12, 25, 37, 49):
        attempt = run_expert(simulation_of(task_id), init_state_id)
        assert attempt.success, init_state_id
        assert len(attempt.actions) < MAX_EXPERT_STEPS


@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_it_solves_every_task_under_noise(task_id):
    rng = np.random.default_rng(0)
    assert run_expert(simulation_of(task_id), 12, noise=0.3, rng=rng).success


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("task_id", TASKS)
def test_it_solves_at_least_95_percent_of_all_initial_states(task_id):
    attempts = [run_expert(simulation_of(task_id), state) for state in range(50)]
    assert np.mean([attempt.success for attempt in attempts]) >= 0.95
    assert np.mean([len(attempt.actions) for attempt in attempts]) < MAX_EXPERT_STEPS


def test_its_actions_are_valid_and_its_gripper_closes_once():
    attempt = run_expert(simulation_of(7), 0)
    assert np.abs(attempt.actions).max() <= 1
    gripper = attempt.actions[:, 6]
    assert gripper[0] == -1
    assert gripper[-1] == 1
    assert np.count_nonzero(np.diff(gripper)) == 1


def test_without_noise_the_executed_actions_are_the_experts():
    attempt = run_expert(simulation_of(7), 0)
    np.testing.assert_array_equal(attempt.executed_actions, attempt.actions)


def test_the_noise_has_the_requested_standard_deviation():
    attempt = run_expert(simulation_of(7), 0, noise=0.1, rng=np.random.default_rng(0))
    noise = attempt.executed_actions - attempt.actions
    free = np.abs(attempt.actions) < 0.5  # far from the clipping at 1
    assert noise[free].std() == pytest.approx(0.1, rel=0.15)
    assert np.abs(attempt.executed_actions).max() <= 1


def test_the_same_seed_gives_the_same_episode():
    first, second = (
        run_expert(simulation_of(1), 3, noise=0.2, rng=np.random.default_rng(5)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.executed_actions, second.executed_actions)


def test_another_expert_can_take_over_at_any_time(started):
    # It stores no phase: its action depends on the current state.
    expert, success = PickAndPlaceExpert(started), False
    while not success:
        action = expert.act()
        np.testing.assert_allclose(PickAndPlaceExpert(started).act(), action, atol=0.05)
        success = started.step(action)


def test_it_picks_up_a_dropped_object_again(started):
    expert = PickAndPlaceExpert(started)
    body = started.objects[started.objects_of_interest[0]]
    joint = started.model.body_jntadr[body]
    position = slice(started.model.jnt_qposadr[joint], started.model.jnt_qposadr[joint] + 7)
    at_start = started.data.qpos[position].copy()
    while started.data.xpos[body][2] < 0.15:
        started.step(expert.act())
    started.data.qpos[position] = at_start  # out of the fingers, back to the start
    assert any(started.step(expert.act()) for _ in range(MAX_EXPERT_STEPS))


def test_it_lets_go_when_the_goal_is_reached(started):
    expert = PickAndPlaceExpert(started)
    while not started.step(expert.act()):
        pass
    action = expert.act()
    assert action[6] == -1
    np.testing.assert_array_equal(action[:3], 0)
    for _ in range(20):
        assert started.step(expert.act())  # it stays in the basket


def test_tasks_of_another_suite_are_errors():
    task = tasks_of("libero_goal")[0]
    with pytest.raises(ValueError, match=f"tasks of libero_object, got {task.name} of libero_goal"):
        PickAndPlaceExpert(types.SimpleNamespace(task=task))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_state_id": 50}, r"`init_state_id` must be in 0\.\.49, got 50"),
        ({"init_state_id": -1}, r"`init_state_id` must be in 0\.\.49, got -1"),
        ({"init_state_id": 0, "noise": -0.1}, r"`noise` must be at least 0, got -0\.1"),
        ({"init_state_id": 0, "noise": 0.1}, r"`rng` must be given to draw noise"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_expert(simulation_of(7), **arguments)
