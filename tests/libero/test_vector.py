import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = pytest.mark.libero

SETTINGS = {"chunk": 2, "image_size": 32, "max_steps": 4}


@pytest.fixture(scope="module")
def shared_envs():
    """Three environments in two processes; workers that a test breaks are replaced."""
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
        ({"task_id": -1}, r"0\.\.9.*got -1"),
        ({"task_id": [0, 1, -1]}, r"0\.\.9.*got -1"),
        ({"init_state_id": -1}, r"0\.\.49.*got -1; leave it out"),
        ({"init_state_id": 50}, r"0\.\.49.*got 50"),
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


def check_in_sync(envs):
    """Checks that each environment answers the command that it is sent."""
    chosen = {"task_id": np.array([0, 3, 7]), "init_state_id": np.array([3, 4, 5])}
    _, infos = envs.reset(options=chosen)
    for name, ids in chosen.items():
        np.testing.assert_array_equal(infos[name], ids)
    *_, infos = envs.step(actions_for(envs))
    np.testing.assert_array_equal(infos["control_steps"], [2, 2, 2])
    assert "worker_error" not in infos


def test_a_worker_that_replaces_another_has_the_attributes_that_were_set(shared_envs):
    shared_envs.reset(options={"task_id": 0, "init_state_id": 0})
    before = shared_envs.get_attr("max_steps")
    shared_envs.set_attr("max_steps", [8, 16, 24])
    shared_envs.set_attr("physics", "fast")
    for pid in shared_envs.worker_pids:
        os.kill(pid, signal.SIGKILL)
    assert shared_envs.step(np.zeros(shared_envs.action_space.shape))[3].all()
    assert shared_envs.get_attr("max_steps") == (8, 16, 24)
    assert shared_envs.get_attr("physics") == ("fast",) * 3
    shared_envs.set_attr("max_steps", before)
    shared_envs.set_attr("physics", "exact")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
@pytest.mark.parametrize("worker", [0, 1], ids=["of two episodes", "of one episode"])
def test_a_broken_worker_is_replaced_and_its_episodes_are_truncated(
    shared_envs, monkeypatch, caplog, worker, how
):
    shared_envs.reset(options={"task_id": 0, "init_state_id": 3})
    monkeypatch.setattr(shared_envs, "timeout", 60 if how == signal.SIGKILL else 2)
    os.kill(shared_envs.worker_pids[worker], how)
    *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
    monkeypatch.undo()
    broken = np.array([[True, True, False], [False, False, True]][worker])
    np.testing.assert_array_equal(truncations, broken)
    cause = "ended with exit code -9" if how == signal.SIGKILL else "no answer from its worker"
    for report in infos["worker_error"][broken]:
        assert "task 0, initial state 3" in report
        assert cause in report
    assert cause in caplog.text
    shared_envs.reset(options={"reset_mask": broken, "task_id": 0})
    *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(infos["control_steps"], np.where(broken, 2, 4))
    check_in_sync(shared_envs)


@pytest.mark.parametrize("name", ["missing", "simulation", "_private"])
def test_a_failing_call_leaves_no_reply_behind(shared_envs, name):
    """A missing attribute, and one that cannot be pickled."""
    shared_envs.reset(options={"task_id": 0})
    with pytest.raises(RuntimeError, match=r"environment 0 raised (Attribute|Pickling|Type)Error"):
        shared_envs.get_attr(name)
    assert not shared_envs.step(actions_for(shared_envs))[3].any()
    check_in_sync(shared_envs)


def test_a_failing_argument_is_sent_to_no_environment(shared_envs):
    with pytest.raises((AttributeError, pickle.PicklingError)):
        shared_envs.set_attr("settle_steps", [10, 10, lambda: None])
    check_in_sync(shared_envs)


@pytest.mark.parametrize("call", ["reset", "step", "get_attr"])
@pytest.mark.parametrize("num_before", [0, 1], ids=["first worker", "second worker"])
def test_an_interrupted_call_leaves_no_reply_behind(shared_envs, monkeypatch, call, num_before):
    """Ctrl-C while the parent waits for a worker."""
    check_in_sync(shared_envs)
    arguments = {"reset": (), "step": (actions_for(shared_envs),), "get_attr": ("suite",)}[call]
    with interrupted(monkeypatch, "poll", num_before), pytest.raises(KeyboardInterrupt):
        getattr(shared_envs, call)(*arguments)
    if call != "get_attr":  # nobody has seen the results
        with pytest.raises(gymnasium.error.ResetNeeded, match="interrupted"):
            shared_envs.step(actions_for(shared_envs))
        with pytest.raises(gymnasium.error.ResetNeeded, match="interrupted"):
            shared_envs.reset(options={"reset_mask": np.array([True, True, False])})
    assert shared_envs.get_attr("suite") == ("libero_object",) * 3
    if call == "get_attr":
        *_, infos = shared_envs.step(actions_for(shared_envs))
        np.testing.assert_array_equal(infos["control_steps"], [4, 4, 4])
    check_in_sync(shared_envs)


@pytest.mark.parametrize(("method", "call"), [("send", "step"), ("recv", "get_attr")])
def test_a_worker_is_replaced_if_a_transfer_was_interrupted(shared_envs, method, call, monkeypatch):
    """Half a message may be left in the connection."""
    check_in_sync(shared_envs)
    first, second = shared_envs.worker_pids
    arguments = {"step": (actions_for(shared_envs),), "get_attr": ("suite",)}[call]
    with interrupted(monkeypatch, method, 1), pytest.raises(KeyboardInterrupt):
        getattr(shared_envs, call)(*arguments)
    if call == "get_attr":  # the episode of the second worker is lost
        *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
        np.testing.assert_array_equal(truncations, [True, True, True])
        np.testing.assert_array_equal(infos["_worker_error"], [False, False, True])
    check_in_sync(shared_envs)
    assert shared_envs.worker_pids[0] == first
    assert shared_envs.worker_pids[1] != second


@contextmanager
def interrupted(monkeypatch, method, num_before):
    """Raises KeyboardInterrupt in a method of connections, after some calls that work."""
    original, num_calls = getattr(Connection, method), 0

    def interrupt(*args):
        nonlocal num_calls
        num_calls += 1
        if num_calls > num_before:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, method, interrupt)
        yield


def test_a_worker_that_dies_in_a_call_truncates_its_episodes(shared_envs):
    shared_envs.reset(options={"task_id": 0, "init_state_id": 3})
    os.kill(shared_envs.worker_pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="environment 2 raised WorkerDied"):
        shared_envs.get_attr("suite")
    *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(truncations, [False, False, True])
    assert "initial state 3) failed with WorkerDied" in infos["worker_error"][2]
    check_in_sync(shared_envs)


def test_a_masked_reset_whose_worker_dies_truncates_the_other_episodes(shared_envs):
    shared_envs.reset(options={"task_id": 0})
    os.kill(shared_envs.worker_pids[0], signal.SIGKILL)
    masked = {"reset_mask": np.array([True, False, False]), "task_id": 0}
    with pytest.raises(RuntimeError, match="could not be reset: environment 0"):
        shared_envs.reset(options=masked)
    shared_envs.reset(options=masked)
    *_, truncations, infos = shared_envs.step(actions_for(shared_envs))
    np.testing.assert_array_equal(truncations, [False, True, False])
    assert "WorkerDied" in infos["worker_error"][1]
    check_in_sync(shared_envs)


# --- Steps that are started in some environments ------------------------------------------------


def assert_same_results(results, expected):
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_equal(result, other)


FIRST = np.array([True, False, True])


@pytest.mark.parametrize("mask", [FIRST, ~FIRST, FIRST & False, FIRST | True])
def test_started_steps_return_what_plain_steps_return(shared_envs, mask):
    chosen = {"task_id": np.array([0, 3, 0]), "init_state_id": np.array([3, 4, 5])}
    shared_envs.reset(options=chosen)
    actions = [actions_for(shared_envs, seed) for seed in range(2)]
    expected = [shared_envs.step(action) for action in actions]
    shared_envs.reset(options=chosen)
    shared_envs.start_step(actions[0], mask)
    for (observations, *_), action in zip(expected, [actions[1], None], strict=True):
        found, ended = shared_envs.await_step(mask)
        assert_same_results(found.values(), [value[mask] for value in observations.values()])
        np.testing.assert_array_equal(ended, np.full(mask.sum(), action is None))
        if action is not None:  # the next step, before the first one is returned
            shared_envs.start_step(action, mask)
    assert_same_results(shared_envs.step(actions[0]), expected[0])
    assert_same_results(shared_envs.step(actions[1]), expected[1])


def test_others_can_be_reset_while_steps_are_under_way(shared_envs):
    shared_envs.reset(options={"task_id": 0, "init_state_id": 3})
    actions = actions_for(shared_envs)
    shared_envs.start_step(actions, FIRST)
    shared_envs.await_step(FIRST)
    shared_envs.start_step(actions, FIRST)
    before = shared_envs.step(actions)[0]
    options = {"reset_mask": ~FIRST, "task_id": 0, "init_state_id": 8}
    observations, infos = shared_envs.reset(options=options)
    for name, value in before.items():
        np.testing.assert_array_equal(observations[name][FIRST], value[FIRST])
    assert infos["init_state_id"][1] == 8
    *_, infos = shared_envs.step(actions)
    np.testing.assert_array_equal(infos["control_steps"], [4, 2, 4])


def test_a_reset_drops_started_steps(shared_envs):
    shared_envs.reset(options={"task_id": 0})
    shared_envs.start_step(actions_for(shared_envs), FIRST)
    check_in_sync(shared_envs)


def test_wrong_uses_of_started_steps_are_errors_without_side_effects(shared_envs):
    shared_envs.reset(options={"task_id": 0})
    actions = actions_for(shared_envs)
    with pytest.raises(ValueError, match="no step was started in environment 0"):
        shared_envs.await_step(FIRST)
    shared_envs.start_step(actions, FIRST)
    with pytest.raises(ValueError, match="environment 0 is still in a step"):
        shared_envs.start_step(actions, FIRST)
    with pytest.raises(ValueError, match=r"actions that `start_step` was given.* environment 0"):
        shared_envs.step(-actions)
    with pytest.raises(ValueError, match=r"finite.* \[1\]"):
        shared_envs.start_step(np.full_like(actions, np.nan), ~FIRST)
    with pytest.raises(ValueError, match=r"shape .*num_envs, chunk, 7"):
        shared_envs.start_step(actions[:2], ~FIRST)
    shared_envs.await_step(FIRST)
    shared_envs.start_step(actions, FIRST)
    shared_envs.await_step(FIRST)
    with pytest.raises(ValueError, match=r"at most 2 steps .* call `step`"):
        shared_envs.start_step(actions, FIRST)
    for steps in ([2, 2, 2], [4, 4, 4]):
        *_, infos = shared_envs.step(actions)
        np.testing.assert_array_equal(infos["control_steps"], steps)
    with pytest.raises(gymnasium.error.ResetNeeded, match="environment 0 has ended"):
        shared_envs.start_step(actions, FIRST)


def test_steps_are_started_only_without_autoreset():
    envs = LiberoVectorEnv(num_envs=1, **SETTINGS)
    envs.reset(options={"task_id": 0})
    with pytest.raises(ValueError, match="DISABLED"):
        envs.start_step(actions_for(envs), np.array([True]))
    envs.close()


def test_a_worker_that_dies_ends_its_started_steps(shared_envs):
    shared_envs.reset(options={"task_id": 0, "init_state_id": 3})
    actions = actions_for(shared_envs)
    shared_envs.start_step(actions, FIRST)
    shared_envs.await_step(FIRST)
    os.kill(shared_envs.worker_pids[0], signal.SIGKILL)
    shared_envs.start_step(actions, FIRST)
    # Environment 0 loses its second step, 1 its first one; 2 has another worker.
    *_, truncations, infos = shared_envs.step(actions)
    np.testing.assert_array_equal(truncations, [False, True, False])
    assert "WorkerDied" in infos["worker_error"][1]
    np.testing.assert_array_equal(shared_envs.await_step(FIRST)[1], [True, True])
    *_, infos = shared_envs.step(actions)
    np.testing.assert_array_equal(infos["_worker_error"], [True, True, False])
    check_in_sync(shared_envs)


def test_an_interrupted_wait_for_a_started_step_can_be_repeated(shared_envs, monkeypatch):
    shared_envs.reset(options={"task_id": 0})
    actions = actions_for(shared_envs)
    shared_envs.start_step(actions, FIRST)
    with interrupted(monkeypatch, "poll", 1), pytest.raises(KeyboardInterrupt):
        shared_envs.await_step(FIRST)
    shared_envs.await_step(FIRST)
    *_, infos = shared_envs.step(actions)
    np.testing.assert_array_equal(infos["control_steps"], [2, 2, 2])
    check_in_sync(shared_envs)


SCRIPT = """
import numpy as np
from srpo_env.libero.vector import LiberoVectorEnv

envs = LiberoVectorEnv(num_envs=2, num_workers=1, chunk=2, cameras=(), max_steps=4)
envs.reset(options={"task_id": 0})
print(envs.step(np.zeros((2, 2, 7)))[4]["control_steps"])
envs.close()
"""


DAEMON = """
import multiprocessing, runpy
process = multiprocessing.get_context("fork").Process(
    target=runpy.run_path, args=["script.py"], daemon=True
)
process.start()
process.join()
"""


@pytest.mark.parametrize("parent", ["file", "standard input", "daemonic process"])
def test_a_script_needs_no_main_guard(tmp_path, parent):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "daemon.py").write_text(DAEMON)
    file = {"file": "script.py", "standard input": "-", "daemonic process": "daemon.py"}[parent]
    process = subprocess.run(
        [sys.executable, file],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        input=SCRIPT if file == "-" else "",
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert process.stdout == "[2 2]\n"
    assert "Traceback" not in process.stderr


def test_workers_that_cannot_start_are_one_sentence(monkeypatch, capfd, tmp_path):
    # In the workers, a module without the function shadows the installed package.
    (tmp_path / "threadpoolctl.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    envs = LiberoVectorEnv(num_envs=2, num_workers=2, **SETTINGS)
    with pytest.raises(RuntimeError, match=r"could not be started: ImportError: .*threadpool"):
        envs.reset()
    assert envs.closed
    assert capfd.readouterr().err == ""


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
    receive = Connection.recv

    def receive_and_kill(connection):  # between the step that ends the episode and the reset
        monkeypatch.setattr(Connection, "recv", receive)
        reply = receive(connection)
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        time.sleep(0.2)
        return reply

    monkeypatch.setattr(Connection, "recv", receive_and_kill)
    *_, truncations, infos = envs.step(actions_for(envs))
    assert truncations[0]
    assert infos["final_info"]["control_steps"][0] == 4
    assert infos["control_steps"][0] == 0
    assert "worker_error" not in infos
    assert not envs.step(actions_for(envs))[3][0]
    envs.close()


def test_it_can_be_closed_twice_and_not_used_afterwards():
    envs = LiberoVectorEnv(num_envs=1, **SETTINGS)
    envs.close()
    envs.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        envs.reset()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"num_envs": 0},
        {"num_envs": 2.0},
        {"num_envs": 2, "num_workers": 3},
        {"num_workers": 0},
        {"num_workers": 1.5},
        {"suite": "libero_foo"},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"max_steps": 1.5},
    ],
)
def test_settings_out_of_range_are_errors_before_a_process_is_started(kwargs):
    with pytest.raises(ValueError, match=f"`{list(kwargs)[-1]}` must be"):
        LiberoVectorEnv(**kwargs)
