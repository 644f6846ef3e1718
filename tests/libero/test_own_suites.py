"""Tasks of the user: BDDL files with stored or sampled initial states, alone and in suites."""

import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from srpo_env import register_suite
from srpo_env.libero import building, suites
from srpo_env.libero.assets import LiberoAssets, check_suite, prepare_libero, resolve_assets
from srpo_env.libero.building import check_scene
from srpo_env.libero.own_suites import make_suite, single_task
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_suite, get_task, package_folder, tasks_of

pytestmark = pytest.mark.libero

MILK = get_task("libero_object", 7)
BLIND = {"cameras": (), "chunk": 1, "settle_steps": 0}


@pytest.fixture
def bddl(tmp_path):
    """A task of the user, which is LIBERO's first with another name and instruction."""
    text = get_task("libero_object", 0).bddl_file.read_text()
    file = tmp_path / "soup.bddl"
    file.write_text(text.replace("(:language Pick", "(:language Please pick"))
    return file


@pytest.fixture
def states(bddl):
    """Ten of LIBERO's initial states, beside the task."""
    file = bddl.with_suffix(".npz")
    np.savez(file, get_task("libero_object", 0).init_states()[:10])
    return file


@pytest.fixture
def no_suites(monkeypatch):
    """Forgets the suites that a test registers."""
    monkeypatch.setattr(suites, "_registered", {})
    yield
    for name in [name for name in gymnasium.registry if "srpo_env/my-" in name]:
        del gymnasium.registry[name]


def state_of(simulation):
    return np.concatenate([[simulation.data.time], simulation.data.qpos, simulation.data.qvel])


# --- One task -------------------------------------------------------------------------------------


def test_a_task_with_stored_states_starts_as_liberos(bddl, states):
    env = gymnasium.make("srpo_env/libero", bddl=bddl, init_states=states, **BLIND)
    same = gymnasium.make("srpo_env/libero-object", **BLIND)
    observation, info = env.reset(options={"init_state_id": 7})
    expected, _ = same.reset(options={"task_id": 0, "init_state_id": 7})
    np.testing.assert_array_equal(observation["proprio"], expected["proprio"])
    np.testing.assert_array_equal(
        state_of(env.unwrapped.simulation), state_of(same.unwrapped.simulation)
    )
    assert info["task"] == "please pick the alphabet soup and place it in the basket"
    assert (info["task_id"], info["init_state_id"]) == (0, 7)
    with pytest.raises(ValueError, match=r"`init_state_id` must be an integer in 0\.\.9"):
        env.reset(options={"init_state_id": 10})


def test_states_beside_the_task_are_found(bddl, states):
    assert single_task(bddl).tasks[0].init_states_file == states


def test_workers_know_the_task(bddl, states):
    envs = gymnasium.make_vec(
        "srpo_env/libero", num_envs=3, num_workers=2, bddl=str(bddl), init_states=str(states),
        **BLIND,
    )  # fmt: skip
    _, infos = envs.reset(options={"init_state_id": [1, 1, 4]})
    assert list(infos["init_state_id"]) == [1, 1, 4]
    assert set(infos["task"]) == {"please pick the alphabet soup and place it in the basket"}
    envs.step(np.zeros((3, 1, 7)))
    with pytest.raises(ValueError, match=r"`init_state_id` must be in 0\.\.9"):
        envs.reset(options={"task_id": 0, "init_state_id": 10})
    envs.close()


def reset_upstream(task, seed):
    """Returns a new environment of LIBERO after ``seed(seed)`` and ``reset()``."""
    from libero.libero.envs.env_wrapper import ControlEnv

    # Without images, which take seconds.
    upstream = ControlEnv(
        str(task.bddl_file), horizon=10**6, use_camera_obs=False, has_offscreen_renderer=False
    )
    upstream.seed(seed)
    upstream.env.reset()
    return upstream


# Objects on the floor; fixtures that move; a drawer that is open; objects in regions of fixtures.
@pytest.mark.parametrize(("suite", "task_id"), [("libero_object", 3), ("libero_10", 3)])
def test_sampled_states_are_those_of_upstreams_reset_to_the_bit(suite, task_id):
    try:
        check_suite(resolve_assets(), suite)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    simulation = Simulation(make_suite("x", [get_task(suite, task_id).bddl_file]).tasks[0])
    simulation.start(3)  # another seed before has no effect
    before = state_of(simulation)
    simulation.start(5)
    upstream = reset_upstream(simulation.task, 5)
    theirs = upstream.sim.model._model
    assert np.abs(before - state_of(simulation)).max() > 0.01
    np.testing.assert_array_equal(state_of(simulation), upstream.get_sim_state())
    np.testing.assert_array_equal(simulation.model.body_pos, theirs.body_pos)
    np.testing.assert_array_equal(simulation.model.body_quat, theirs.body_quat)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 7)):
        simulation.step(action)
        upstream.step(action)
    np.testing.assert_array_equal(state_of(simulation), upstream.get_sim_state())
    upstream.close()
    simulation.close()


def test_a_snapshot_contains_sampled_fixtures():
    try:
        check_suite(resolve_assets(), "libero_10")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    simulation = Simulation(make_suite("x", [get_task("libero_10", 3).bddl_file]).tasks[0])
    simulation.start(5)
    snapshot, poses = simulation.save(), simulation.model.body_pos.copy()
    simulation.start(6)
    assert np.abs(simulation.model.body_pos - poses).max() > 0.001
    simulation.load(snapshot)
    np.testing.assert_array_equal(simulation.model.body_pos, poses)


def test_without_states_the_id_is_a_seed_and_is_drawn(bddl):
    env = gymnasium.make("srpo_env/libero", bddl=bddl, **BLIND)

    def start(**kwargs):
        _, info = env.reset(**kwargs)
        return info["init_state_id"], state_of(env.unwrapped.simulation)

    drawn, drawn_state = start(seed=1)
    assert start(seed=2)[0] != drawn > 10**6
    given, given_state = start(options={"init_state_id": drawn})
    assert given == drawn
    np.testing.assert_array_equal(given_state, drawn_state)
    with pytest.raises(ValueError, match=r"0\.\.4294967295"):
        env.reset(options={"init_state_id": 2**32})


def test_sampled_states_are_kept_for_a_limited_number_of_seeds(bddl, monkeypatch):
    from srpo_env.libero import pool

    monkeypatch.setattr(pool, "MAX_SETTLED", 3)
    shared = pool.SharedSimulation(Simulation(single_task(bddl).tasks[0]))
    first = shared.settled(0, 0)
    assert shared.settled(0, 0) is first
    for seed in range(1, 4):
        shared.settled(seed, 0)
    again = shared.settled(0, 0)
    assert again is not first
    np.testing.assert_array_equal(again.physics, first.physics)


def test_objects_that_do_not_fit_are_one_sentence(bddl):
    # All objects in a square of one millimetre.
    crowded = re.sub(r"\(-?0\.\d+ -?0\.\d+ -?0\.\d+ -?0\.\d+\)", "(0 0 0.001 0.001)",
                     bddl.read_text())  # fmt: skip
    bddl.write_text(crowded)
    with pytest.raises(ValueError, match=r"cannot build.*soup\.bddl.*Cannot place all objects"):
        Simulation(single_task(bddl).tasks[0])


# --- Suites ---------------------------------------------------------------------------------------


def test_a_folder_is_a_suite_by_name(bddl, states, no_suites):
    (bddl.parent / "milk.bddl").write_text(MILK.bddl_file.read_text())
    register_suite("my-shop", bddl.parent, max_steps=7)
    assert [task.name for task in tasks_of("my_shop")] == ["milk", "soup"]
    assert get_suite("my-shop").max_steps == 7
    env = gymnasium.make("srpo_env/my-shop", **BLIND)
    assert env.unwrapped.max_steps == 7
    assert env.reset(options={"task_id": 1, "init_state_id": 9})[1]["task"].startswith("please")
    envs = gymnasium.make_vec("srpo_env/my-shop", num_envs=2, num_workers=1, **BLIND)
    _, infos = envs.reset(options={"task_id": [0, 1], "init_state_id": [10**9, 9]})
    assert infos["task"][0] == "pick the milk and place it in the basket"
    for _ in range(7):
        truncations = envs.step(np.zeros((2, 1, 7)))[3]
    assert truncations.all()
    envs.close()


def test_a_suite_that_is_registered_again_is_replaced(bddl, no_suites):
    register_suite("my-shop", [bddl])
    register_suite("my-shop", [bddl, MILK.bddl_file])
    assert gymnasium.make("srpo_env/my-shop", **BLIND).unwrapped.num_tasks == 2


def test_a_module_that_registers_a_suite_can_be_named_in_its_id(bddl):
    (bddl.parent / "my_suites.py").write_text(
        f"import srpo_env\nsrpo_env.register_suite('my-shop', [{str(bddl)!r}])\n"
    )
    code = (
        "import gymnasium, srpo_env\n"
        "print(gymnasium.make('my_suites:srpo_env/my-shop').unwrapped.suite)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=bddl.parent,
        env={**os.environ, "PYTHONPATH": f"{bddl.parent}:{':'.join(sys.path)}"},
    )  # fmt: skip
    assert done.stdout.strip() == "my_shop", done.stderr


@pytest.mark.parametrize("name", ["libero-object", "My Shop", "", "1shop"])
def test_a_name_that_is_taken_or_no_name_is_refused(name, bddl):
    with pytest.raises(ValueError, match="the name of a suite must consist of lower-case letters"):
        register_suite(name, [bddl])


def test_a_change_of_a_file_is_noticed(bddl, states):
    env = gymnasium.make("srpo_env/libero", bddl=bddl, **BLIND)
    bddl.write_text(bddl.read_text() + "\n")
    with pytest.raises(ValueError, match=r"soup\.bddl has changed since the suite"):
        env.reset()
    gymnasium.make("srpo_env/libero", bddl=bddl, **BLIND).reset()


def test_state_sizes_are_those_of_the_compiled_models():
    for suite in ("libero_object", "libero_goal", "libero_90"):
        try:
            check_suite(resolve_assets(), suite)
        except FileNotFoundError:
            continue
        for task in tasks_of(suite)[:3]:
            assert check_scene(task) == task.init_states().shape[1]


# --- Errors ---------------------------------------------------------------------------------------

BROKEN = {
    "no file of BDDL": ("(define", "(defined", r"must be one expression \(define"),
    "open parenthesis": ("(:goal", "((:goal", "1 parentheses are not closed"),
    "no goal": ("(:goal", "(:goals", "the section :goal is missing"),
    "unknown problem": ("LIBERO_Floor_Manipulation", "Moon", "got moon"),
    "unknown object": ("- alphabet_soup", "- alphabet_soupp", "similar: alphabet_soup"),
    "unknown fixture": ("floor - floor", "floor - floor\n hat_1 - hat", "fixture category 'hat'"),
    "undeclared": ("(In alphabet_soup_1", "(In soup_1", "soup_1 in :goal must be a declared"),
    "missing region": ("basket_1_contain_region)", "basket_1_lid)", "basket_1_lid in :goal"),
    "unknown predicate": ("(In alphabet", "(Inside alphabet", "got inside alphabet_soup_1"),
    "arguments": ("(In alphabet_soup_1 ", "(In ", "with its number of arguments"),
    "word as number": ("(-0.01 0.25 0.01 0.27)", "(-0.01 0.25 0.01 x)", ":ranges of the region"),
    "nothing to open": (
        "(In alphabet_soup_1 basket_1_contain_region)", "(Open basket_1)", "needs another object"
    ),
    "region without a site": (
        "(contain_region\n          (:target basket_1)", "(contain_region\n (:target milk_1)",
        "basket_1_contain_region in :goal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_task_is_one_sentence(fault, bddl):
    old, new, message = BROKEN[fault]
    text = bddl.read_text()
    assert old in text
    bddl.write_text(text.replace(old, new))
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(ValueError, match=message) as raised:
            make("srpo_env/libero", bddl=bddl, **BLIND)
        assert "soup.bddl" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_code_in_a_task_is_not_executed(bddl, tmp_path):
    # LIBERO's parser evaluates the angles.
    target = tmp_path / "executed"
    attack = f"(:target floor) (:yaw_rotation ((open('{target}','w') 0)))"
    bddl.write_text(bddl.read_text().replace("(:target floor)", attack, 1))
    with pytest.raises(ValueError, match=r":yaw_rotation of the region .* must hold 2 numbers"):
        single_task(bddl)
    assert not target.exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 109)), "must have 110 numbers each"),
        (np.full((3, 110), np.nan), "states that are finite, state 0"),
        (np.zeros(110), "numbers of shape"),
        (np.zeros((0, 110)), "numbers of shape"),
        (np.full((1, 110), "x"), "numbers of shape"),
        (np.array([[{}]], dtype=object), "pickled objects"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_states_that_do_not_fit_are_one_sentence(array, message, ending, bddl):
    file = bddl.with_suffix(f".{ending}")
    (np.save if ending == "npy" else np.savez)(file, array)
    with pytest.raises(ValueError, match=message) as raised:
        gymnasium.make("srpo_env/libero", bddl=bddl, init_states=file)
    assert file.name in str(raised.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"bddl": "lost.bddl"}, "there must be a BDDL file"),
        ({"init_states": "x.npz"}, "instead of a `suite`"),
        ({"bddl": "soup.bddl", "suite": "libero_goal"}, "instead of a `suite`"),
        ({"bddl": "soup.bddl", "init_states": "lost.npz"}, "`init_states` must be a folder, or"),
        ({"bddl": "soup.bddl", "init_states": "."}, "has no initial states soup"),
        ({"bddl": "soup.bddl", "init_states": "soup.bddl"}, "must end in one of"),
    ],
)
def test_wrong_arguments_are_one_sentence(kwargs, message, bddl, monkeypatch):
    monkeypatch.chdir(bddl.parent)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        gymnasium.make("srpo_env/libero", **kwargs)


@pytest.mark.parametrize("missing", ["alphabet_soup.xml", "*.png"])
def test_missing_assets_are_one_sentence(missing, bddl, tmp_path, monkeypatch):
    # Links to all assets, except for one file of the soup.
    source = resolve_assets().path
    (soup,) = source.glob("*/alphabet_soup")
    folder = tmp_path / "assets"
    for path in [*source.iterdir(), *soup.parent.iterdir(), *soup.iterdir()]:
        link = folder / path.relative_to(source)
        if path in (soup, soup.parent):
            link.mkdir(parents=True)
        elif not path.match(missing) or path.parent != soup:
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path)
    assets = LiberoAssets(folder, "modified", "LIBERO_ASSETS")
    monkeypatch.setattr(building, "prepare_libero", lambda: prepare_libero(assets))
    with pytest.raises(FileNotFoundError, match=r"soup needs files that are missing.*assets") as e:
        make_suite("x", [bddl])
    assert "alphabet_soup" in str(e.value)
    assert "\n" not in str(e.value)


def test_all_files_of_libero_are_valid():
    from srpo_env.libero.bddl import read_bddl

    files = sorted((package_folder() / "bddl_files").glob("*/*.bddl"))
    assert len(files) == 130
    assert all(read_bddl(file).instruction for file in files)
