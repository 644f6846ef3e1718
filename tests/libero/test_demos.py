"""The file format of demonstrations; needs h5py, but no simulator."""

from __future__ import annotations

import json

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from srpo_env.libero.demos import demo_file, read_demos, recording_settings, writing_demos  # noqa: E402

TASK = "pick_up_the_milk_and_place_it_in_the_basket"
STEPS, SIZE, NUM_JOINTS = 6, 4, 20  # of an episode, of its images, of its simulator's positions


def seen(t):
    """Returns observations at times ``t`` of an episode; all numbers increase with time."""
    t = np.asarray(t, float)[:, None]
    image = np.zeros((len(t), SIZE, SIZE, 3), np.uint8)
    image[:, 0] = 200  # upright, the top row is bright
    image[:, 1, :, 0] = t
    return {
        "ee_pos": np.add(t, [0.1, 0.2, 0.3]),
        "ee_ori": np.add(t, [0.4, 0.5, 0.6]),
        "ee_states": np.add(t, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        "gripper_states": np.add(t, [0.7, 0.8]),
        "joint_states": t + np.arange(7) / 10,
        "agentview_rgb": image,
        "eye_in_hand_rgb": image // 2,
    }


def states_before(t):
    t = np.asarray(t, float)[:, None]
    return np.concatenate(
        [t * 0.05, t + np.arange(NUM_JOINTS) / 10, np.zeros((len(t), 18))], axis=1
    )


def actions_at(t):
    return np.asarray(t, float)[:, None] / 10 + np.arange(7) / 100


def write_as_libero_does(path, num_demos=1, steps=STEPS, **attributes):
    """Writes a file like LIBERO's ``scripts/create_dataset.py``."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = f"chiliocosm/bddl_files/libero_object/{TASK}.bddl"
        data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {}})
        data.attrs["env_name"] = "Libero_Floor_Manipulation"
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick the milk ..."})
        data.attrs["num_demos"], data.attrs["total"] = num_demos, num_demos * steps
        for name, value in attributes.items():
            data.attrs[name] = value
        for index in range(num_demos):
            group = data.create_group(f"demo_{index}")
            # The script replays an episode, and stores the observation after each action.
            group["actions"] = actions_at(range(steps)) + index / 100
            group["states"] = states_before(range(steps))
            group["robot_states"] = np.zeros((steps, 9))
            group["rewards"] = group["dones"] = np.eye(1, steps, steps - 1, dtype=np.uint8)[0]
            for name, values in seen(range(1, steps + 1)).items():
                stored = values[:, ::-1] if name.endswith("_rgb") else values  # bottom row first
                group[f"obs/{name}"] = stored
            group.attrs["num_samples"] = steps
            group.attrs["init_state"] = group["states"][0]
            group.attrs["model_file"] = "<mujoco/>"
    return path


def write_as_we_do(path, num_demos=1, steps=STEPS, **attributes):
    attributes = {"bddl_file_name": f"bddl_files/libero_object/{TASK}.bddl", **attributes}
    with writing_demos(path, attributes) as writer:
        for index in range(num_demos):
            writer.add(
                actions=actions_at(range(steps)) + index / 100,
                executed_actions=-actions_at(range(steps)),
                states=states_before(range(steps)),
                robot_states=np.zeros((steps, 9)),
                obs=seen(range(steps)),
                init_state_id=index,
            )
    return path


def check_row(demo, row, t):
    """Checks that a row holds the observation at time ``t`` and the action after it."""
    np.testing.assert_allclose(demo.actions[row], actions_at([t])[0], rtol=1e-6)
    expected = t + np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    np.testing.assert_allclose(demo.proprio[row], expected, rtol=1e-6)
    np.testing.assert_array_equal(demo.images["agentview"][row, 0], 200)  # upright
    np.testing.assert_array_equal(demo.images["agentview"][row, 1, :, 0], t)
    np.testing.assert_array_equal(demo.images["agentview"][row, -1], 0)
    np.testing.assert_array_equal(demo.images["wrist"][row, 0], 100)


# --- Reading ------------------------------------------------------------------------------------


def test_demonstrations_are_read_as_they_were_written(tmp_path):
    (demo,) = read_demos(write_as_we_do(tmp_path / "any.hdf5"))
    assert demo.instruction == "pick up the milk and place it in the basket"
    assert demo.images.keys() == {"agentview", "wrist"}
    assert demo.images["wrist"].shape == (STEPS, SIZE, SIZE, 3)
    assert demo.images["wrist"].dtype == np.uint8
    assert demo.proprio.shape == (STEPS, 8)
    assert demo.actions.shape == (STEPS, 7)
    for t in range(STEPS):
        check_row(demo, t, t)


def test_actions_of_liberos_files_are_paired_with_the_observation_before_them(tmp_path):
    (demo,) = read_demos(write_as_libero_does(tmp_path / f"{TASK}_demo.hdf5"))
    assert demo.instruction == "pick up the milk and place it in the basket"
    # The file lacks the observation before the first action, so that action is dropped.
    assert len(demo.actions) == len(demo.proprio) == STEPS - 1
    for t in range(1, STEPS):
        check_row(demo, t - 1, t)


def test_small_differences_of_a_replay_are_accepted(tmp_path):
    path = write_as_libero_does(tmp_path / f"{TASK}_demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/joint_states"][:, 3] += 0.05
    (demo,) = read_demos(path)
    check_row(demo, 0, 1)


def test_images_stored_upright_are_not_flipped(tmp_path):
    path = write_as_libero_does(tmp_path / f"{TASK}_demo.hdf5", macros_image_convention="opencv")
    (demo,) = read_demos(path)
    np.testing.assert_array_equal(demo.images["agentview"][:, -1], 200)


def test_a_file_without_attributes_has_its_task_in_its_name(tmp_path):
    path = write_as_libero_does(tmp_path / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5")
    with h5py.File(path, "a") as file:
        for name in list(file["data"].attrs):
            del file["data"].attrs[name]
    (demo,) = read_demos(path)
    assert demo.instruction == "turn on the stove"
    check_row(demo, 0, 1)  # OpenGL's row order is robosuite's default


def test_demonstrations_are_sorted_by_number(tmp_path):
    path = write_as_we_do(tmp_path / "any.hdf5", num_demos=11)
    first_actions = [demo.actions[0, 0] for demo in read_demos(path)]
    np.testing.assert_allclose(first_actions, np.arange(11) / 100)


def test_demos_per_task_limits_each_file_of_a_folder(tmp_path):
    for name in ("b", "a"):
        write_as_we_do(tmp_path / f"{name}.hdf5", num_demos=3)
    sources = [demo.source for demo in read_demos(tmp_path, demos_per_task=2)]
    expected = [f"{tmp_path / name}.hdf5:data/demo_{i}" for name in "ab" for i in (0, 1)]
    assert sources == expected
    assert len(list(read_demos([tmp_path / "a.hdf5", tmp_path]))) == 9


def test_a_missing_path_is_an_error_before_anything_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none: record some with `srpo-env demos`"):
        read_demos(tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match=r"found none: record some with `srpo-env demos`"):
        read_demos(tmp_path)


def test_a_file_that_is_not_hdf5_is_an_error(tmp_path):
    (tmp_path / "text.hdf5").write_text("no")
    with pytest.raises(ValueError, match=r"text\.hdf5' is not an HDF5 file, or is damaged"):
        list(read_demos(tmp_path))


def test_demos_per_task_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`demos_per_task` must be at least 1, got 0"):
        read_demos(tmp_path, demos_per_task=0)


def drop_images(group):
    del group["obs/eye_in_hand_rgb"]


def shorten_actions(group):
    actions = group["actions"][:-1]
    del group["actions"]
    group["actions"] = actions


def swap_states(group):
    group["states"][:, 1:8] += 1.5


def set_number(name, value):
    def spoil(group):
        values = np.array(group[name], np.float64)
        values[1, 0] = value
        del group[name]
        group[name] = values

    spoil.__name__ = f"{name} {value}"
    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        *[
            (set_number(name, value), f"{name} of .*demo_0 must be finite")
            for name in (
                "actions",
                "states",
                "obs/ee_pos",
                "obs/ee_ori",
                "obs/gripper_states",
                "obs/joint_states",
            )
            for value in (np.nan, np.inf)
        ],
        (set_number("actions", 40), r"`actions` of .*demo_0 must be in \[-1, 1\].*got 40"),
        (set_number("actions", -1.01), r"`actions` of .*demo_0 must be in \[-1, 1\].*got 1.01"),
        (drop_images, "demo_0 lacks datasets of LIBERO's layout: obs/eye_in_hand_rgb"),
        (shorten_actions, "must have the same number of rows, at least 1, got .*'actions': 5"),
        (swap_states, r"must agree, got a mean difference of \d\.\d\d rad"),
    ],
)
def test_an_invalid_demonstration_is_an_error(tmp_path, spoil, message):
    path = write_as_we_do(tmp_path / "any.hdf5")
    with h5py.File(path, "a") as file:
        spoil(file["data/demo_0"])
    with pytest.raises(ValueError, match=message):
        list(read_demos(path))


def test_an_episode_that_failed_is_read_but_not_to_be_imitated(tmp_path):
    path = write_as_we_do(tmp_path / "any.hdf5")
    assert len(list(read_demos(path, only_successes=True))) == 1
    with h5py.File(path, "a") as file:
        file["data/demo_0/rewards"][:] = 0
    assert len(list(read_demos(path))) == 1
    with pytest.raises(ValueError, match=r"demo_0 must have reached the goal to be imitated"):
        list(read_demos(path, only_successes=True))
    with h5py.File(path, "a") as file:
        del file["data/demo_0/rewards"]  # then nothing says that it failed
    assert len(list(read_demos(path, only_successes=True))) == 1


def test_a_file_without_demonstrations_is_an_error(tmp_path):
    h5py.File(tmp_path / "empty.hdf5", "w").close()
    with pytest.raises(ValueError, match="must hold demonstrations at data/demo_0"):
        list(read_demos(tmp_path))


def test_a_file_without_a_task_name_is_an_error(tmp_path):
    path = write_as_libero_does(tmp_path / "any.hdf5")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["bddl_file_name"]
    with pytest.raises(ValueError, match="must name its task"):
        list(read_demos(path))


def test_an_unknown_row_order_is_an_error(tmp_path):
    write_as_libero_does(tmp_path / "any.hdf5", macros_image_convention="vulkan")
    with pytest.raises(ValueError, match=r"must be 'opengl' or 'opencv', .* has 'vulkan'"):
        list(read_demos(tmp_path))


# --- Writing ------------------------------------------------------------------------------------


def test_images_are_stored_bottom_row_first_as_in_liberos_files(tmp_path):
    with h5py.File(write_as_we_do(tmp_path / "any.hdf5"), "r") as file:
        assert file["data"].attrs["macros_image_convention"] == "opengl"
        np.testing.assert_array_equal(file["data/demo_0/obs/agentview_rgb"][:, -1], 200)


def test_counts_and_ends_are_written(tmp_path):
    with h5py.File(write_as_we_do(tmp_path / "any.hdf5", num_demos=2), "r") as file:
        assert dict(file["data"].attrs)["num_demos"] == 2
        assert file["data"].attrs["total"] == 2 * STEPS
        demo = file["data/demo_1"]
        assert demo.attrs["num_samples"] == STEPS
        np.testing.assert_array_equal(demo.attrs["init_state"], demo["states"][0])
        for name in ("rewards", "dones"):
            np.testing.assert_array_equal(demo[name], [0] * (STEPS - 1) + [1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_no_file(tmp_path, error):
    path = demo_file(tmp_path / "new", TASK)
    with pytest.raises(error), writing_demos(path, {}):
        raise error
    assert list(path.parent.iterdir()) == []


def test_an_interruption_keeps_the_earlier_file(tmp_path):
    path = write_as_we_do(tmp_path / "any.hdf5", num_demos=2)
    with pytest.raises(KeyboardInterrupt), writing_demos(path, {}):
        raise KeyboardInterrupt
    assert len(list(read_demos(path))) == 2


def test_recording_settings_are_stored_and_foreign_files_have_none(tmp_path):
    ours = write_as_we_do(tmp_path / "a.hdf5", recording=json.dumps({"seed": 3}))
    assert recording_settings(ours) == {"seed": 3}
    assert recording_settings(write_as_libero_does(tmp_path / "b.hdf5")) is None
    (tmp_path / "c.hdf5").write_text("no")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        recording_settings(tmp_path / "c.hdf5")


@pytest.mark.parametrize(
    ("attributes", "look"),
    [
        (None, "libero"),  # LIBERO's own file
        ({"look": "mujoco"}, "mujoco"),
        ({"look": "libero"}, "libero"),
        ({"seed": 3}, "mujoco"),  # of this package, before there was a choice
    ],
)
def test_images_of_another_look_are_refused(tmp_path, attributes, look):
    file = tmp_path / "demos.hdf5"
    if attributes is None:
        write_as_libero_does(file)
    else:
        write_as_we_do(file, recording=json.dumps(attributes))
    other = {"libero": "mujoco", "mujoco": "libero"}[look]
    assert len(list(read_demos(file, look=look))) == 1
    with pytest.raises(ValueError, match=f"must have images with look='{other}', .* has '{look}'"):
        list(read_demos(file, look=other))
