import os
import signal
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.libero import vector
from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = pytest.mark.libero

SETTINGS = {"chunk": 2, "image_size": 32, "max_steps": 4}


@pytest.fixture(scope="module")
def shared_envs():
    """Three environments in two processes, for tests that do not break them."""
    envs = LiberoVectorEnv(
        num_envs=3, num_workers=2, autoreset_mode=AutoresetMode.DISABLED, **SETTINGS
    )
    yield envs
    envs.close()


def actions_for(envs, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, envs.action_space.shape)


def test_each_environment_equals_a_single_one(shared_envs):
    observations, infos = shared_envs.reset(
        options={"task_id": 0, "init_state_id": np.array([4, 5, 6])}
    )
    np.testing.assert_array_equal(infos["init_state_id"], [4, 5, 6])
    actions = actions_for(shared_envs)
    observations = shared_envs.step(actions)[0]
    single = LiberoEnv(**SETTINGS)
    for index in range(3):
        single.reset(options={"task_id": 0, "init_state_id": 4 + index})
        expected = single.step(actions[index])[0]
        for name in expected:
            np.testing.assert_array_equal(observations[name][index], expected[name])


def test_a_mask_resets_some_while_the_others_continue(shared_envs):
    shared_envs.reset(options={"task_id": 0})
    shared_envs.step(actions_for(shared_envs))
    options = {"reset_mask": np.array([False, True, False]), "task_id": 0, "init_state_id": 8}
    _, infos = shared_envs.reset(options=options)
    np.testing.assert_array_equal(infos["_init_state_id"], [False, True, False])
    assert set(options) == {
        "reset_mask",
        "task_id",
        "init_state_id",
    }  # the caller's dict is not changed
    *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(infos["control_steps"], [4, 2, 4])
    np.testing.assert_array_equal(truncations, [True, False, True])


def test_without_autoreset_an_ended_environment_waits(shared_envs):
    shared_envs.reset(options={"task_id": 0})
    shared_envs.step(actions_for(shared_envs))
    shared_envs.reset(options={"reset_mask": np.array([True, False, False]), "task_id": 0})
    ended = shared_envs.step(actions_for(shared_envs))[0]
    observations, rewards, _, truncations, infos = shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(truncations, [True, True, True])
    np.testing.assert_array_equal(infos["control_steps"], [4, 4, 4])
    np.testing.assert_array_equal(observations["proprio"][1], ended["proprio"][1])
    np.testing.assert_array_equal(rewards, 0.0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        shared_envs.step(actions_for(shared_envs))


def test_returned_arrays_are_not_changed_by_later_steps(shared_envs):
    observations, _ = shared_envs.reset(options={"task_id": 0})
    before = observations["proprio"].copy()
    shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(observations["proprio"], before)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_follows_gymnasium(mode):
    envs = LiberoVectorEnv(num_envs=1, autoreset_mode=mode, **SETTINGS)
    envs.reset(options={"task_id": 0, "init_state_id": 0})
    for _ in range(2):
        observations, _, _, truncations, infos = envs.step(actions_for(envs))
    assert truncations[0]
    if mode == AutoresetMode.SAME_STEP:
        assert infos["final_info"]["control_steps"][0] == 4
        assert infos["control_steps"][0] == 0
        assert not np.array_equal(infos["final_obs"][0]["proprio"], observations["proprio"][0])
    else:
        assert infos["control_steps"][0] == 4
        observations, rewards, _, truncations, infos = envs.step(actions_for(envs))
        assert (rewards[0], truncations[0], infos["control_steps"][0]) == (0.0, False, 0)
    envs.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_id": 10}, r"0\.\.9"),
        ({"task_id": [0, 1]}, r"shape \(3,\)"),
        ({"task_id": 0, "init_state_id": 50}, r"0\.\.49"),
        ({"task_id": 0.5}, "type int"),
        ({"reset_mask": np.ones(3)}, "type bool"),
        ({"tasks": 0}, "tasks"),
    ],
)
def test_wrong_options_are_errors_without_side_effects(shared_envs, options, message):
    shared_envs.reset(options={"task_id": 0})
    with pytest.raises(ValueError, match=message):
        shared_envs.reset(options=options)
    shared_envs.step(actions_for(shared_envs))


@pytest.mark.parametrize("bad", ["shape", "nan"])
def test_wrong_actions_are_errors_without_side_effects(shared_envs, bad):
    shared_envs.reset(options={"task_id": 0})
    actions = actions_for(shared_envs)
    if bad == "nan":
        actions[1] = np.nan
    with pytest.raises(ValueError, match=r"\[1\]" if bad == "nan" else r"num_envs, chunk, 7"):
        shared_envs.step(actions if bad == "nan" else actions[:2])
    shared_envs.step(actions_for(shared_envs))


def test_attributes_can_be_read_set_and_called(shared_envs):
    assert shared_envs.get_attr("suite") == ("libero_object",) * 3
    shared_envs.set_attr("settle_steps", [1, 2, 3])
    assert shared_envs.call("settle_steps") == (1, 2, 3)
    shared_envs.set_attr("settle_steps", 10)


def test_a_dead_worker_is_replaced_and_its_episodes_are_truncated(caplog):
    envs = LiberoVectorEnv(
        num_envs=2, num_workers=2, autoreset_mode=AutoresetMode.DISABLED, **SETTINGS
    )
    envs.reset(options={"task_id": 0, "init_state_id": 3})
    os.kill(envs.worker_pids[1], signal.SIGKILL)
    time.sleep(0.2)
    *_, truncations, infos = envs.step(actions_for(envs))
    np.testing.assert_array_equal(truncations, [False, True])
    assert "task 0, initial state 3" in infos["worker_error"][1]
    assert "initial state 3" in caplog.text
    envs.reset(options={"reset_mask": np.array([False, True]), "task_id": 0})
    assert not envs.step(actions_for(envs))[3][1]
    envs.close()


def test_a_dead_worker_with_several_episodes_is_one_failure():
    mode = AutoresetMode.DISABLED
    envs = LiberoVectorEnv(num_envs=4, num_workers=1, autoreset_mode=mode, **SETTINGS)
    envs.reset(options={"task_id": 0})
    os.kill(envs.worker_pids[0], signal.SIGKILL)
    time.sleep(0.2)
    assert envs.step(actions_for(envs))[3].all()
    envs.reset(options={"task_id": 0})
    envs.close()


def test_three_failures_of_one_kind_in_a_row_raise():
    envs = LiberoVectorEnv(
        num_envs=1, timeout=60, autoreset_mode=AutoresetMode.NEXT_STEP, **SETTINGS
    )
    envs.reset(options={"task_id": 0})

    def kill_and_step():
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        time.sleep(0.2)
        envs.step(actions_for(envs))

    kill_and_step()
    kill_and_step()
    with pytest.raises(RuntimeError, match="3 failures in a row"):
        kill_and_step()
    assert envs.closed


def test_a_failed_reset_within_a_step_is_repeated(monkeypatch):
    envs = LiberoVectorEnv(num_envs=1, autoreset_mode=AutoresetMode.SAME_STEP, **SETTINGS)
    envs.reset(options={"task_id": 0})
    envs.step(actions_for(envs))
    read = vector.read_from_shared_memory

    def read_and_kill(*arguments):  # between the step that ends the episode and the reset
        monkeypatch.setattr(vector, "read_from_shared_memory", read)
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        time.sleep(0.2)
        return read(*arguments)

    monkeypatch.setattr(vector, "read_from_shared_memory", read_and_kill)
    *_, truncations, infos = envs.step(actions_for(envs))
    assert truncations[0]
    assert infos["final_info"]["control_steps"][0] == 4
    assert infos["control_steps"][0] == 0
    assert "worker_error" not in infos
    assert not envs.step(actions_for(envs))[3][0]
    envs.close()


def test_a_hanging_worker_is_a_failure():
    envs = LiberoVectorEnv(num_envs=1, autoreset_mode=AutoresetMode.DISABLED, **SETTINGS)
    envs.reset(options={"task_id": 0})
    os.kill(envs.worker_pids[0], signal.SIGSTOP)
    envs.timeout = 0.5
    *_, infos = envs.step(actions_for(envs))
    assert "no answer" in infos["worker_error"][0]
    envs.close()


def test_it_can_be_closed_twice_and_not_used_afterwards():
    envs = LiberoVectorEnv(num_envs=1, **SETTINGS)
    envs.close()
    envs.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        envs.reset()


@pytest.mark.parametrize(
    "kwargs", [{"num_envs": 0}, {"num_envs": 2, "num_workers": 3}, {"suite": "libero_foo"}]
)
def test_settings_out_of_range_are_errors_before_a_process_is_started(kwargs):
    with pytest.raises(ValueError, match=r"num_workers|suite"):
        LiberoVectorEnv(**kwargs)
