"""Simulator processes that are killed, hang or run out of memory, 100 times in one run."""

from __future__ import annotations

import os
import random
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = [pytest.mark.libero, pytest.mark.exhaustive]

NUM_FAULTS = 100
OPTIONS = {"task_id": 0, "init_state_id": 0}


def children():
    """Process ids of all child processes, ended ones that were not waited for included."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def num_files():
    return len(os.listdir("/proc/self/fd"))


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def hang(pid):
    os.kill(pid, signal.SIGSTOP)


def run_out_of_memory(pid):
    # What the process has already stays; its next large allocation fails.
    resource.prlimit(pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))


def get_memory_back(pid):
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_episodes_of_broken_workers_are_truncated_and_nothing_is_counted_twice():
    before = children()
    libero = LiberoVectorEnv(
        num_envs=2, num_workers=2, autoreset_mode=AutoresetMode.DISABLED, timeout=10,
        chunk=2, image_size=32, max_steps=6,
    )  # fmt: skip
    envs = SelfReferentialProgressWrapper(libero, PixelEncoder(), group_size=4)
    rng, actions = random.Random(0), np.random.default_rng(0)
    envs.reset(options=OPTIONS)
    num_faults = 0
    finished, scored, broken_ids, files = [], [], [], []
    while num_faults < NUM_FAULTS:
        slot = None
        if rng.random() < 0.6:
            slot = rng.randrange(2)
            fault = rng.choices([kill, hang, run_out_of_memory], [6, 1, 3])[0]
            pid = libero.worker_pids[slot]
            fault(pid)
            num_faults += 1
        _, _, terminations, truncations, infos = envs.step(
            actions.uniform(-1, 1, envs.action_space.shape)
        )
        if slot is not None and libero.worker_pids[slot] == pid:
            get_memory_back(pid)  # it did not need any, or has reported the error
        ended = terminations | truncations
        broken = infos.get("_worker_error", np.zeros(2, dtype=bool))
        if slot is None:
            assert not broken.any()
        elif fault is not run_out_of_memory or broken.any():
            np.testing.assert_array_equal(broken, np.arange(2) == slot)
            assert truncations[slot]
            assert "task 0, initial state 0" in infos["worker_error"][slot]
        ids = infos["episode_id"]
        finished += ids[ended & ~broken].tolist()
        broken_ids += ids[broken].tolist()
        for group in envs.pop_groups():
            assert len(group.episodes) == 4
            scored += [episode.episode_id for episode in group.episodes]
        assert len(children() - before) <= 3  # two workers, Python's resource tracker
        files.append(num_files())
        if ended.any():
            envs.reset(options={"reset_mask": ended, **OPTIONS})
    envs.close_groups()
    scored += [episode.episode_id for group in envs.pop_groups() for episode in group.episodes]
    assert sorted(scored) == sorted(set(finished))
    assert not set(scored) & set(broken_ids)
    assert max(files[5:]) <= max(files[:5])
    pids = set(libero.worker_pids)
    envs.close()
    assert not pids & children()
    print(f"{num_faults} faults, {len(broken_ids)} broken episodes, {len(scored)} scored episodes")
