"""Random fixtures: placed as by LIBERO's reset, seeded, and only where they are asked for."""

import gymnasium
import numpy as np
import pytest

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task, tasks_of
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = pytest.mark.libero

BLIND = {"cameras": (), "chunk": 1}
# Fixtures alone; with a drawer that is open; with a stove that is on, and objects in between.
QUICK = [("libero_goal", 1), ("libero_spatial", 4), ("libero_10", 8)]
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


def state_of(simulation):
    return np.concatenate([[simulation.data.time], simulation.data.qpos, simulation.data.qvel])


def check_against_upstream(suite, task_id, seed, num_steps):
    simulation = Simulation(get_task(suite, task_id), visuals="fast")
    from libero.libero.envs.env_wrapper import ControlEnv  # after LIBERO has been prepared

    # Without images, which take seconds.
    upstream = ControlEnv(
        str(simulation.task.bddl_file), horizon=10**6, use_camera_obs=False,
        has_offscreen_renderer=False,
    )  # fmt: skip
    upstream.seed(seed)
    upstream.env.reset()
    theirs = upstream.sim.model._model
    state = simulation.task.init_states()[3]
    upstream.set_init_state(state)
    simulation.start(3, seed + 1)  # another seed before has no effect
    simulation.start(3, seed)
    np.testing.assert_array_equal(simulation.model.body_pos, theirs.body_pos)
    np.testing.assert_array_equal(simulation.model.body_quat, theirs.body_quat)
    for action in np.random.default_rng(0).uniform(-1, 1, (num_steps, 7)):
        np.testing.assert_array_equal(state_of(simulation), upstream.get_sim_state())
        simulation.step(action)
        upstream.step(action)
    np.testing.assert_array_equal(state_of(simulation), upstream.get_sim_state())
    upstream.close()
    simulation.close()


@pytest.mark.parametrize(("suite", "task_id"), QUICK)
def test_fixtures_stand_where_upstreams_seeded_reset_puts_them_to_the_bit(
    libero_assets, suite, task_id
):
    check_against_upstream(suite, task_id, seed=5, num_steps=4)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("suite", SUITES)
def test_fixtures_of_all_tasks_stand_where_upstreams_seeded_reset_puts_them(libero_assets, suite):
    for task in tasks_of(suite):
        check_against_upstream(suite, task.task_id, seed=task.task_id, num_steps=0)


def test_fixtures_are_spread_over_the_regions_of_the_bddl_file(libero_assets):
    simulation = Simulation(get_task("libero_goal", 1), visuals="fast")
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    problem = robosuite_parse_problem(str(simulation.task.bddl_file))
    seen = []
    for seed in range(100):
        simulation.place_fixtures(seed)
        seen.append(simulation.fixtures)
    checked = 0
    for _, name, region in problem["initial_state"]:
        if name not in {thing for things in problem["fixtures"].values() for thing in things}:
            continue
        ((x_min, y_min, x_max, y_max),) = problem["regions"][region]["ranges"]
        positions = np.array([fixtures[f"{name}_main"][:2] for fixtures in seen])
        # The regions of this scene are relative to the middle of the table, which is the origin.
        low, high = np.array([x_min, y_min]), np.array([x_max, y_max])
        assert (low <= positions).all(), name
        assert (positions <= high).all(), name
        # All hundred in less than nine tenths of a range: a probability below 0.001.
        assert (np.ptp(positions, axis=0) > 0.9 * (high - low)).all(), name
        checked += 1
    assert checked == 3  # cabinet, stove, wine rack


def test_drawing_fixtures_leaves_numpys_generator_alone():
    simulation = Simulation(get_task("libero_object", 0), visuals="fast")
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulation.place_fixtures(7)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_start_without_a_seed_puts_fixtures_back(libero_assets):
    simulation = Simulation(get_task("libero_goal", 3), visuals="fast")
    simulation.start(2)
    before = [state_of(simulation), simulation.data.xpos.copy(), simulation.data.xquat.copy()]
    simulation.start(2, 0)
    moved = np.abs(simulation.data.xpos - before[1]).max()
    simulation.start(2, 1)
    assert np.abs(simulation.data.xpos - before[1]).max() != moved
    simulation.start(2)
    np.testing.assert_equal(
        [state_of(simulation), simulation.data.xpos, simulation.data.xquat], before
    )


# --- Environments ---------------------------------------------------------------------------------


def episode(env, **reset):
    """Everything that an episode shows and hides."""
    observation, info = env.reset(**reset)
    seen = [observation, info, state_of(env.simulation), env.simulation.model.body_pos.copy()]
    for action in np.random.default_rng(1).uniform(-1, 1, (3, 1, 7)):
        observation, *_, info = env.step(action.astype(np.float32))
        seen += [observation, info, state_of(env.simulation)]
    return seen


def test_the_same_seed_repeats_an_episode_to_the_bit(libero_assets):
    env = LiberoEnv("libero_goal", fixtures="random", chunk=1, image_size=32)
    first, second = (episode(env, seed=4) for _ in range(2))
    np.testing.assert_equal(second, first)
    other = episode(env, seed=5)
    assert other[1]["fixture_seed"] != first[1]["fixture_seed"]
    # The seed of the fixtures is all that is needed besides the ids.
    ids = {name: first[1][name] for name in ("task_id", "init_state_id", "fixture_seed")}
    np.testing.assert_equal(episode(env, options=ids), first)
    moved = episode(env, options={**ids, "fixture_seed": ids["fixture_seed"] + 1})
    assert 1e-4 < np.abs(moved[3] - first[3]).max() < 0.02  # m; the regions have 2 cm
    env.close()


def test_fixed_fixtures_are_not_moved_by_environments_with_random_ones(libero_assets):
    options = {"task_id": 3, "init_state_id": 2}
    fixed = LiberoEnv("libero_goal", chunk=1, image_size=32)
    expected = episode(fixed, options=options)
    assert "fixture_seed" not in expected[1]
    fixed.close()
    random = LiberoEnv("libero_goal", fixtures="random", chunk=1, image_size=32)
    fixed.reset(options=options)
    for seed in range(3):  # taking turns in one compiled task
        random.reset(options={**options, "fixture_seed": seed})
        fixed.step(np.zeros((1, 7), np.float32))
        random.step(np.zeros((1, 7), np.float32))
    np.testing.assert_equal(episode(fixed, options=options), expected)
    fixed.close()
    random.close()


def test_a_fixed_environment_draws_the_same_ids_as_a_random_one():
    infos = []
    for fixtures in ("fixed", "random"):
        env = LiberoEnv(fixtures=fixtures, **BLIND)
        infos.append(env.reset(seed=8)[1])
        env.close()
    fixed, random = infos
    assert random.pop("fixture_seed") in range(2**32)
    assert fixed == random


def test_a_vector_environment_takes_a_seed_for_each_environment(libero_assets):
    envs = LiberoVectorEnv(
        "libero_spatial", 3, num_workers=2, fixtures="random", autoreset_mode="Disabled", **BLIND
    )
    try:
        assert envs.conditions["fixtures"] == "random"
        options = {"task_id": 4, "init_state_id": 0, "fixture_seed": [7, 7, 8]}
        _, infos = envs.reset(options=options)
        assert list(infos["fixture_seed"]) == [7, 7, 8]
        drawn = [envs.reset(seed=3)[1]["fixture_seed"] for _ in range(2)]
        np.testing.assert_array_equal(*drawn)
        assert len(set(drawn[0])) == 3
        with pytest.raises(ValueError, match=r"`fixture_seed` must be an integer in 0\.\.4294967"):
            envs.reset(options={**options, "fixture_seed": -1})
    finally:
        envs.close()


@pytest.mark.parametrize("make", [LiberoEnv, LiberoVectorEnv])
def test_a_seed_for_fixed_fixtures_is_an_error(make):
    env = make(**BLIND)
    try:
        with pytest.raises(ValueError, match="needs an environment with fixtures='random'"):
            env.reset(options={"fixture_seed": 1})
    finally:
        env.close()


def test_tasks_without_stored_states_sample_fixtures_with_the_objects(libero_assets, tmp_path):
    bddl = tmp_path / "own.bddl"
    bddl.write_text(get_task("libero_10", 3).bddl_file.read_text())
    env = gymnasium.make("srpo_env/libero", bddl=bddl, fixtures="random", **BLIND)
    _, info = env.reset(options={"init_state_id": 5})
    assert info["fixture_seed"] == 5
    with pytest.raises(ValueError, match="`init_state_id` is the seed of its fixtures"):
        env.reset(options={"fixture_seed": 5})
    env.close()


def test_an_unknown_placement_is_an_error():
    with pytest.raises(ValueError, match="`fixtures` must be 'fixed' or 'random', got 'some'"):
        LiberoEnv(fixtures="some")
