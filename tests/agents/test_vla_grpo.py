import dataclasses
import math

import numpy as np
import pytest
import torch

from agents.vla_grpo import (
    Args,
    group_advantages,
    kl_to,
    main,
    surrogate_loss,
    update,
)
from srpo_env.policy import PolicyConfig, SmallPolicy, load_policy
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.trajectories import Chunk, Trajectory
from srpo_env.training.trust_region import TrustRegion
from tests.training.groups import make_group
from tests.training.runs import assert_same_run, only_folder


def test_advantages_are_z_scores_within_the_group():
    # mean 0.5, population standard deviation 0.5
    np.testing.assert_allclose(
        group_advantages(np.array([1.0, 0.0, 0.0, 1.0])), [1, -1, -1, 1], atol=1e-5
    )


def test_surrogate_is_the_mean_over_executed_tokens():
    log_probs = torch.log(torch.tensor([[0.2, 0.5]]))
    old = torch.log(torch.tensor([[0.2, 0.1]]))
    mask = torch.tensor([[True, False]])  # the second token was never executed
    loss = surrogate_loss(log_probs, old, torch.tensor([2.0]), mask, 0.2, 0.28, 3.0)
    assert loss.item() == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, 1.28),  # a gain beyond the upper bound is not credited
        (1.5, -1.0, -1.5),  # a loss is
        (0.5, 1.0, 0.5),
        (0.5, -1.0, -0.8),  # a gain beyond the lower bound is not credited
        (9.0, -1.0, -3.0),  # a loss is bounded
    ],
)
def test_ratio_is_clipped_only_where_it_would_gain(ratio, advantage, expected):
    loss = surrogate_loss(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]),
        torch.ones(1, 1, dtype=torch.bool), 0.2, 0.28, 3.0,
    )  # fmt: skip
    assert loss.item() == pytest.approx(-expected)


def test_kl_estimate_is_zero_only_for_the_same_policy():
    same, other = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -0.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert kl_to(same, same, mask) == 0
    # exp(log_ratio) - 1 - log_ratio, with log-ratios of -1 and 1.5
    assert kl_to(same, other, mask).item() == pytest.approx(
        (math.exp(-1) + math.exp(1.5) - 2 - 0.5) / 2
    )


def tiny_batch(policy, rewards):
    """One chunk per episode; the policy's own sample."""
    torch.manual_seed(0)
    size = policy.config.image_size
    observations = {
        "agentview": np.zeros((len(rewards), size, size, 3), np.uint8),
        "wrist": np.zeros((len(rewards), size, size, 3), np.uint8),
        "proprio": np.random.default_rng(0).standard_normal((len(rewards), 8)).astype(np.float32),
    }
    inputs = policy.prepare(observations, ["pick up the milk"] * len(rewards))
    tokens, log_probs = policy.sample(inputs)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    measured = torch.zeros(len(rewards), 8, 3), torch.full((len(rewards),), math.nan)
    stacked = Chunk(inputs, tokens, log_probs, mask, *measured)
    trajectories = [Trajectory(0, 0, chunks=[stacked.select(row)]) for row in range(len(rewards))]
    return [(make_group([r == 1 for r in rewards], rewards), trajectories)], inputs, tokens


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    small = {"image_size": 32, "channels": (8, 8, 8), "width": 64, "text_width": 16, "heads": 2}
    return SmallPolicy(PolicyConfig(**small))


def region_of(policy, target_kl=math.inf, rate=1e-2):
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)
    return TrustRegion(policy, optimizer, target_kl, rate)


@pytest.mark.parametrize("credit", ["episode", "dense"])
def test_update_increases_the_probability_of_better_episodes(policy, credit):
    batch, inputs, tokens = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    args = Args(update_epochs=1, credit=credit, reward="binary", temperature=1.0)
    before = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach()
    update(policy, None, region_of(policy), batch, args, torch.Generator().manual_seed(0))
    gain = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach() - before
    assert gain[0] > gain[1:].max()
    if credit == "episode":
        assert gain[2] > gain[1]


def test_update_ends_at_target_kl_and_undoes_the_last_step(policy):
    batch, *_ = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    args = Args(update_epochs=4, credit="episode")
    log = update(policy, None, region_of(policy), batch, args, torch.Generator())
    assert (log["charts/gradient_steps"], log["charts/update_completed"]) == (4, 1.0)
    before = [parameter.clone() for parameter in policy.parameters()]
    # A step whose KL is far above the rounding error of float32 (1e-6 for a decision).
    region = region_of(policy, 1e-4, rate=20.0)
    log = update(policy, None, region, batch, args, torch.Generator())
    assert (log["charts/gradient_steps"], log["charts/update_completed"]) == (0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("credit", ["episode", "dense"])
def test_group_without_signal_changes_nothing(policy, credit):
    batch, *_ = tiny_batch(policy, [1.0, 1.0, 1.0])
    before = [parameter.clone() for parameter in policy.parameters()]
    args = Args(credit=credit)
    assert update(policy, None, region_of(policy), batch, args, torch.Generator()) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_env_id_is_accepted_in_any_spelling():
    names = {
        Args(env_id=name).gym_id
        for name in ("libero-object", "libero_object", "srpo_env/libero-object")
    }
    assert names == {"srpo_env/libero-object"}


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
def test_stopped_libero_run_resumes_to_the_bit(tmp_path, policy, monkeypatch, overlap):
    # Episodes of 16 control steps all fail, and an update without signal would change nothing.
    monkeypatch.setattr("agents.vla_grpo.rewarded", with_some_reward)
    policy.save(tmp_path / "start")

    def settings(folder, **changed):
        return Args(**{
            "checkpoint": str(tmp_path / "start"), "num_envs": 3, "num_workers": 1,
            "group_size": 2, "groups_per_iteration": 1, "max_groups_per_iteration": 2,
            "rollout_steps": 16, "eval_every": 9, "eval_episodes": 1, "torch_threads": 1,
            "device": "cpu", "iterations": 2, "run_dir": tmp_path / folder, "overlap": overlap,
            "credit": "episode", **changed,
        })  # fmt: skip

    # Evaluations would take most of the time.
    monkeypatch.setattr("agents.vla_grpo.HeldOutEvaluation", NoEvaluation)
    main(settings("whole"))
    trained = load_policy(newest_checkpoint(only_folder(tmp_path / "whole")) / "policy")
    pairs = zip(trained.parameters(), policy.parameters(), strict=True)
    assert any(not after.equal(before) for after, before in pairs)
    main(settings("parts", iterations=1))
    part = only_folder(tmp_path / "parts")
    main(settings("parts", resume=part))
    assert_same_run(only_folder(tmp_path / "whole"), part)


class NoEvaluation:
    def __init__(self, envs, *_, **__):
        # Episodes end at different times, so some are running at the end of each iteration.
        envs.set_attr("max_steps", [8, 16, 24])

    def is_due(self, run):
        return False


def with_some_reward(group, *_):
    rewards = np.linspace(0, 1, len(group.episodes))
    episodes = zip(group.episodes, rewards, strict=True)
    return dataclasses.replace(
        group,
        episodes=tuple(dataclasses.replace(e, progress_reward=float(x)) for e, x in episodes),
    )
