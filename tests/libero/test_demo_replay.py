import h5py
import numpy as np
import pytest

from srpo_env.libero.demo_recording import DemoRecording, record_demos
from srpo_env.libero.demo_replay import (
    RecordedActions,
    fixture_poses,
    no_ops,
    read_actions,
    replay,
    task_of,
    without_no_ops,
)
from srpo_env.libero.replay_files import replay_file
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import get_task

pytestmark = pytest.mark.libero

CREAM_CHEESE = get_task("libero_object", 1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """One demonstration of the expert, with noise on the executed actions."""
    folder = tmp_path_factory.mktemp("demos")
    settings = DemoRecording(demos_per_task=1, image_size=8, noise=0.05)
    return record_demos("libero_object", 1, folder, settings).file


@pytest.fixture(scope="module")
def demo(recording):
    return next(read_actions(recording))


@pytest.fixture(scope="module")
def simulation():
    return Simulation(CREAM_CHEESE, visuals="fast")


def test_a_demonstration_reaches_the_goal_at_its_last_step(simulation, demo):
    result = replay(simulation, demo)
    assert result.success
    # The recorded episode began with a controller that had moved before.
    assert 0 < result.max_deviation < 0.05
    assert abs(result.success_step - (len(demo.actions) - 1)) <= 2


def test_states_that_the_simulator_produces_have_no_deviation(simulation, demo):
    simulation.reset(demo.states[0])
    states = []
    for action in demo.actions:
        states.append(
            np.concatenate([[simulation.data.time], simulation.data.qpos, simulation.data.qvel])
        )
        simulation.step(action)
    same = RecordedActions("same", demo.actions, np.array(states))
    assert replay(simulation, same).max_deviation == 0
    moved = np.array(states)
    moved[7, 1] += 0.25
    other = RecordedActions("other", demo.actions, moved)
    assert replay(simulation, other).max_deviation == pytest.approx(0.25, abs=1e-12)


def test_the_executed_actions_are_replayed(recording, demo):
    with h5py.File(recording) as file:
        np.testing.assert_array_equal(demo.actions, file["data/demo_0/executed_actions"])
        assert np.abs(demo.actions - file["data/demo_0/actions"]).max() > 0.01


def test_an_episode_that_ends_early_does_not_succeed(simulation, demo):
    beginning = RecordedActions("x", demo.actions[:20], demo.states[:20])
    calls = []
    result = replay(simulation, beginning, observe=lambda: calls.append(1))
    assert not result.success
    assert len(calls) == 20


def test_observations_end_with_the_action_that_reaches_the_goal(simulation, demo):
    longer = RecordedActions(
        "x", np.concatenate([demo.actions, [SETTLE_ACTION] * 5]),
        np.concatenate([demo.states, demo.states[-1:].repeat(5, axis=0)]),
    )  # fmt: skip
    calls = []
    result = replay(simulation, longer, observe=lambda: calls.append(1))
    assert len(calls) == result.success_step + 1 < len(longer.actions)


def test_no_ops_are_found_as_openvla_does():
    def action(x, gripper):
        return [x, 0, 0, 0, 0, 0, gripper]

    # Still at the beginning; below and above the norm; a gripper that closes, and stays closed.
    values = [action(0, -1), action(1, -1), action(9e-5, -1), action(1.1e-4, -1), action(0, 1),
              action(0, 1), action(-9e-5, -1), action(0, -1)]  # fmt: skip
    expected = [True, False, True, False, False, True, False, True]
    np.testing.assert_array_equal(no_ops(np.array(values)), expected)


def test_the_norm_of_the_pose_counts_and_not_its_entries():
    turn = [6e-5, 6e-5, 6e-5, 0, 0, 0, -1]  # norm 1.04e-4
    assert not no_ops(np.array([turn])).any()


def test_a_demonstration_succeeds_without_inserted_no_ops(simulation, demo):
    inserted = np.insert(demo.actions, 30, np.zeros(7), axis=0)
    inserted[30, 6] = inserted[29, 6]
    inserted = np.insert(inserted, 0, SETTLE_ACTION, axis=0)
    states = demo.states[[0, *range(31), *range(30, len(demo.states))]]
    padded = RecordedActions("x", inserted, states)
    np.testing.assert_array_equal(np.flatnonzero(no_ops(inserted)), [0, 31])
    filtered = without_no_ops(padded)
    np.testing.assert_array_equal(filtered.actions, demo.actions)
    np.testing.assert_array_equal(filtered.states[0], demo.states[0])
    assert replay(simulation, filtered).success


def test_a_demonstration_of_no_ops_only_is_an_error():
    still = RecordedActions("demo_3", np.tile(SETTLE_ACTION, (4, 1)), np.zeros((4, 110)))
    with pytest.raises(ValueError, match="demo_3 must have an action that does something"):
        without_no_ops(still)


def test_fixtures_stand_where_they_were_recorded(tmp_path):
    import mujoco

    from srpo_env.libero.assets import check_suite, resolve_assets
    from srpo_env.libero.own_suites import make_suite

    task = get_task("libero_goal", 1)
    try:
        check_suite(resolve_assets(), "libero_goal")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    # A recording at the fixtures of seed 5, with the model as LIBERO's recorder saves it.
    recorder = Simulation(make_suite("x", [task.bddl_file]).tasks[0], visuals="exact")
    recorder.start(5)
    mujoco.mj_saveLastXML(str(tmp_path / "model.xml"), recorder.model)
    file = tmp_path / f"{task.name}_demo.hdf5"
    state = np.concatenate([[0.0], recorder.data.qpos, recorder.data.qvel])
    with h5py.File(file, "w") as content:
        for name in ("demo_0", "demo_1"):
            content[f"data/{name}/actions"] = np.zeros((1, 7))
            content[f"data/{name}/states"] = state[None]
        content["data/demo_0"].attrs["model_file"] = (tmp_path / "model.xml").read_text()
    simulation = Simulation(task, visuals="exact")
    initial, expected = simulation.fixtures, recorder.fixtures
    assert max(np.abs(initial[name] - expected[name]).max() for name in expected) > 0.001
    seen = []
    original = Simulation.reset

    def reset(self, state):
        seen.append(self.fixtures)
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Simulation, "reset", reset)
        rows = list(replay_file(file, task))
    assert [row.fixtures for row in rows] == ["recorded", "seed 0"]
    for name in expected:
        np.testing.assert_allclose(seen[0][name], expected[name], atol=1e-5)
        np.testing.assert_array_equal(seen[1][name], initial[name])


@pytest.mark.parametrize(
    "xml",
    ["<mujoco", "", '<!DOCTYPE a [<!ENTITY b "c">]><mujoco/>',
     '<mujoco><body name="stove" pos="1 2"/></mujoco>',
     '<mujoco><body name="stove" pos="1 2 nan"/></mujoco>',
     '<mujoco><body name="stove" pos="1 2 x"/></mujoco>'],
)  # fmt: skip
def test_a_model_that_mujoco_has_not_saved_is_one_sentence(xml):
    with pytest.raises(ValueError, match="`model_file` must be a model that MuJoCo has saved"):
        fixture_poses(xml, ["stove"])


def test_poses_are_read_from_a_model():
    xml = (
        '<mujoco><worldbody><body name="a"><body name="b" pos="1 2 3"/></body></worldbody></mujoco>'
    )
    poses = fixture_poses(xml, ["a", "b", "c"])
    assert {name: pose.tolist() for name, pose in poses.items()} == {
        "a": [0, 0, 0, 1, 0, 0, 0],
        "b": [1, 2, 3, 1, 0, 0, 0],
    }


def test_the_task_is_found_by_attribute_or_file_name(recording, tmp_path):
    assert task_of(recording) == CREAM_CHEESE
    content = recording.read_bytes()
    renamed = tmp_path / "renamed.hdf5"
    renamed.write_bytes(content)
    assert task_of(renamed) == CREAM_CHEESE
    with h5py.File(renamed, "r+") as file:
        del file["data"].attrs["bddl_file_name"]
    with pytest.raises(ValueError, match=r"of a task of LIBERO, got 'renamed\.hdf5'.*--bddl"):
        task_of(renamed)
    assert task_of(renamed.rename(tmp_path / recording.name)) == CREAM_CHEESE


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("states", lambda length: np.zeros((3, 110)), "the same number of rows, at least 1, got"),
        (
            "executed_actions",
            lambda length: np.zeros((length, 6)),
            r"must have shape \(num_steps, 7\)",
        ),
        ("states", lambda length: None, "must have `actions` and `states`"),
    ],
)
def test_files_that_cannot_be_replayed_are_one_sentence(name, make, message, recording, tmp_path):
    file = tmp_path / recording.name
    file.write_bytes(recording.read_bytes())
    with h5py.File(file, "r+") as content:
        value = make(len(content[f"data/demo_0/{name}"]))
        del content[f"data/demo_0/{name}"]
        if value is not None:
            content[f"data/demo_0/{name}"] = value
    with pytest.raises(ValueError, match=message) as raised:
        list(read_actions(file))
    assert file.name in str(raised.value)


def test_states_of_another_task_are_one_sentence(demo):
    simulation = Simulation(get_task("libero_object", 0), visuals="fast")
    short = RecordedActions("x", demo.actions, demo.states[:, :-1])
    with pytest.raises(ValueError, match="belong to another task"):
        replay(simulation, short)
