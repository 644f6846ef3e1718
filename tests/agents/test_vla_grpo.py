import dataclasses
import math

import numpy as np
import pytest
import torch

from agents.vla_grpo import (
    Args,
    TaskSampler,
    group_advantages,
    kl_to,
    main,
    rewarded,
    surrogate_loss,
    update,
    warm_up,
)
from srpo_env import Episode, Group
from srpo_env.policy import PolicyConfig, SmallPolicy
from srpo_env.training.trajectories import Chunk, Trajectory
from tests.training.runs import assert_same_run, only_folder


def make_group(successes, progress_rewards, key=(0, 0)):
    episodes = tuple(
        Episode(
            episode_id=index, env_index=index, first_step=0, last_step=1, success=success,
            env_return=float(success), last_env_reward=float(success), distance=math.nan,
            progress_reward=reward, nearest_center=-1, latent=np.zeros(1, np.float32),
        )
        for index, (success, reward) in enumerate(zip(successes, progress_rewards, strict=True))
    )  # fmt: skip
    return Group(key, key[0], episodes, np.zeros((0, 1)), 0, 0)


def test_advantages_are_z_scores_within_the_group():
    # mean 0.5, population standard deviation 0.5
    np.testing.assert_allclose(
        group_advantages(np.array([1.0, 0.0, 0.0, 1.0])), [1, -1, -1, 1], atol=1e-5
    )


def trajectories_with(max_progress):
    return [Trajectory(0, 0, progress) for progress in max_progress]


def test_binary_reward_ignores_progress():
    group = make_group([True, False, False], [1.0, 0.6, 0.2])
    unknown = trajectories_with([math.nan] * 3)
    binary = rewarded(group, unknown, Args(reward="binary"))
    np.testing.assert_array_equal(binary.rewards, [1, 0, 0])
    assert not binary.shaped
    np.testing.assert_array_equal(rewarded(group, unknown, Args()).rewards, [1, 0.6, 0.2])


def test_oracle_reward_ranks_failures_by_progress():
    group = make_group([False, True, False, False], [0.0] * 4)
    result = rewarded(group, trajectories_with([0.1, 1.0, 0.7, 0.3]), Args(reward="oracle"))
    rewards = result.rewards
    assert rewards[1] == 1.0
    assert 0 < rewards[0] < rewards[3] < rewards[2] < 0.8
    assert result.shaped


def test_oracle_reward_of_a_group_without_success_is_zero():
    group = make_group([False, False], [0.0, 0.0])
    result = rewarded(group, trajectories_with([0.1, 0.7]), Args(reward="oracle"))
    np.testing.assert_array_equal(result.rewards, 0.0)


def test_surrogate_is_the_mean_over_executed_tokens():
    log_probs = torch.log(torch.tensor([[0.2, 0.5]]))
    old = torch.log(torch.tensor([[0.2, 0.1]]))
    mask = torch.tensor([[True, False]])  # the second token was never executed
    loss = surrogate_loss(log_probs, old, torch.tensor([2.0]), mask, 0.2, 0.28)
    assert loss.item() == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.5, 1.0, 1.28),  # a gain beyond the upper bound is not credited
        (1.5, -1.0, -1.5),  # a loss is
        (0.5, 1.0, 0.5),
        (0.5, -1.0, -0.8),  # a gain beyond the lower bound is not credited
    ],
)
def test_ratio_is_clipped_only_where_it_would_gain(ratio, advantage, expected):
    loss = surrogate_loss(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]),
        torch.ones(1, 1, dtype=torch.bool), 0.2, 0.28,
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


def test_tasks_with_mixed_outcomes_are_sampled_most_and_all_are_sampled():
    sampler = TaskSampler(3, range(40), seed=0)
    sampler.success_rates = [0.0, 0.5, 1.0]
    tasks = [sampler.sample()[0] for _ in range(2000)]
    shares = np.bincount(tasks, minlength=3) / 2000
    np.testing.assert_allclose(shares, np.array([0.1, 0.3, 0.02]) / 0.42, atol=0.04)


def test_sampler_tracks_success_rates_by_task():
    sampler = TaskSampler(2, range(40), seed=0)
    for _ in range(50):
        sampler.update(make_group([True] * 4, [1.0] * 4, key=(1, 0)))
    assert sampler.success_rates[0] == 0.5
    assert sampler.success_rates[1] > 0.99


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
    stacked = Chunk(inputs, tokens, log_probs, mask)
    trajectories = [Trajectory(0, 0, chunks=[stacked.select(row)]) for row in range(len(rewards))]
    return [(make_group([r == 1 for r in rewards], rewards), trajectories)], inputs, tokens


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    small = {"image_size": 32, "channels": (8, 8, 8), "width": 64, "text_width": 16, "heads": 2}
    return SmallPolicy(PolicyConfig(**small))


def test_update_increases_the_probability_of_better_episodes(policy):
    batch, inputs, tokens = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    optimizer = torch.optim.SGD(policy.parameters())
    args = Args(update_epochs=1, learning_rate=1e-3, warmup_steps=1)
    before = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach()
    update(policy, None, optimizer, batch, args, torch.Generator().manual_seed(0))
    gain = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach() - before
    assert gain[0] > gain[2] > gain[1]


def test_update_ends_early_at_target_kl(policy):
    batch, *_ = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    optimizer = torch.optim.SGD(policy.parameters())
    args = Args(update_epochs=4, learning_rate=1e-3, warmup_steps=1)
    log = update(policy, None, optimizer, batch, args, torch.Generator())
    assert (log["charts/gradient_steps"], log["charts/update_completed"]) == (4, 1.0)
    args = dataclasses.replace(args, target_kl=1e-9)  # the policy has already moved further
    log = update(policy, None, optimizer, batch, args, torch.Generator())
    assert (log["charts/gradient_steps"], log["charts/update_completed"]) == (0, 0.0)


def test_learning_rate_warms_up_linearly_also_across_a_resume():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    rates = []
    for _ in range(6):
        warm_up(optimizer, Args(learning_rate=0.4, warmup_steps=4))
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    again = torch.optim.AdamW([weight], lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    warm_up(again, Args(learning_rate=0.4, warmup_steps=8))
    assert again.param_groups[0]["lr"] == pytest.approx(0.4 * 7 / 8)


def test_group_without_signal_changes_nothing(policy):
    batch, *_ = tiny_batch(policy, [1.0, 1.0, 1.0])
    before = [parameter.clone() for parameter in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    assert update(policy, None, optimizer, batch, Args(), torch.Generator()) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_env_id_is_accepted_in_any_spelling():
    names = {
        Args(env_id=name).gym_id
        for name in ("libero-object", "libero_object", "srpo_env/libero-object")
    }
    assert names == {"srpo_env/libero-object"}


@pytest.mark.libero
@pytest.mark.slow
def test_stopped_libero_run_resumes_to_the_bit(tmp_path, policy, monkeypatch):
    # Episodes of 16 control steps all fail, and an update without signal would change nothing.
    monkeypatch.setattr("agents.vla_grpo.rewarded", with_some_reward)
    policy.save(tmp_path / "start")

    def settings(folder, **changed):
        return Args(**{
            "checkpoint": str(tmp_path / "start"), "num_envs": 3, "num_workers": 1,
            "group_size": 2, "groups_per_iteration": 1, "max_groups_per_iteration": 2,
            "rollout_steps": 16, "eval_every": 9, "eval_episodes": 1, "torch_threads": 1,
            "device": "cpu", "iterations": 2, "run_dir": tmp_path / folder, **changed,
        })  # fmt: skip

    # Evaluations would take most of the time.
    monkeypatch.setattr("agents.vla_grpo.HeldOutEvaluation", NoEvaluation)
    main(settings("whole"))
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


def with_some_reward(group, trajectories, args):
    rewards = np.linspace(0, 1, len(group.episodes))
    episodes = zip(group.episodes, rewards, strict=True)
    return dataclasses.replace(
        group,
        episodes=tuple(dataclasses.replace(e, progress_reward=float(x)) for e, x in episodes),
    )
