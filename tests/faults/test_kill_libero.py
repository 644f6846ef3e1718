"""LIBERO runs that are killed with SIGKILL at random moments."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from agents import vla_grpo
from agents.vla_grpo import Args
from tests.agents.test_vla_grpo import NoEvaluation, with_some_reward
from tests.faults.interrupted_runs import InterruptedRun
from tests.policy.fakes import make_policy

pytestmark = [pytest.mark.libero, pytest.mark.exhaustive]

NUM_KILLS = 10


def train(args):
    # Short episodes all fail, and an update without signal would change nothing.
    vla_grpo.rewarded = with_some_reward
    vla_grpo.HeldOutEvaluation = NoEvaluation
    vla_grpo.main(args)


def make_run(folder):
    folder.mkdir()
    make_policy().save(folder / "start")
    args = Args(
        checkpoint=str(folder / "start"), num_envs=3, num_workers=1, group_size=2,
        groups_per_iteration=1, max_groups_per_iteration=2, rollout_steps=16, eval_every=99,
        eval_episodes=1, torch_threads=1, device="cpu", iterations=8, run_dir=folder / "runs",
        encoder="pixels", credit="episode", replay_steps=0,
    )  # fmt: skip
    return InterruptedRun(args, train)


def simulators():
    """Process ids of LIBERO's workers, of any run."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"spawn_main" in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
    return set(pids)


def wait_for_the_end_of(pids):
    """Waits until no process is left: a worker finishes its command before it ends."""
    deadline = time.monotonic() + 60
    while left := pids & simulators():
        assert time.monotonic() < deadline, f"processes {left} are still running"
        time.sleep(0.1)


def test_ten_kills_of_a_libero_run(tmp_path):
    whole = make_run(tmp_path / "whole")
    started = time.monotonic()
    ended = whole.attempt()
    assert ended.exit_code == 0, ended.output
    seconds = time.monotonic() - started
    others, rng = simulators(), random.Random(0)
    kills = runs = 0
    while kills < NUM_KILLS:
        run = make_run(tmp_path / f"{runs}")
        runs += 1
        while True:
            last = kills >= NUM_KILLS
            ended = run.attempt(kill_after=None if last else rng.uniform(0.2, 0.8) * seconds)
            if ended.exit_code == 0:
                break
            assert ended.exit_code == -9, ended.output
            kills += 1
            wait_for_the_end_of(simulators() - others)
        run.assert_equals(whole)
    print(f"{kills} kills in {runs} runs, all resumed to the bit")
