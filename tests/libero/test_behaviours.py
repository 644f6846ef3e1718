from __future__ import annotations

import functools
import types

import numpy as np
import pytest

from srpo_env.libero.basket_progress import STAGES, BasketProgress
from srpo_env.libero.behaviours import FAILURES, KINDS, SUCCESSES, kinds_of, play
from srpo_env.libero.experts import PickAndPlaceExpert
from srpo_env.libero.grasps import Shape
from srpo_env.libero.oracle import OracleProgress
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_task, tasks_of

pytestmark = pytest.mark.libero

MILK, DRESSING = 7, 2
SIZE = 16


@functools.cache
def simulation_of(task_id):
    return Simulation(get_task("libero_object", task_id), SIZE)


@functools.cache
def episode_of(kind):
    return play(simulation_of(MILK), kind, init_state_id=3, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_ends_as_its_kind_intends(kind):
    episode = episode_of(kind)
    assert episode.success == (kind in SUCCESSES)
    assert (episode.max_progress == 1.0) == episode.success
    if kind in FAILURES:
        assert episode.num_steps == 280  # the suite's limit


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_has_its_progress(kind):
    episode = episode_of(kind)
    num_frames = 1 + -(-episode.num_steps // 8)
    assert episode.frames.shape == (num_frames, SIZE, SIZE, 3)
    assert episode.frames.dtype == np.uint8
    assert episode.progress.shape == (num_frames,)
    assert episode.progress.min() >= 0
    assert episode.progress.max() <= 1


@pytest.mark.parametrize("kind", SUCCESSES)
def test_progress_of_a_success_rises_to_1(kind):
    progress = episode_of(kind).progress
    assert progress[0] == 0.0
    assert progress[-1] == 1.0
    # Noise can reduce it a little between two frames.
    assert np.diff(progress).min() > -0.05


@pytest.mark.parametrize("stage", STAGES)
def test_stops_in_a_stage_does_not_pass_that_stage(stage):
    episode, number = episode_of(f"stops_in_{stage}"), STAGES.index(stage)
    assert 0.2 * number <= episode.max_progress < 0.2 * (number + 1) + 0.02
    assert episode.progress[-1] > 0.2 * number - 0.06  # and stays there, or drifts around it


def test_a_miss_comes_near_without_a_grasp():
    for seed in range(2):
        episode = play(simulation_of(DRESSING), "misses", init_state_id=3, seed=seed)
        assert 0.05 < episode.max_progress <= 0.2, seed


def test_a_dropped_object_was_held_before():
    episode = episode_of("drops")
    assert episode.max_progress > 0.4
    assert episode.progress[-1] <= 0.2  # at most the end of *reach*


def test_takes_another_puts_another_object_into_the_basket():
    simulation = simulation_of(MILK)
    play(simulation, "takes_another", init_state_id=3, seed=0)
    wanted, basket = simulation.objects_of_interest
    place = {name: simulation.data.xpos[body] for name, body in simulation.objects.items()}
    inside = [
        name
        for name in set(place) - {wanted, basket}
        if np.linalg.norm(place[name][:2] - place[basket][:2]) < 0.08
    ]
    assert len(inside) == 1
    assert np.linalg.norm(place[wanted][:2] - place[basket][:2]) > 0.2


def test_the_high_kind_takes_another_path():
    simulation = simulation_of(MILK)
    body = simulation.objects[simulation.objects_of_interest[0]]

    def greatest_height(kind):
        heights = []
        step = simulation.step

        def watched(action):
            heights.append(simulation.data.xpos[body][2])
            return step(action)

        simulation.step = watched
        try:
            play(simulation, kind, init_state_id=3, seed=0)
        finally:
            del simulation.step
        return max(heights)

    assert greatest_height("high") > greatest_height("expert") + 0.08


@pytest.mark.parametrize("kind", ["noisy", "random"])
def test_episodes_are_determined_by_their_seed(kind):
    first = episode_of(kind)
    again = play(simulation_of(MILK), kind, first.init_state_id, first.seed)
    np.testing.assert_array_equal(again.frames, first.frames)
    np.testing.assert_array_equal(again.progress, first.progress)
    other = play(simulation_of(MILK), kind, first.init_state_id, first.seed + 1)
    assert not np.array_equal(other.progress, first.progress)


# --- Oracle progress ------------------------------------------------------------------------------


@pytest.fixture
def started():
    simulation = simulation_of(MILK)
    simulation.reset(simulation.task.init_states()[0])
    for _ in range(10):
        simulation.step(SETTLE_ACTION)
    return simulation


def test_closing_without_an_object_is_no_grasp(started):
    oracle = OracleProgress(started)
    for _ in range(10):
        started.step(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
        assert oracle.measure() < 0.05


def test_progress_decreases_when_the_object_is_dropped(started):
    expert, oracle = PickAndPlaceExpert(started), OracleProgress(started)
    while oracle.measure() < 0.5:
        started.step(expert.act())
    for _ in range(12):
        started.step(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
        now = oracle.measure()
    assert now <= 0.2  # progress decreases


def test_reach_is_the_share_of_the_initial_distance(started):
    # *reach* is the share of the initial distance, so half of the distance is half of 0.2.
    oracle = OracleProgress(started)
    body = started.objects[started.objects_of_interest[0]]
    joint = started.model.jnt_qposadr[started.model.body_jntadr[body]]
    corners = Shape(started.model, started.data, body).corners().reshape(-1, 3)
    nearest = np.clip(started.grip_position, corners.min(axis=0), corners.max(axis=0))
    before = np.linalg.norm(started.grip_position - nearest)
    import mujoco

    # Moves the object half of the distance towards the hand.
    started.data.qpos[joint : joint + 3] += (started.grip_position - nearest) / 2
    mujoco.mj_forward(started.model, started.data)
    assert oracle.measure() == pytest.approx(0.1, abs=0.1 * 0.012 / before)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "init_state_id", "message"),
    [
        ("juggles", 0, "`kind` must be one of expert, noisy, .*, got 'juggles'"),
        ("expert", 50, r"`init_state_id` must be in 0\.\.49, got 50"),
    ],
)
def test_wrong_arguments_are_errors(kind, init_state_id, message):
    with pytest.raises(ValueError, match=message):
        play(simulation_of(MILK), kind, init_state_id, seed=0)


def test_progress_to_the_basket_in_another_suite_is_an_error():
    task = tasks_of("libero_goal")[0]
    with pytest.raises(ValueError, match="this progress exists for the tasks of libero_object"):
        BasketProgress(types.SimpleNamespace(task=task))


def test_other_suites_lack_the_kinds_that_need_a_basket():
    assert set(kinds_of("libero_object")) == set(KINDS)
    assert set(KINDS) - set(kinds_of("libero_goal")) == {"high", "misses", "takes_another"}
    goal = types.SimpleNamespace(task=tasks_of("libero_goal")[0])
    with pytest.raises(ValueError, match="in libero_goal, got 'takes_another'"):
        play(goal, "takes_another", 0, seed=0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", kinds_of("libero_goal"))
def test_an_episode_of_another_suite_ends_as_its_kind_intends(kind):
    simulation = Simulation(get_task("libero_goal", 8), SIZE, physics="fast")
    episode = play(simulation, kind, init_state_id=3, seed=0)
    assert episode.success == (kind in SUCCESSES)
    assert (episode.max_progress == 1.0) == episode.success


def test_an_expert_for_an_unknown_object_is_an_error(started):
    with pytest.raises(ValueError, match=r"`target` must be one of .*milk_1.*, got 'anvil'"):
        PickAndPlaceExpert(started, target="anvil")
