from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from srpo_env.libero.demo_recording import DemoRecording, record_demos  # noqa: E402
from srpo_env.libero.demos import demo_file, read_demos  # noqa: E402
from srpo_env.libero.env import LiberoEnv  # noqa: E402
from srpo_env.libero.experts import Attempt  # noqa: E402
from srpo_env.libero.suites import get_task  # noqa: E402

pytestmark = pytest.mark.libero

SUITE, TASK_ID = "libero_object", 9
SIZE = 16
RECORDING = DemoRecording(demos_per_task=2, init_states=(3, 7), noise=0.1, image_size=SIZE, seed=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_demos(SUITE, TASK_ID, tmp_path_factory.mktemp("demos"), RECORDING)


@pytest.fixture
def data(recorded):
    with h5py.File(recorded.file, "r") as file:
        yield file["data"]


def test_the_requested_demonstrations_are_recorded(recorded):
    task = get_task(SUITE, TASK_ID)
    assert recorded.file == demo_file(recorded.file.parent, task.name)
    assert (recorded.num_episodes, recorded.num_rejected) == (2, 0)
    demos = list(read_demos(recorded.file))
    assert [demo.instruction for demo in demos] == [task.instruction] * 2
    assert demos[0].images["wrist"].shape == (len(demos[0].actions), SIZE, SIZE, 3)


def test_the_layout_is_liberos(data):
    # Source: scripts/create_dataset.py of LIBERO, and its published files. The scene of this task
    # has 110 numbers in its state.
    num_steps = data["demo_0"].attrs["num_samples"]
    libero = {
        "actions": ((7,), np.float64),
        "dones": ((), np.uint8),
        "rewards": ((), np.uint8),
        "robot_states": ((9,), np.float64),
        "states": ((110,), np.float64),
        "obs/agentview_rgb": ((SIZE, SIZE, 3), np.uint8),
        "obs/eye_in_hand_rgb": ((SIZE, SIZE, 3), np.uint8),
        "obs/ee_ori": ((3,), np.float64),
        "obs/ee_pos": ((3,), np.float64),
        "obs/ee_states": ((6,), np.float64),
        "obs/gripper_states": ((2,), np.float64),
        "obs/joint_states": ((7,), np.float64),
    }
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            assert len(item) == num_steps
            found[name] = (item.shape[1:], item.dtype)

    data["demo_0"].visititems(note)
    assert found.pop("executed_actions") == ((7,), np.float64)  # only in our files
    assert found == libero
    assert {"num_samples", "init_state"} <= set(data["demo_0"].attrs)
    assert {
        "bddl_file_name",
        "env_args",
        "env_name",
        "macros_image_convention",
        "num_demos",
        "problem_info",
        "tag",
        "total",
    } <= set(data.attrs)
    problem = json.loads(data.attrs["problem_info"])
    assert problem["language_instruction"] == "pick the orange juice and place it in the basket"
    assert json.loads(data.attrs["env_args"])["env_kwargs"]["camera_heights"] == SIZE


def test_demonstrations_equal_the_environments_observations(recorded, data):
    env = LiberoEnv(SUITE, chunk=1, image_size=SIZE)
    demo = next(read_demos(recorded.file))
    executed = data["demo_0/executed_actions"][:]
    init_state_id = int(data["demo_0"].attrs["init_state_id"])
    observation, _ = env.reset(options={"task_id": TASK_ID, "init_state_id": init_state_id})
    for t, action in enumerate(executed):
        np.testing.assert_array_equal(demo.images["agentview"][t], observation["agentview"])
        np.testing.assert_array_equal(demo.images["wrist"][t], observation["wrist"])
        np.testing.assert_array_equal(demo.proprio[t], observation["proprio"])
        # float64, as they were executed during the recording.
        observation, reward, terminated, _, _ = env.step(action[None])
    assert reward == 1
    assert terminated
    env.close()


def test_states_precede_the_actions(data):
    env = LiberoEnv(SUITE, chunk=1, image_size=SIZE)
    init_state_id = int(data["demo_1"].attrs["init_state_id"])
    env.reset(options={"task_id": TASK_ID, "init_state_id": init_state_id})
    simulation = env.simulation
    for state, action in zip(
        data["demo_1/states"][:5], data["demo_1/executed_actions"], strict=False
    ):
        now = [[simulation.data.time], simulation.data.qpos, simulation.data.qvel]
        np.testing.assert_array_equal(state, np.concatenate(now))
        simulation.step(action)
    env.close()


def test_labels_are_the_experts_actions_without_noise(data):
    actions, executed = data["demo_0/actions"][:], data["demo_0/executed_actions"][:]
    assert set(np.unique(actions[:, 6])) == {-1.0, 1.0}
    assert not np.array_equal(actions, executed)
    assert np.abs(executed - actions).mean() < 0.1


def test_what_the_images_depend_on_is_stored(data):
    stored = {**json.loads(data.attrs["recording"]), "gl": data.attrs["gl"]}
    assert stored["look"] == "libero"
    assert stored["visuals"] in ("exact", "fast")
    assert stored["mujoco"] == version("mujoco")
    assert stored["gl"].count(", ") >= 2  # vendor, renderer, version


def test_each_initial_state_is_used_once(data):
    used = [int(data[name].attrs["init_state_id"]) for name in data]
    assert sorted(used) == [3, 7]


def test_a_file_with_the_same_settings_is_kept(recorded):
    before = recorded.file.stat().st_mtime_ns
    again = record_demos(SUITE, TASK_ID, recorded.file.parent, RECORDING)
    assert again.skipped
    assert (again.num_episodes, again.file.stat().st_mtime_ns) == (2, before)


def test_other_settings_replace_a_file_only_with_overwrite(tmp_path):
    one = DemoRecording(demos_per_task=1, image_size=8)
    first = record_demos(SUITE, TASK_ID, tmp_path, one)
    other = DemoRecording(demos_per_task=1, image_size=8, seed=1)
    for settings in (other, DemoRecording(demos_per_task=1, image_size=8, look="mujoco")):
        with pytest.raises(FileExistsError, match=r"recorded with other settings.*--overwrite"):
            record_demos(SUITE, TASK_ID, tmp_path, settings)
    with h5py.File(first.file) as file:
        before = file["data/demo_0/states"][0]
    record_demos(SUITE, TASK_ID, tmp_path, other, overwrite=True)
    with h5py.File(first.file) as file:
        assert not np.array_equal(file["data/demo_0/states"][0], before)


def fake_expert(monkeypatch, *successes):
    """Ends episodes after one step, with these outcomes."""
    outcomes = iter(successes)

    def run(simulation, init_state_id, *, noise, rng, observe):
        simulation.reset(simulation.task.init_states()[init_state_id])
        observe()
        return Attempt(next(outcomes), np.zeros((1, 7)), np.zeros((1, 7)))

    monkeypatch.setattr("srpo_env.libero.demo_recording.run_expert", run)


def test_failures_are_counted_and_not_stored(tmp_path, monkeypatch):
    fake_expert(monkeypatch, False, True, False, True)
    seen = []
    recording = DemoRecording(demos_per_task=2, image_size=8)
    recorded = record_demos(SUITE, TASK_ID, tmp_path, recording, progress=seen.append)
    assert (recorded.num_episodes, recorded.num_rejected) == (2, 2)
    assert seen == [False, True, False, True]
    assert len(list(read_demos(recorded.file))) == 2


def test_an_expert_that_never_succeeds_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    fake_expert(monkeypatch, *[False] * 3)
    recording = DemoRecording(demos_per_task=1, init_states=(0, 1, 2), image_size=8)
    with pytest.raises(ValueError, match=r"1 times, but did so 0 times in 3 episodes"):
        record_demos(SUITE, TASK_ID, tmp_path, recording)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demos_per_task": 0}, "`demos_per_task` must be at least 1, got 0"),
        ({"init_states": ()}, "`init_states` must name at least one initial state, got none"),
        ({"noise": -1.0}, r"`noise` must be at least 0, got -1\.0"),
        ({"noise": float("nan")}, "`noise` must be at least 0, got nan"),
        ({"demos_per_task": 3, "init_states": (0, 1)}, "repeats itself exactly: got 3 of 2"),
    ],
)
def test_wrong_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        DemoRecording(**settings)


def test_an_unknown_initial_state_is_an_error(tmp_path):
    recording = DemoRecording(demos_per_task=1, init_states=(49, 50))
    with pytest.raises(ValueError, match=r"`init_states` must be in 0\.\.49 .*got 50"):
        record_demos(SUITE, TASK_ID, tmp_path, recording)
