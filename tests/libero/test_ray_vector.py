"""Simulators as Ray actors, on a cluster of two node processes of this machine."""

import logging
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.libero.vector import LiberoVectorEnv

ray = pytest.importorskip("ray", reason="needs Ray: run `pip install 'srpo-env[ray]'`")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.libero, pytest.mark.slow]

SETTINGS = {
    "num_envs": 3, "num_workers": 2, "chunk": 2, "image_size": 32, "max_steps": 6,
    "autoreset_mode": AutoresetMode.DISABLED,
}  # fmt: skip
OPTIONS = {"ray_options": {"num_cpus": 0.5, "scheduling_strategy": "SPREAD"}}
MEMORY = 80 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each; the second one is killed and replaced by tests."""
    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False,
        },
    )  # fmt: skip
    try:
        # Before the second node exists: of several nodes of one host, Ray connects to any, and the
        # node of the driver cannot be killed.
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def envs(cluster):
    from srpo_env.libero.ray_vector import RayVectorEnv

    envs = RayVectorEnv(**SETTINGS, **OPTIONS)
    yield envs
    envs.close()


@pytest.fixture(scope="module")
def local():
    envs = LiberoVectorEnv(**SETTINGS)
    yield envs
    envs.close()


CHOSEN = {"task_id": np.array([0, 3, 0]), "init_state_id": np.array([3, 4, 5])}


def actions_for(envs, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, envs.action_space.shape)


def test_everything_equals_the_local_vector_environment(envs, local):
    assert len(set(envs.worker_nodes)) == 2
    results = []
    for vector in (envs, local):
        played = [vector.reset(options=CHOSEN)]
        played += [vector.step(actions_for(vector, seed)) for seed in range(2)]
        mask = np.array([False, True, False])
        played.append(vector.reset(options={"reset_mask": mask, "task_id": 1, "init_state_id": 7}))
        played.append(vector.step(actions_for(vector, 2)))
        results.append(played)
    for found, expected in zip(*results, strict=True):
        np.testing.assert_equal(found, expected)


def wait_for_end(pid, seconds=60):
    """Waits until a process has ended."""
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + seconds
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.1)


def test_started_steps_return_what_plain_steps_return(envs):
    first = np.array([True, False, True])
    envs.reset(options=CHOSEN)
    expected = [envs.step(actions_for(envs, seed)) for seed in range(2)]
    envs.reset(options=CHOSEN)
    envs.start_step(actions_for(envs, 0), first)
    observations, _ = envs.await_step(first)
    np.testing.assert_equal(observations, {k: v[first] for k, v in expected[0][0].items()})
    envs.start_step(actions_for(envs, 1), first)
    for seed, result in enumerate(expected):
        np.testing.assert_equal(envs.step(actions_for(envs, seed)), result)


def test_attributes_and_calls_reach_the_actors(envs):
    before = envs.get_attr("settle_steps")
    envs.set_attr("settle_steps", [1, 2, 3])
    assert envs.get_attr("settle_steps") == (1, 2, 3)
    envs.set_attr("settle_steps", list(before))
    with pytest.raises(RuntimeError, match=r"environment 0 raised AttributeError"):
        envs.get_attr("missing")
    assert envs.gl


def test_a_run_goes_on_when_a_node_is_killed_and_nothing_is_counted_twice(cluster, envs):
    wrapped = SelfReferentialProgressWrapper(envs, PixelEncoder(), group_size=2)
    same = {"task_id": 0, "init_state_id": 0}
    wrapped.reset(options=same)
    # Each node has an actor, as long as none was replaced: keep this test before those that do.
    assert len(set(envs.worker_nodes)) == 2
    doomed = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    first_slots = dict(zip(envs.worker_nodes, (0, 2), strict=True))
    lost = [first_slots[doomed.node_id]]
    pid = dict(zip(envs.worker_nodes, envs.worker_pids, strict=True))[doomed.node_id]
    finished, broken, scored = [], [], []
    for step in range(9):
        if step == 1:  # in the middle of an episode
            cluster.remove_node(doomed, allow_graceful=False)
            wait_for_end(pid)  # which follows that of its node
        *_, terminations, truncations, infos = wrapped.step(actions_for(envs, step))
        ended = terminations | truncations
        failed = infos.get("_worker_error", np.zeros(3, dtype=bool))
        finished += infos["episode_id"][ended & ~failed].tolist()
        broken += infos["episode_id"][failed].tolist()
        for group in wrapped.pop_groups():
            assert len(group.episodes) == 2
            scored += [episode.episode_id for episode in group.episodes]
        if ended.any():
            wrapped.reset(options={"reset_mask": ended, **same})
    assert len(broken) == (2 if lost == [0] else 1)
    assert len(finished) >= 6
    wrapped.close_groups()
    scored += [e.episode_id for group in wrapped.pop_groups() for e in group.episodes]
    assert sorted(scored) == sorted(set(finished))
    assert not set(scored) & set(broken)
    # Ray has started the new actor on the other node.
    assert set(envs.worker_nodes) == {cluster.head_node.node_id}


def test_an_actor_that_dies_is_replaced_and_its_episodes_are_truncated(envs, caplog):
    envs.set_attr("physics", "fast")
    envs.reset(options=CHOSEN)
    os.kill(envs.worker_pids[0], signal.SIGKILL)
    *_, truncations, infos = envs.step(actions_for(envs))
    np.testing.assert_array_equal(truncations, [True, True, False])
    np.testing.assert_array_equal(infos["_worker_error"], [True, True, False])
    assert (
        "initial state 3) failed with WorkerDied: its Ray actor ended" in infos["worker_error"][0]
    )
    assert "WorkerDied" in caplog.text
    envs.reset(options={"reset_mask": truncations, "task_id": 0})
    *_, infos = envs.step(actions_for(envs))
    np.testing.assert_array_equal(infos["control_steps"], [2, 2, 4])
    assert envs.get_attr("physics") == ("fast",) * 3  # also in the new actor
    envs.set_attr("physics", "exact")


@pytest.mark.parametrize("name", ["max_restarts", "concurrency_groups"])
def test_options_that_the_environment_sets_itself_are_refused(cluster, name):
    from srpo_env.libero.ray_vector import RayVectorEnv

    with pytest.raises(ValueError, match=f"`ray_options` must not contain {name}"):
        RayVectorEnv(ray_options={name: 1})
