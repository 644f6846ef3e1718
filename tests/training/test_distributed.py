"""Two learners: they compute what one computes from the same groups, and end together."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.vla_grpo import Args
from srpo_env.training.distributed import Ranks
from srpo_env.training.rank_state import PerRank
from tests.training.rank_cases import (
    UPDATES,
    Counter,
    batches,
    compute,
    described,
    die,
    played,
    run_ranks,
    toy_run,
    updated,
)
from tests.training.runs import assert_same_run, metrics_of, only_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two ranks has computed."""
    folder = tmp_path_factory.mktemp("ranks")
    for ended in run_ranks(compute, folder):
        assert ended.exit_code == 0, ended.errors
    return [torch.load(folder / f"results{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", UPDATES)
def test_two_ranks_update_as_one_with_the_same_groups(results, name):
    both = [pair for batch in batches() for pair in batch]
    metrics, weights = updated(name, both)
    assert metrics["charts/gradient_steps"] > 0
    for result in results:
        found, own = result["updates"][name]
        assert found == pytest.approx(metrics, rel=1e-3, abs=1e-6)
        for key, value in weights.items():
            torch.testing.assert_close(own[key], value, rtol=0, atol=1e-5)
    if name == "target":  # both undo the same step
        assert metrics["charts/update_completed"] < 1


def test_ranks_end_an_update_with_the_same_bits(results):
    for name in UPDATES:
        first, second = (result["updates"][name] for result in results)
        assert first[0] == second[0]
        for key, value in first[1].items():
            assert value.equal(second[1][key])


def test_ranks_compare_failures_with_the_successes_of_their_task_in_all_ranks(results):
    expected = described(played("task", [0, 1, 2, 3])[1])
    alone = described(played("task", [0, 1])[1])
    for rank, result in enumerate(results):
        found = result["groups"]["task"]
        assert found["all"] == expected
        assert found["own"] == expected[2 * rank : 2 * rank + 2]
    assert alone != expected[:2]


def test_ranks_remember_the_successes_of_the_others(results):
    # The first rank has had no success of its own to compare its failures with.
    assert max(played("memory", [0, 1])[1][0].rewards) == 0
    for result in results:
        walked, stayed = result["groups"]["memory"]["next"]
        assert 0 < stayed < walked
    assert results[0]["groups"]["group"]["next"] == [0.0, 0.0]


def test_groups_stay_as_they_are_without_a_shared_reference(results):
    for rank, result in enumerate(results):
        expected = described(played("group", [2 * rank, 2 * rank + 1])[1])
        np.testing.assert_equal(result["groups"]["group"]["own"], expected)


def test_ranks_agree_on_success_rates_and_sums_and_draw_different_numbers(results):
    assert [result["groups"]["group"]["rates"] for result in results] == [[0.25, 0.75]] * 2
    assert [result["sum"] for result in results] == [[0.2, 1.0]] * 2
    seeds = [seed for result in results for seed in result["seeds"]]
    assert seeds[:2] == [3, 4]
    assert len(set(seeds)) == 4


def test_each_rank_gets_its_own_state_back_from_one_checkpoint(results):
    assert [(result["counter"], result["records"]) for result in results] == [(10, 1), (11, 1)]


def test_a_rank_that_dies_ends_the_others_with_one_sentence(tmp_path):
    first, second = run_ranks(die, tmp_path)
    assert second.exit_code == 7
    assert first.exit_code == 2
    assert "Stopped: another rank has ended or does not answer" in first.errors
    assert "To resume: python agents/test.py --resume" in first.errors
    assert "Traceback" not in first.errors


# --- Whole runs of the agent ---


def run_agent(folder, **settings):
    """Trains two ranks on the toy suite; returns the folder of the run, and the outputs."""
    folder.mkdir(exist_ok=True)
    both = run_ranks(toy_run, folder, **settings)
    for ended in both:
        assert ended.exit_code == 0, ended.errors
    return only_folder(folder / "runs"), [ended.output for ended in both]


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
def test_a_run_of_two_ranks_resumes_to_the_bit_and_only_the_first_one_prints(tmp_path, reference):
    settings = {"reference": reference, "replay_steps": 2, "evaluates": False}
    whole, outputs = run_agent(tmp_path / "whole", iterations=2, **settings)
    assert outputs[0].count("steps/s") == 2
    assert outputs[1] == ""
    part, _ = run_agent(tmp_path / "parts", iterations=1, **settings)
    run_agent(tmp_path / "parts", iterations=2, resume=part, **settings)
    assert_same_run(whole, part)
    last = metrics_of(whole)[-1]
    assert last["rollout/num_groups"] >= 2  # of both ranks together
    assert last["charts/gradient_steps"] > 0


def test_torchrun_starts_the_ranks(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = ["--nproc-per-node", "2", "-m", "tests.training.rank_cases", str(tmp_path)]
    done = subprocess.run(
        [*torchrun, *script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps/s") == 1
    assert done.stdout.count("of 4 episodes") == 2  # before and after, each rank ran two of them
    assert metrics_of(only_folder(tmp_path / "runs"))[-1]["iteration"] == 1


# --- Without other ranks ---


def test_a_process_without_ranks_is_alone_and_changes_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks.join()
    assert ranks == Ranks()
    assert ranks.sum(0.1, 2) == [0.1, 2]
    assert ranks.gather("a") == ranks.gather_in_first("a") == ["a"]
    assert ranks.from_first(lambda: "a") == "a"
    assert ranks.seed(5) == 5
    assert PerRank(ranks, Counter(3)).state_dict()["value"] == 3


def test_settings_that_cannot_be_divided_among_the_ranks_are_refused():
    ranks = Ranks(rank=1, size=3)
    args = Args(num_envs=30, groups_per_iteration=12)
    assert ranks.split(args, "num_envs") == dataclasses.replace(args, num_envs=10)
    with pytest.raises(ValueError, match=r"--num-envs must be a multiple of .* 3, got 32"):
        ranks.split(Args(num_envs=32), "num_envs")


@pytest.mark.parametrize(
    ("before", "now"), [(Ranks(), Ranks(0, 2)), (Ranks(0, 2), Ranks()), (Ranks(0, 2), Ranks(0, 3))]
)
def test_a_run_is_resumed_by_as_many_ranks(before, now):
    names = ["value"] if before.size == 1 else [f"rank{n}/value" for n in range(before.size)]
    message = f"of {before.size} ranks must be resumed with as many, got {now.size}"
    with pytest.raises(ValueError, match=message):
        PerRank(now, Counter(3)).load_state_dict(dict.fromkeys(names, 1))
