"""Perturbed episodes: what changes in them, and that nothing of them remains."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.perturbations import (
    DIMENSIONS,
    LEVELS,
    Background,
    Camera,
    Language,
    Layout,
    Light,
    Noise,
    RobotState,
    as_mixture,
    as_text,
)
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_suite
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = pytest.mark.libero

SETTINGS = {"chunk": 2, "image_size": 64}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (4, 2, 7))
IN_IMAGES_ONLY = ("camera", "light", "background", "noise", "language")


@pytest.fixture(scope="module")
def env(libero_assets):
    env = LiberoEnv("libero_goal", **SETTINGS)
    yield env
    env.close()


def play(env, perturbation=None, task_id=0, init_state_id=3):
    """Observations and states of a short episode, and the info of its start."""
    options = {"task_id": task_id, "init_state_id": init_state_id, "perturbation": perturbation}
    observations, states = [], []
    observation, info = env.reset(options=options)
    for action in [None, *ACTIONS]:
        if action is not None:
            observation = env.step(action)[0]
        observations.append(observation)
        states.append(env.simulation.state())
    return observations, states, info


def assert_equal_observations(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def of(dimension, level=5, draw=11):
    return DIMENSIONS[dimension].from_level(level, draw=draw)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_fixed_draw_repeated_gives_identical_observations(env, dimension):
    first, again = (play(env, of(dimension)) for _ in range(2))
    assert_equal_observations(first[0], again[0])
    assert first[2] == again[2]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_after_a_perturbed_episode_the_next_one_equals_that_of_a_new_simulation(env, dimension):
    before = play(env)
    play(env, of(dimension))
    after = play(env)
    assert_equal_observations(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2] == after[2]
    assert "perturbation" not in after[2]


@pytest.mark.parametrize("dimension", IN_IMAGES_ONLY)
@pytest.mark.parametrize("level", LEVELS)
def test_these_change_no_state(env, dimension, level):
    expected, changed = play(env), play(env, of(dimension, level))
    np.testing.assert_array_equal(expected[1], changed[1])
    images_differ = any(
        (one["agentview"] != other["agentview"]).any()
        for one, other in zip(expected[0], changed[0], strict=True)
    )
    assert images_differ == (dimension != "language")
    assert (expected[2]["task"] != changed[2]["task"]) == (dimension == "language")


@pytest.mark.parametrize("dimension", ["camera", "noise"])
def test_the_wrist_camera_is_not_affected(env, dimension):
    expected, changed = play(env), play(env, of(dimension))
    for one, other in zip(expected[0], changed[0], strict=True):
        np.testing.assert_array_equal(one["wrist"], other["wrist"])


def test_the_model_is_restored_to_the_bit(env):
    names = [
        "cam_pos", "cam_quat", "light_diffuse", "light_specular", "light_dir", "light_active",
        "light_castshadow", "tex_data", "body_pos", "body_quat", "qpos0", "geom_group",
        "mat_rgba", "site_rgba",
    ]  # fmt: skip
    play(env)
    model = env.simulation.model
    before = {name: getattr(model, name).copy() for name in names}
    everything = [of(name) for name in DIMENSIONS if name != "layout"]
    play(env, [*everything, Layout(shift=0.03, draw=1)])
    assert (model.cam_quat != before["cam_quat"]).any()  # it was the same model
    play(env)
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(model, name), values, err_msg=name)


def test_unperturbed_episodes_equal_those_of_a_simulation_that_was_never_perturbed(env):
    play(env, [of(name) for name in DIMENSIONS if name != "layout"])
    observations, states, _ = play(env)
    simulation = Simulation(env.task_suite.tasks[0], SETTINGS["image_size"])
    simulation.start(3)
    for _ in range(10):
        simulation.step(np.array([0.0, 0, 0, 0, 0, 0, -1]))
    for observation, state, actions in zip(observations, states, [[], *ACTIONS], strict=True):
        for action in actions:
            simulation.step(action)
        np.testing.assert_array_equal(simulation.state(), state)
        np.testing.assert_array_equal(simulation.render("agentview"), observation["agentview"])
        np.testing.assert_array_equal(simulation.render("wrist"), observation["wrist"])
    simulation.close()


def test_episodes_with_different_perturbations_take_turns_in_one_simulation(env):
    mixtures = [of("camera"), of("background"), None, of("light"), of("robot"), of("background", 3)]
    alone = [play(env, mixture)[0] for mixture in mixtures]
    envs = [LiberoEnv("libero_goal", **SETTINGS) for _ in mixtures]
    together = []
    for other, mixture in zip(envs, mixtures, strict=True):
        options = {"task_id": 0, "init_state_id": 3, "perturbation": mixture}
        together.append([other.reset(options=options)[0]])
    for action in ACTIONS:
        for other, observations in zip(envs, together, strict=True):
            observations.append(other.step(action)[0])
    for expected, observations in zip(alone, together, strict=True):
        assert_equal_observations(expected, observations)


def test_the_constructors_perturbation_is_drawn_again_at_each_reset(libero_assets):
    env = LiberoEnv("libero_goal", perturbation=Camera(azimuth=30), **SETTINGS)
    texts = [
        env.reset(seed=seed, options={"task_id": 0, "init_state_id": 0})[1]["perturbation"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert as_mixture(texts[0])[0].azimuth == 30
    assert env.conditions["perturbation"] == as_text(env.perturbation)
    *_, info = env.step(ACTIONS[0])
    assert info["perturbation"] == texts[2]
    # An option replaces it, also by nothing; the text in the info is an option, too.
    _, info = env.reset(options={"task_id": 0, "perturbation": None})
    assert "perturbation" not in info
    options = {"task_id": 0, "init_state_id": 0, "perturbation": texts[0]}
    assert env.reset(options=options)[1]["perturbation"] == texts[0]


def test_wrong_perturbations_are_refused(env):
    with pytest.raises(ValueError, match="`perturbation` must be None, one or several of"):
        LiberoEnv(perturbation=3)
    with pytest.raises(ValueError, match="`azimuth` of Camera"):
        env.reset(options={"perturbation": {"dimension": "camera", "azimuth": 90}})


def test_the_robot_starts_with_moved_joints_and_keeps_its_posture(env):
    radius = 0.3
    perturbation = RobotState(radius=radius, draw=2)
    simulation = Simulation(env.task_suite.tasks[0], 32)
    simulation.start(3)
    state = simulation.state()
    perturbation.start(simulation)
    moved = simulation.state()
    difference = moved - state
    assert np.linalg.norm(difference[1:8]) == pytest.approx(radius)
    np.testing.assert_array_equal(difference[8:], 0)  # the objects stay
    assert not simulation.arrangement.arm_touches
    # The arm sags by as much as an arm that was not moved, and does not turn back.
    for _ in range(20):
        simulation.step(np.array([0.0, 0, 0, 0, 0, 0, -1]))
    assert np.abs(simulation.state()[1:8] - moved[1:8]).max() < 0.02
    simulation.close()


def test_exact_joint_offsets(env):
    offsets = (0.1, 0.0, 0.0, -0.1, 0.0, 0.0, 0.2)
    env.reset(options={"task_id": 0, "init_state_id": 3, "perturbation": None})
    before = env.simulation.state()[1:8]
    env.reset(
        options={"task_id": 0, "init_state_id": 3, "perturbation": RobotState(offsets=offsets)}
    )
    np.testing.assert_allclose(env.simulation.state()[1:8] - before, offsets, atol=0.03)


@pytest.mark.parametrize("count", [1, 5])
def test_distractors_are_added_and_the_rest_of_the_scene_stays(env, count):
    options = {"task_id": 4, "init_state_id": 3}
    env.reset(options={**options, "perturbation": None})
    plain = env.simulation
    places = {name: plain.data.xpos[body].copy() for name, body in plain.objects.items()}
    state = plain.state()
    _, info = env.reset(options={**options, "perturbation": Layout(distractors=count, draw=3)})
    assert info["task_id"] == 4
    simulation = env.simulation
    extra = simulation.task.extra_objects
    assert len(extra) == count
    assert set(simulation.objects) == set(places) | set(extra)
    categories = {name.rpartition("_")[0] for name in places}
    assert not {name.removesuffix("_distractor") for name in extra} & categories
    for name, place in places.items():
        body = simulation.objects[name]
        np.testing.assert_allclose(simulation.data.xpos[body], place, atol=0.005, err_msg=name)
    np.testing.assert_allclose(simulation.state()[1:10], state[1:10], atol=1e-4)  # the arm
    centre = simulation.arrangement.workspace_centre
    for name in extra:
        offset = simulation.data.xpos[simulation.objects[name]] - centre
        assert np.abs(offset[:2]).max() < 0.4  # on the table
        assert -0.05 < offset[2] < 0.3
    assert not simulation.is_success()


def test_draws_use_a_bounded_number_of_scenes(env):
    task = env.task_suite.tasks[4]
    scenes = {Layout(distractors=2, draw=draw).task(task) for draw in range(100)}
    assert len(scenes) == 3
    assert all(scene.task_id == task.task_id for scene in scenes)


def test_a_shift_moves_regions_with_what_stands_in_them(env):
    # Task 4 of libero_spatial: a bowl in the drawer of the cabinet, a fixture.
    spatial = LiberoEnv("libero_spatial", **SETTINGS)
    simulations = []
    for perturbation in (None, Layout(shift=0.04, draw=5)):
        options = {"task_id": 4, "init_state_id": 0, "perturbation": perturbation}
        spatial.reset(options=options)
        simulation = spatial.simulation
        things = {**simulation.objects, **simulation.fixture_bodies}
        simulations.append({name: simulation.data.xpos[x].copy() for name, x in things.items()})
        supports = simulation.arrangement.supports
    before, after = simulations
    moves = {name: after[name][:2] - before[name][:2] for name in before}
    assert max(np.abs(move).max() for move in moves.values()) > 0.01
    assert max(np.abs(move).max() for move in moves.values()) < 0.05
    in_cabinet = [name for name, below in supports.items() if below == "wooden_cabinet_1"]
    assert in_cabinet
    for name in in_cabinet:
        np.testing.assert_allclose(moves[name], moves["wooden_cabinet_1"], atol=0.01)
    spatial.close()


def test_shadows_are_drawn(env):
    bright, shaded = (play(env, Light(shadows=shadows, draw=1)) for shadows in (False, True))
    assert shaded[0][0]["agentview"].mean() < bright[0][0]["agentview"].mean()
    np.testing.assert_array_equal(bright[1], shaded[1])


def test_a_gain_makes_images_brighter_or_darker(env):
    plain = play(env)[0][0]["agentview"].mean()
    means = [play(env, Light(gain=2, draw=draw))[0][0]["agentview"].mean() for draw in range(6)]
    assert min(means) < 0.9 * plain
    assert max(means) > 1.1 * plain


@pytest.mark.parametrize(
    ("suite", "surface"),
    [("libero_object", "floor"), ("libero_goal", "walls"), ("libero_goal", "table")],
)
def test_each_surface_can_be_covered(libero_assets, suite, surface):
    env, far = LiberoEnv(suite, **SETTINGS), Camera(view=(0, 0, 1.5, 0, 0))
    plain = play(env, far)[0][0]
    covers = [Background(opacity=1, surfaces=(surface,), draw=draw) for draw in range(6)]
    views = [play(env, (far, cover))[0][0] for cover in covers]
    assert all((view["agentview"] != plain["agentview"]).any() for view in views)
    assert len({view["agentview"].tobytes() for view in views}) >= 3
    styles = {Background(surfaces=(surface,), draw=d).styles()[surface][0] for d in range(200)}
    assert len(styles) >= 6
    env.close()


def test_a_surface_never_keeps_its_own_texture(libero_assets):
    from srpo_env.libero.perturbations.background import textures_of

    # The floor of libero_object is LIBERO's style "light-gray".
    env = LiberoEnv("libero_object", **SETTINGS)
    covers = [Background(opacity=1, surfaces=("floor",), draw=draw) for draw in range(30)]
    assert any(cover.styles()["floor"][0] == "light-gray-floor-tile" for cover in covers)
    for cover in covers:
        env.reset(options={"task_id": 0, "init_state_id": 0, "perturbation": cover})
        (texture,) = textures_of(env.simulation.model, "floor")
        assert env.simulation.appearance.textures[texture].key[0] != "light-gray-floor-tile"
    env.close()


@pytest.mark.parametrize(
    ("suite", "task_id", "table"),
    [
        ("libero_spatial", 0, ["tex-table"]),
        ("libero_object", 0, []),
        ("libero_10", 0, ["tex-living_room_table"]),
        ("libero_10", 2, ["tex-table"]),
        ("libero_10", 5, ["tex-desk"]),
    ],
)
def test_the_surfaces_of_each_scene_are_found(libero_assets, suite, task_id, table):
    from srpo_env.libero.perturbations.background import textures_of

    model = Simulation(get_suite(suite).tasks[task_id], 32).model
    found = {
        surface: [model.texture(texture).name for texture in textures_of(model, surface)]
        for surface in ("walls", "table")
    }
    assert found == {"walls": ["tex-wall"], "table": table}


def test_a_vector_environment_takes_a_mixture_for_each_environment(libero_assets):
    single = LiberoEnv("libero_goal", **SETTINGS)
    mixtures = [None, of("camera"), (of("noise"), of("light")), as_text((of("robot"),))]
    envs = LiberoVectorEnv(
        "libero_goal", 4, num_workers=2, autoreset_mode=AutoresetMode.DISABLED, **SETTINGS
    )
    try:
        options = {"task_id": 0, "init_state_id": 3}
        observations, infos = envs.reset(options={**options, "perturbation": mixtures})
        np.testing.assert_array_equal(infos["_perturbation"], [False, True, True, True])
        assert infos["perturbation"][2] == as_text(as_mixture(mixtures[2]))
        stepped = envs.step(np.repeat(ACTIONS[:1], 4, axis=0))[0]
        for slot, mixture in enumerate(mixtures):
            expected = play(single, mixture)[0]
            for name in expected[0]:
                np.testing.assert_array_equal(observations[name][slot], expected[0][name])
                np.testing.assert_array_equal(stepped[name][slot], expected[1][name])
        _, infos = envs.reset(options={**options, "perturbation": Language(level=4)})
        assert len(set(infos["task"])) > 1  # each environment draws its own
        with pytest.raises(ValueError, match="a list of 4, got a list of 3"):
            envs.reset(options={**options, "perturbation": [None] * 3})
        with pytest.raises(ValueError, match="`azimuth` of Camera"):
            envs.reset(options={**options, "perturbation": {"dimension": "camera", "azimuth": 99}})
    finally:
        envs.close()
        single.close()


def test_a_vector_environment_has_a_perturbation_for_all_episodes(libero_assets):
    envs = LiberoVectorEnv(
        "libero_goal", 2, num_workers=1, perturbation=Noise(severity=3, kind="fog"), **SETTINGS
    )
    try:
        _, infos = envs.reset(seed=0, options={"task_id": 0})
        first, second = (as_mixture(text)[0] for text in infos["perturbation"])
        assert (first.kind, first.severity) == (second.kind, second.severity) == ("fog", 3)
        assert first.draw != second.draw
        assert envs.conditions["perturbation"] == as_text((Noise(severity=3, kind="fog"),))
    finally:
        envs.close()
