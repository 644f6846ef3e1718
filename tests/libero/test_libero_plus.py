"""Tasks of LIBERO-Plus, made of LIBERO's own files in the layout of its repository."""

import json

import gymnasium
import numpy as np
import pytest

from srpo_env.libero import suites
from srpo_env.libero.libero_plus import register_libero_plus
from srpo_env.libero.libero_plus_names import parse_plus_name
from srpo_env.libero.perturbations import Camera, Light, Noise, RobotState, as_mixture
from srpo_env.libero.suites import get_suite

pytestmark = pytest.mark.libero

BLIND = {"cameras": (), "chunk": 1, "settle_steps": 0}
TASK = "pick_up_the_milk_and_place_it_in_the_basket"
NEUTRAL = "_view_0_0_100_0_0_initstate_0"

ROBOTS = """
import os, numpy as np
raise RuntimeError("this file must not be run")

class OnTheGroundPanda(ManipulatorModel):
    @property
    def init_qpos(self):
        return np.array([0, -1.61037389e-01, 0.00, -2.44459747e00, 0.00, 2.22675220e00, np.pi / 4])

class OnTheGroundPanda273(OnTheGroundPanda):
    @property
    def init_qpos(self):
        return np.array((0.1, -0.161037389, 0, -2.34459747, -0.2, 2.2267522, 0.7853981633974483))
"""

LIGHTS = """<mujoco><worldbody>
  <light name="light1" diffuse=".1 .2 .3" specular="0 0 0" dir="0 0 -2" castshadow="false"/>
  <light name="another" diffuse="1 1 1"/>
</worldbody></mujoco>"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (TASK, {"base": TASK, "dimensions": (), "file": TASK}),
        (f"{TASK}_view_285_15_100_0_0_initstate_0",
         {"view": (-75.0, 15.0, 1.0, 0.0, 0.0), "dimensions": ("camera",)}),
        (f"{TASK}_view_0_0_200_358_10_initstate_0",
         {"view": (0.0, 0.0, 2.0, -2.0, 10.0), "dimensions": ("camera",)}),
        (f"{TASK}_view_0_0_100_0_0_initstate_101", {"robot": 101, "dimensions": ("robot",)}),
        (f"{TASK}{NEUTRAL}_noise_31", {"noise": 31, "dimensions": ("noise",)}),
        (f"{TASK}_language_5{NEUTRAL}",
         {"file": f"{TASK}_language_5", "kind": "language", "number": 5,
          "dimensions": ("language",)}),
        (f"{TASK}_light_12", {"kind": "light", "number": 12, "dimensions": ("light",)}),
        (f"{TASK}_table_3", {"kind": "table", "dimensions": ("background",)}),
        (f"{TASK}_tb_3", {"kind": "tb", "dimensions": ("background",)}),
        (f"{TASK}_add_30", {"kind": "add", "num_distractors": 5, "dimensions": ("layout",)}),
        (f"{TASK}_level3_sample2", {"kind": "level", "number": 3, "dimensions": ("layout",)}),
        (f"{TASK}_moved_level3_sample2", {"kind": "level", "number": 3}),
        ("KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it_view_5_0_100_0_0_initstate_9",
         {"dimensions": ("camera", "robot"),
          "base": "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"}),
    ],
)  # fmt: skip
def test_names(name, expected):
    parsed = parse_plus_name(name)
    assert {key: getattr(parsed, key) for key in expected} == expected
    assert name.startswith(parsed.base)
    if name.startswith(TASK):
        assert parsed.base == TASK


def test_numbers_of_noises_and_robots():
    kinds = ["motion", "gaussian", "zoom", "fog", "glass"]
    found = [parse_plus_name(f"a{NEUTRAL}_noise_{k}").perturbations()[0] for k in range(1, 51)]
    assert [noise.kind for noise in found] == [kind for kind in kinds for _ in range(10)]
    assert [noise.severity for noise in found] == list(range(1, 11)) * 5
    radii = [parse_plus_name(f"a_view_0_0_100_0_0_initstate_{n}").joint_radius for n in (1, 100, 101, 500)]  # noqa: E501  # fmt: skip
    np.testing.assert_allclose(radii, [0.1, 0.1, 0.2, 0.5])


@pytest.mark.parametrize("tail", ["initstate_501", "initstate_0_noise_51"])
def test_numbers_out_of_range_are_refused(tail):
    with pytest.raises(ValueError, match="of a task of LIBERO-Plus must be in 0"):
        parse_plus_name(f"a_view_0_0_100_0_0_{tail}")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder in the layout of LIBERO-Plus, with one task of libero_object."""
    monkeypatch.setattr(suites, "_registered", {})
    package = tmp_path / "libero" / "libero"
    task = next(task for task in get_suite("libero_object").tasks if task.name == TASK)
    folders = {name: package / name for name in ("benchmark", "envs/robots", "assets/scenes/lights",
               "bddl_files/libero_object", "init_files/libero_object",
               "init_files/libero_newobj/libero_object")}  # fmt: skip
    for folder in folders.values():
        folder.mkdir(parents=True)
    names = [
        f"{TASK}_view_30_15_100_0_0_initstate_0", f"{TASK}_view_0_0_100_0_0_initstate_273",
        f"{TASK}{NEUTRAL}_noise_14", f"{TASK}_language_5{NEUTRAL}", f"{TASK}_light_12",
        f"{TASK}_table_3", f"{TASK}_add_4", f"{TASK}_level2_sample1",
    ]  # fmt: skip
    listed = {"libero_object": [{"id": n, "name": x, "category": "?"} for n, x in enumerate(names)]}
    (folders["benchmark"] / "task_classification.json").write_text(json.dumps(listed))
    text = task.bddl_file.read_text()
    bddl = folders["bddl_files/libero_object"]
    (bddl / f"{TASK}.bddl").write_text(text)
    (bddl / f"{TASK}_language_5.bddl").write_text(
        text.replace("Pick the milk and place it in the basket", "Get me what cows give")
    )
    (bddl / f"{TASK}_light_12.bddl").write_text(
        text.replace("LIBERO_Floor_Manipulation", "LIBERO_Floor_Floor_light_sync_modified_308")
    )
    (bddl / f"{TASK}_level2_sample1.bddl").write_text(text)
    states = task.init_states()
    np.savez(folders["init_files/libero_object"] / f"{TASK}.npz", states=states)
    np.savez(
        folders["init_files/libero_newobj/libero_object"] / f"{TASK}_level2_sample1.npz",
        states=states[::-1],
    )
    lights = folders["assets/scenes/lights"] / "floor_light_sync_modified_308.xml"
    lights.write_text(LIGHTS)
    (folders["envs/robots"] / "on_the_ground_panda.py").write_text(ROBOTS)
    yield tmp_path
    for name in list(gymnasium.registry):
        if "-plus-" in name:
            gymnasium.registry.pop(name)


def started(name, **settings):
    env = gymnasium.make(f"srpo_env/{name}", **{**BLIND, **settings}).unwrapped
    return env, env.reset(seed=0, options={"task_id": 0, "init_state_id": 0})[1]


def mixture_of(name):
    env, info = started(name)
    env.close()
    return as_mixture(info["perturbation"])


def test_each_dimension_that_can_be_run_is_a_suite(repository):
    register_libero_plus(repository, "libero-object-plus-camera", "libero_object_plus_noise")
    (camera,) = mixture_of("libero-object-plus-camera")
    assert camera == Camera(view=(30, 15, 1, 0, 0), draw=camera.draw)
    (noise,) = mixture_of("libero-object-plus-noise")
    assert noise == Noise(kind="gaussian", severity=4, draw=noise.draw)
    suite = get_suite("libero-object-plus-camera")
    assert (len(suite.tasks), suite.max_steps) == (1, 280)


def test_an_instruction_is_that_of_the_bddl_file(repository):
    register_libero_plus(repository, "libero-object-plus-language")
    env, info = started("libero-object-plus-language")
    assert info["task"] == "get me what cows give"
    assert "perturbation" not in info
    env.close()


def test_the_robot_is_perturbed_as_in_libero_pluss_evaluation(repository):
    register_libero_plus(repository, "libero-object-plus-robot")
    env, info = started("libero-object-plus-robot")
    (robot,) = as_mixture(info["perturbation"])
    assert isinstance(robot, RobotState)
    np.testing.assert_allclose(robot.offsets, [0.1, 0, 0, 0.1, -0.2, 0, 0], atol=1e-12)
    # The joints are those of the initial state. Without an action, the arm moves away from them.
    task = env.task_suite.tasks[0]
    np.testing.assert_array_equal(env.simulation.state(), task.init_states()[0])
    plain = env.simulation.state()
    for _ in range(20):
        env.step(np.zeros((1, 7), np.float32))
    moved = np.abs(env.simulation.state()[1:8] - plain[1:8]).max()
    env.reset(options={"task_id": 0, "init_state_id": 0, "perturbation": None})
    for _ in range(20):
        env.step(np.zeros((1, 7), np.float32))
    assert moved > 2 * np.abs(env.simulation.state()[1:8] - plain[1:8]).max()
    env.close()


def test_lights_are_those_of_the_scene_with_this_number(repository):
    register_libero_plus(repository, "libero-object-plus-light")
    env, info = started("libero-object-plus-light")
    model = env.simulation.model
    np.testing.assert_allclose(model.light("light1").diffuse, [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(model.light("light1").dir, [0, 0, -1])
    np.testing.assert_allclose(model.light("light2").diffuse, 0.8, rtol=1e-6)
    (light,) = as_mixture(info["perturbation"])
    assert light.scene.endswith("lights/floor_light_sync_modified_308.xml")
    env.close()


def test_moved_regions_have_their_own_initial_states(repository):
    register_libero_plus(repository, "libero-object-plus-layout")
    env, _ = started("libero-object-plus-layout")
    (task,) = env.task_suite.tasks  # the added objects are left out
    base = next(task for task in get_suite("libero_object").tasks if task.name == TASK)
    np.testing.assert_array_equal(task.init_states(), base.init_states()[::-1])
    env.close()


def test_without_names_everything_that_can_be_run_is_registered(repository):
    content = json.loads(
        (repository / "libero/libero/benchmark/task_classification.json").read_text()
    )
    content.update({name: [] for name in ("libero_spatial", "libero_goal", "libero_10")})
    (repository / "libero/libero/benchmark/task_classification.json").write_text(
        json.dumps(content)
    )
    register_libero_plus(repository)
    made = {name for name in gymnasium.registry if "-plus-" in name}
    assert made == {
        f"srpo_env/libero-object-plus-{dimension}"
        for dimension in ("camera", "robot", "language", "light", "noise", "layout")
    }


@pytest.mark.parametrize(
    ("suite", "lost", "message"),
    [
        ("libero-object-plus-light", "assets/scenes/lights/floor_light_sync_modified_308.xml",
         "unpack assets.zip"),
        ("libero-object-plus-robot", "envs/robots/on_the_ground_panda.py", "robots are in"),
        ("libero-object-plus-language", f"bddl_files/libero_object/{TASK}_language_5.bddl",
         "which is missing"),
        ("libero-object-plus-camera", f"init_files/libero_object/{TASK}.npz", "initial states"),
        ("libero-object-plus-camera", "benchmark/task_classification.json", "must hold the repo"),
    ],
)  # fmt: skip
def test_a_missing_file_is_named(repository, suite, lost, message):
    (repository / "libero" / "libero" / lost).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        register_libero_plus(repository, suite)


def test_wrong_content_is_refused(repository):
    with pytest.raises(ValueError, match=r"must be among .*, got 'libero_object_plus_background'"):
        register_libero_plus(repository, "libero-object-plus-background")
    robots = repository / "libero" / "libero" / "envs" / "robots" / "on_the_ground_panda.py"
    robots.write_text(ROBOTS.replace("np.pi / 4", "os.system('ls')"))
    with pytest.raises(ValueError, match="must consist of numbers, got os"):
        register_libero_plus(repository, "libero-object-plus-robot")
    with pytest.raises(ValueError, match="`scene` of Light has exact lights"):
        Light(scene="x.xml", gain=2)
