"""Long runs of the LIBERO vector environment: memory, file handles and processes stay flat."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.libero.suites import Suite, tasks_of
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = [pytest.mark.libero, pytest.mark.exhaustive]

NUM_EPISODES = 10_000
NUM_WARMUP = 1_000


def usage(pids):
    """Memory in MB, open file handles, and threads of each process; and this process's children."""
    numbers = [
        dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        for pid in pids
    ]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "memory": [int(number["VmRSS"].split()[0]) / 1024 for number in numbers],
        "handles": [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids],
        "threads": [int(number["Threads"]) for number in numbers],
        "children": len(children),
    }


def test_ten_thousand_episodes_take_no_more_memory_than_one_thousand():
    envs = LiberoVectorEnv(
        num_envs=4,
        num_workers=2,
        chunk=1,
        max_steps=1,
        cameras=("agentview",),
        image_size=32,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    envs.reset(seed=0)
    pids = [os.getpid(), *envs.worker_pids]
    actions = np.zeros(envs.action_space.shape)
    start = time.monotonic()
    num_episodes, before = 0, None
    while num_episodes < NUM_EPISODES:
        _, _, _, truncations, infos = envs.step(actions)
        assert truncations.all()
        assert "worker_error" not in infos
        num_episodes += envs.num_envs
        if before is None and num_episodes >= NUM_WARMUP:
            before = usage(pids)
        if num_episodes % 1_000 == 0:
            print(num_episodes, f"{time.monotonic() - start:.0f} s", usage(pids), flush=True)
    after = usage(pids)
    assert envs.worker_pids == pids[1:]
    envs.close()
    for name in ("handles", "threads", "children"):
        assert (np.array(after[name]) <= before[name]).all(), name
    growth = np.array(after["memory"]) / before["memory"]
    assert (growth < 1.05).all(), (before, after)


def test_ten_thousand_episodes_of_forty_tasks_take_no_more_memory_than_the_first_of_each(
    libero_assets,
):
    # More tasks than a process keeps, one after the other: each is built again in each round.
    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    tasks = tuple(task for suite in suites for task in tasks_of(suite))
    suite = Suite("forty", tasks, max_steps=280)
    envs = LiberoVectorEnv(
        suite,
        num_envs=5,
        num_workers=1,
        chunk=2,
        cameras=("agentview",),
        settle_steps=0,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    pids = [os.getpid(), *envs.worker_pids]
    actions = np.zeros(envs.action_space.shape)
    start = time.monotonic()
    num_episodes, usages = 0, []
    while num_episodes < NUM_EPISODES:
        for task_id in range(len(tasks)):
            for first in (0, 5):
                ids = {"task_id": task_id, "init_state_id": np.arange(first, first + 5)}
                envs.reset(options=ids)
                *_, infos = envs.step(actions)
                assert "worker_error" not in infos
            num_episodes += 10
            if num_episodes % 1_000 == 0 or num_episodes == 10 * len(tasks):
                usages.append(usage(pids))
                print(num_episodes, f"{time.monotonic() - start:.0f} s", usages[-1], flush=True)
    assert envs.worker_pids == pids[1:]
    envs.close()
    for name in ("handles", "threads", "children"):
        assert (np.array(usages[-1][name]) <= usages[0][name]).all(), name
    growth = np.array(usages[-1]["memory"]) / usages[0]["memory"]
    assert (growth < 1.05).all(), usages


def test_replaced_workers_leave_nothing_behind():
    envs = LiberoVectorEnv(num_envs=1, chunk=1, cameras=(), autoreset_mode=AutoresetMode.DISABLED)
    usages = []
    for number in range(21):
        envs.reset(options={"task_id": 0})
        if number:
            assert not envs.step(np.zeros((1, 1, 7)))[3].any()
        usages.append(usage([os.getpid()]))
        os.kill(envs.worker_pids[0], signal.SIGKILL)
        if number < 20:
            assert envs.step(np.zeros((1, 1, 7)))[3].all()
    envs.close()
    for name in ("handles", "threads", "children"):
        assert usages[-1][name] == usages[1][name], name
    assert usages[-1]["memory"][0] < 1.05 * usages[1]["memory"][0]
