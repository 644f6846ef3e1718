import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from agents.vla_grpo import (
    Args,
    Chunk,
    ScoredGroup,
    TaskSampler,
    group_advantages,
    kl_to,
    main,
    newest_checkpoint,
    returns_of,
    surrogate_loss,
    update,
    warm_up,
)
from srpo_env import Episode, Group
from srpo_env.policy import PolicyConfig, SmallPolicy


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


def test_a_binary_reward_ignores_progress():
    group, unknown = make_group([True, False, False], [1.0, 0.6, 0.2]), np.full(3, math.nan)
    np.testing.assert_array_equal(returns_of(group, Args(reward="binary"), unknown), [1, 0, 0])
    np.testing.assert_array_equal(returns_of(group, Args(reward="srpo"), unknown), [1, 0.6, 0.2])


def test_the_true_reward_ranks_failures_by_how_far_they_came():
    group, args = make_group([False, True, False, False], [0.0] * 4), Args(reward="truth")
    returns = returns_of(group, args, np.array([0.1, 1.0, 0.7, 0.3]))
    assert returns[1] == 1.0
    assert 0 < returns[0] < returns[3] < returns[2] < 0.8


def test_without_a_success_the_true_reward_pays_nothing_either():
    group = make_group([False, False], [0.0, 0.0])
    returns = returns_of(group, Args(reward="truth"), np.array([0.1, 0.7]))
    np.testing.assert_array_equal(returns, 0.0)


def test_the_surrogate_is_the_mean_over_executed_tokens():
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
def test_the_ratio_is_clipped_where_it_would_gain(ratio, advantage, expected):
    loss = surrogate_loss(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]),
        torch.ones(1, 1, dtype=torch.bool), 0.2, 0.28,
    )  # fmt: skip
    assert loss.item() == pytest.approx(-expected)


def test_the_kl_estimate_is_zero_for_the_same_policy_and_positive_otherwise():
    same, other = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -0.5]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert kl_to(same, same, mask) == 0
    # exp(log_ratio) - 1 - log_ratio, with log-ratios of -1 and 1.5
    assert kl_to(same, other, mask).item() == pytest.approx(
        (math.exp(-1) + math.exp(1.5) - 2 - 0.5) / 2
    )


def test_tasks_between_hopeless_and_solved_are_drawn_most_and_none_is_forgotten():
    sampler = TaskSampler(3, range(40), np.random.default_rng(0), success=[0.0, 0.5, 1.0])
    tasks = [sampler.draw()[0] for _ in range(2000)]
    shares = np.bincount(tasks, minlength=3) / 2000
    np.testing.assert_allclose(shares, np.array([0.1, 0.3, 0.02]) / 0.42, atol=0.04)


def test_the_sampler_learns_a_tasks_success_rate():
    sampler = TaskSampler(2, range(40), np.random.default_rng(0))
    for _ in range(50):
        sampler.learn(make_group([True] * 4, [1.0] * 4, key=(1, 0)))
    assert sampler.success[0] == 0.5
    assert sampler.success[1] > 0.99


def test_held_out_states_are_never_drawn():
    from srpo_env.training.evaluation import HELD_OUT_STATES, TRAINING_STATES

    assert not set(HELD_OUT_STATES) & set(TRAINING_STATES)


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
    chunks = [
        [
            Chunk(
                {k: v[i] for k, v in inputs.items()},
                tokens[i],
                log_probs[i],
                torch.ones(56, dtype=torch.bool),
            )
        ]
        for i in range(len(rewards))
    ]
    group = make_group([r == 1 for r in rewards], rewards)
    return [ScoredGroup(group, chunks, np.array(rewards))], inputs, tokens


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return SmallPolicy(PolicyConfig(image_size=32))


def test_an_update_makes_the_better_episodes_actions_likelier(policy):
    batch, inputs, tokens = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    optimizer = torch.optim.SGD(policy.parameters())
    args = Args(update_epochs=1, learning_rate=1e-3, warmup_steps=1)
    before = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach()
    update(policy, None, optimizer, batch, args, torch.Generator().manual_seed(0))
    gain = policy.log_probs(inputs, tokens)[0].sum(dim=1).detach() - before
    assert gain[0] > gain[2] > gain[1]


def test_an_update_ends_where_the_policy_has_moved_as_far_as_it_may(policy):
    batch, *_ = tiny_batch(policy, [1.0, 0.1, 0.5, 0.2])
    optimizer = torch.optim.SGD(policy.parameters())
    args = Args(update_epochs=4, learning_rate=1e-3, warmup_steps=1)
    log = update(policy, None, optimizer, batch, args, torch.Generator())
    assert (log["gradient_steps"], log["completed"]) == (4, 1.0)
    args.target_kl = -1.0  # further than that at once
    log = update(policy, None, optimizer, batch, args, torch.Generator())
    assert (log["gradient_steps"], log["completed"]) == (0, 0.0)


def test_the_learning_rate_rises_over_the_first_steps_and_stays():
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
    again.load_state_dict(optimizer.state_dict())  # a run that goes on is warm
    warm_up(again, Args(learning_rate=0.4, warmup_steps=8))
    assert again.param_groups[0]["lr"] == pytest.approx(0.4 * 7 / 8)


def test_a_group_without_signal_changes_nothing(policy):
    batch, *_ = tiny_batch(policy, [1.0, 1.0, 1.0])
    before = [parameter.clone() for parameter in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    assert update(policy, None, optimizer, batch, Args(), torch.Generator()) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_the_environment_may_be_named_in_any_of_its_spellings():
    names = {
        Args(env_id=name).gym_id
        for name in ("libero-object", "libero_object", "srpo_env/libero-object")
    }
    assert names == {"srpo_env/libero-object"}


def test_resuming_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume"):
        newest_checkpoint(tmp_path)


@pytest.mark.libero
@pytest.mark.slow
def test_a_resumed_run_is_equal_to_one_that_went_on_to_the_last_bit(tmp_path, policy, monkeypatch):
    # Episodes of 16 steps all fail, and an update without signal would change nothing.
    monkeypatch.setattr(
        "agents.vla_grpo.returns_of", lambda group, *_: np.arange(len(group.episodes))
    )
    policy.save(tmp_path / "start")
    common = Args(
        checkpoint=str(tmp_path / "start"), num_envs=4, num_workers=1, group_size=2,
        groups_per_iteration=1, max_groups_per_iteration=2, rollout_steps=16, eval_every=1,
        eval_episodes=2, torch_threads=1, device="cpu",
    )  # fmt: skip
    main(dataclasses.replace(common, iterations=2, run_dir=str(tmp_path / "whole")))
    main(dataclasses.replace(common, iterations=1, run_dir=str(tmp_path / "halves")))
    (half,) = (tmp_path / "halves").iterdir()
    main(dataclasses.replace(common, iterations=2, resume=str(half)))
    (whole_run,) = (tmp_path / "whole").iterdir()
    ends = [newest_checkpoint(folder) for folder in (whole_run, half)]
    for name in ("policy.safetensors", "training.safetensors"):
        whole, halves = ((end / name).read_bytes() for end in ends)
        assert whole == halves
        assert whole != (half / "checkpoints" / "iteration_0001" / name).read_bytes()
    rngs = [json.loads((end / "training.json").read_text())["sampler_rng"] for end in ends]
    assert rngs[0] == rngs[1]
