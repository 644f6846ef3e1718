import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task

pytestmark = pytest.mark.libero

SIZE = 32  # most of these tests do not look at images
CHUNK = np.zeros((2, 7), np.float32)


@pytest.fixture
def env():
    env = LiberoEnv(chunk=2, image_size=SIZE)
    yield env
    env.close()


def start(env, task_id=0, init_state_id=0):
    return env.reset(options={"task_id": task_id, "init_state_id": init_state_id})


@pytest.mark.filterwarnings("ignore:.*Box observation space (min|max)imum value:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes:UserWarning")
def test_it_passes_gymnasiums_check():
    check_env(LiberoEnv(chunk=2, image_size=SIZE))


def test_it_is_registered_with_gymnasium():
    env = gymnasium.make("srpo_env/libero-object", chunk=4, image_size=SIZE)
    assert env.unwrapped.suite == "libero_object"
    assert env.action_space.shape == (4, 7)
    env.close()


def test_info_has_task_instruction_and_initial_state(env):
    _, info = start(env, task_id=3, init_state_id=7)
    assert info["task_id"] == 3
    assert info["init_state_id"] == 7
    assert info["task"] == get_task("libero_object", 3).instruction
    assert info["is_success"] is False


def test_missing_reset_options_are_drawn_from_the_seed(env):
    drawn = [env.reset(seed=5)[1] for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_episodes_are_reproducible(env):
    def run():
        start(env)
        rng = np.random.default_rng(0)
        return [env.step(rng.uniform(-1, 1, (2, 7)))[0] for _ in range(3)]

    for first, second in zip(run(), run(), strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_episodes_of_one_process_do_not_affect_each_other(env):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (4, 2, 7))
    start(env)
    alone = [env.step(action)[0] for action in actions]
    start(env)
    other = LiberoEnv(chunk=2, image_size=SIZE)
    start(other, init_state_id=9)
    for action, expected in zip(actions, alone, strict=True):
        observation = env.step(action)[0]
        other.step(-action)
        for name in expected:
            np.testing.assert_array_equal(observation[name], expected[name])


def test_the_images_are_upright(env):
    # The robot's base, white and grey, is at the far end of the floor, in the upper half.
    observation, _ = start(env)
    image = observation["agentview"].astype(int)
    floor = np.median(image[SIZE // 2 :].reshape(-1, 3), axis=0)
    unlike_floor = np.abs(image - floor).sum(axis=2)[:, SIZE // 3 : -SIZE // 3]
    assert unlike_floor[: SIZE // 4].mean() > unlike_floor[-SIZE // 8 :].mean()


def test_without_cameras_nothing_is_rendered_and_states_are_equal(env, monkeypatch):
    start(env)
    seeing = env.step(CHUNK)[0]
    blind = LiberoEnv(chunk=2, image_size=SIZE, cameras=())
    monkeypatch.setattr(Simulation, "render", lambda *_: pytest.fail("rendered"))
    start(blind)
    observation = blind.step(CHUNK)[0]
    assert list(observation) == list(blind.observation_space) == ["proprio"]
    np.testing.assert_array_equal(observation["proprio"], seeing["proprio"])


@pytest.mark.parametrize("cameras", ["wrist", ["frontview"]])
def test_an_unknown_camera_is_an_error(cameras):
    with pytest.raises(ValueError, match="`cameras` must be names from agentview, wrist, got"):
        LiberoEnv(cameras=cameras)


def test_actions_move_the_gripper_in_their_direction(env):
    start(env)
    before = env.simulation.proprio()
    for _ in range(5):
        env.step(np.tile(np.array([0, 0, 1, 0, 0, 0, -1]), (2, 1)))
    moved = env.simulation.proprio()[:3] - before[:3]
    assert moved[2] > 0.1
    assert np.abs(moved[:2]).max() < 0.02


def test_an_episode_is_truncated_at_the_limit_within_a_chunk():
    env = LiberoEnv(chunk=4, image_size=SIZE, max_steps=6)
    start(env)
    assert env.step(np.zeros((4, 7)))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(np.zeros((4, 7)))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["control_steps"] == 6
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((4, 7)))


def test_max_progress_is_the_maximum_of_the_episode():
    env = LiberoEnv(chunk=8, cameras=(), true_progress=True)
    seen = [start(env)[1]["max_progress"]]
    # Down towards the floor, and up again: the maximum stays.
    for height in (-1.0, -1.0, 1.0, 1.0):
        action = np.zeros((8, 7), np.float32)
        action[:, 2] = height
        seen.append(env.step(action)[4]["max_progress"])
    assert seen[0] < seen[1] < 0.2
    assert seen == sorted(seen)
    assert seen[-1] == seen[-2]
    assert start(env)[1]["max_progress"] == seen[0]
    env.close()


def test_without_true_progress_there_is_no_max_progress(env):
    assert "max_progress" not in start(env)[1]


@pytest.mark.parametrize(
    ("suite", "task_id"),
    [("libero_object", 0), ("libero_spatial", 0), ("libero_goal", 1), ("libero_10", 2)],
)
def test_max_progress_includes_every_control_step(suite, task_id):
    from srpo_env.libero.experts import make_expert
    from srpo_env.libero.oracle import OracleProgress

    watched = LiberoEnv(suite, chunk=1, cameras=(), true_progress=True)
    start(watched, task_id)
    oracle = OracleProgress(watched.simulation)
    expert, maximum = make_expert(watched.simulation), oracle.measure()
    for _ in range(60):
        _, _, terminated, _, info = watched.step(expert.act()[None].astype(np.float32))
        maximum = max(maximum, oracle.measure())
        assert info["max_progress"] == pytest.approx(maximum, abs=1e-9)
        if terminated:
            break
    assert maximum > 0.3
    watched.close()


def test_success_terminates_with_reward_one(env):
    start(env)
    simulation = env.simulation
    target, basket = simulation.objects_of_interest
    address = simulation.model.body(simulation.objects[target]).jntadr[0]
    address = simulation.model.jnt_qposadr[address]
    basket_position = simulation.data.xpos[simulation.objects[basket]]
    simulation.data.qpos[address : address + 3] = basket_position + np.array(
        [0, 0, 0.1]
    )  # dropped into it
    for _ in range(20):
        _, reward, terminated, truncated, info = env.step(CHUNK)
        if terminated:
            break
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["is_success"] is True


@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 6), (3, 7)])
def test_an_action_of_the_wrong_shape_is_an_error(env, shape):
    start(env)
    with pytest.raises(ValueError, match=r"shape \(2, 7\)"):
        env.step(np.zeros(shape))


def test_an_action_with_nan_is_an_error_and_the_episode_continues(env):
    start(env)
    with pytest.raises(ValueError, match="step 1 of the chunk"):
        env.step(np.array([[0.0] * 7, [0.0] * 6 + [np.nan]]))
    env.step(CHUNK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_id": 10}, r"task_id.*0\.\.9"),
        ({"init_state_id": 50}, r"init_state_id.*0\.\.49"),
        ({"task_id": "soup"}, "task_id"),
        ({"task_id": -1}, r"task_id.*0\.\.9"),
        ({"task_id": True}, r"task_id.*0\.\.9"),
        ({"taks_id": 1}, "taks_id"),
    ],
)
def test_a_reset_to_an_unknown_task_or_state_is_an_error(env, options, message):
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chunk": 0}, "chunk"),
        ({"image_size": 481}, "image_size"),
        ({"image_size": 128.0}, "`image_size` must be an integer"),
        ({"settle_steps": -1}, "`settle_steps` must be an integer and at least 0, got -1"),
        ({"max_steps": 0}, "`max_steps` must be an integer and at least 1, got 0"),
        ({"max_steps": -5}, "`max_steps` must be an integer and at least 1, got -5"),
        ({"max_steps": 1.5}, "`max_steps` must be an integer and at least 1, got 1.5"),
        ({"max_steps": True}, "`max_steps` must be an integer and at least 1, got True"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_settings_out_of_range_are_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LiberoEnv(**kwargs)


def test_a_step_before_the_first_reset_is_an_error(env):
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(CHUNK)


def test_it_can_be_closed_twice(env):
    start(env)
    env.close()
    env.close()
