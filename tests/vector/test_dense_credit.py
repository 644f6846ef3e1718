"""Dense credit: an episode's return is paid along its way, in the buffer that holds its end."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import TransformReward

from srpo_env import VJEPA2Encoder
from tests.corridor import (
    GIVE_UP,
    STAY,
    WALK,
    PathEncoder,
    ReadingEncoder,
    drive,
    make_corridor,
    wrap,
)

SCRIPT = [[WALK, WALK], [WALK, STAY], [WALK, GIVE_UP]]
"""A success after three steps, and next to it a failure whose first step alone makes progress."""


def play(script, *, first=0, num_envs=2, **kwargs):
    encoder = kwargs.pop("encoder", None) or PathEncoder()
    mode = kwargs.pop("mode", AutoresetMode.NEXT_STEP)
    envs = wrap(make_corridor(num_envs, mode=mode, limit=9), encoder, **kwargs)
    envs.reset(seed=0)
    return envs, np.array([result[1] for result in drive(envs, script)], np.float64)


def test_returns_are_paid_where_the_progress_is_made(mode):
    envs, rewards = play(SCRIPT, group_size=2, mode=mode)
    assert envs.rewrite(rewards, credit="dense") == 1
    # Frames at positions 0 1 2 3: uncovered are 6, 3, 1, 0. The failure walks to 1 and earns 0.4.
    np.testing.assert_allclose(rewards, [[3 / 6, 0.4], [2 / 6, 0], [1 / 6, 0]], atol=1e-12)


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
def test_every_reference_pays_the_same_sums_as_with_episode_credit(reference):
    sums = []
    for credit in ("episode", "dense"):
        envs, rewards = play(SCRIPT, group_size=2, reference=reference)
        assert envs.rewrite(rewards, credit=credit) == (reference != "memory" or credit == "dense")
        sums.append(rewards.sum(axis=0))
    np.testing.assert_allclose(sums[0], [1.0, 0.4])
    np.testing.assert_allclose(sums[1], sums[0])
    assert rewards[0, 1] == pytest.approx(0.4)


def test_episodes_hand_over_potential_steps_and_rewards_per_step():
    envs, _ = play(SCRIPT, group_size=2)
    (group,) = envs.pop_groups()
    success, failure = group.episodes
    np.testing.assert_allclose(success.potential, [0, 3 / 6, 5 / 6, 1])
    np.testing.assert_allclose(failure.potential, [0, 0.5, 0.5, 0.5])
    assert failure.potential_steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(group.step_rewards[0], [3 / 6, 2 / 6, 1 / 6])
    np.testing.assert_allclose(group.step_rewards[1], [0.4, 0, 0], atol=1e-12)
    assert success.env_rewards.tolist() == [0, 0, 1]


@pytest.mark.parametrize("max_frames", [2, 3, 5, 64])
def test_potential_steps_are_those_of_the_frames_that_the_encoder_saw(mode, max_frames):
    script = [[WALK, STAY]] * 2 + [[STAY, STAY]] * 9
    envs, _ = play(
        script, mode=mode, max_frames=max_frames, group_size=1, encoder=PathEncoder(3, weight=1.0)
    )
    envs.close_groups()
    episodes = [e for group in envs.pop_groups() for e in group.episodes]
    assert len(episodes) == 2
    for episode in episodes:
        # The second dimension of the latent is the time that the frame shows.
        assert episode.potential_steps.tolist() == episode.latent[:, 1].tolist()
        assert episode.potential_steps[-1] == episode.length == 9


def test_what_was_earned_before_the_buffer_is_paid_on_its_first_step():
    envs, rewards = play(SCRIPT, group_size=2)
    later = rewards[1:].copy()
    envs.rewrite(later, credit="dense")
    np.testing.assert_allclose(later, [[5 / 6, 0.4], [1 / 6, 0]], atol=1e-12)
    np.testing.assert_allclose(later.sum(axis=0), [1, 0.4])


def test_an_episode_that_is_still_running_is_paid_in_the_buffer_of_its_end():
    envs = wrap(make_corridor(2, limit=9), PathEncoder(), group_size=2)
    envs.reset(seed=0)
    results = drive(envs, SCRIPT)
    first = np.array([next(results)[1] for _ in range(2)])
    assert envs.rewrite(first, credit="dense") == 0
    np.testing.assert_array_equal(first, 0)
    last = next(results)[1][None].copy()
    assert envs.rewrite(last, credit="dense") == 1
    np.testing.assert_allclose(last, [[1.0, 0.4]])


def test_a_failure_without_progress_is_paid_on_its_last_step():
    envs, rewards = play([[WALK, STAY], [WALK, STAY], [WALK, GIVE_UP]], group_size=2)
    envs.rewrite(rewards, credit="dense")
    np.testing.assert_array_equal(rewards[:, 1], [0, 0, 0.4])


def test_groups_without_a_success_stay_as_they_are():
    envs, rewards = play([[STAY, WALK], [GIVE_UP, GIVE_UP]], group_size=2)
    assert envs.rewrite(rewards, credit="dense") == 0
    np.testing.assert_array_equal(rewards, 0)
    (group,) = envs.pop_groups()
    assert all(np.isnan(e.potential).all() and not e.step_rewards.any() for e in group.episodes)


def test_the_environments_own_rewards_stay_where_they_are():
    envs = TransformReward(make_corridor(2, limit=9), lambda rewards: 2 * rewards - 0.125)
    envs = wrap(envs, PathEncoder(), group_size=2)
    envs.reset(seed=0)
    rewards = np.array([result[1] for result in drive(envs, SCRIPT)], np.float64)
    own = rewards.copy()
    envs.rewrite(rewards, credit="dense")
    # The success's last step paid 1.875, which is paid along the way; the rest is not moved.
    moved = 1.875 * np.array([3 / 6, 2 / 6, 1 / 6])
    np.testing.assert_allclose(rewards[:, 0], [-0.125 + moved[0], -0.125 + moved[1], moved[2]])
    np.testing.assert_allclose(rewards[:, 1] - own[:, 1], [0.4, 0, 0], atol=1e-12)


def test_a_second_call_changes_nothing_and_a_bonus_is_found():
    envs, rewards = play(SCRIPT, group_size=2)
    bonus = rewards.copy()
    bonus[1, 0] += 0.25  # not on a last step
    before = bonus.copy()
    with pytest.raises(ValueError, match=r"`rewards`\[1, 0\] must hold the reward 0 .* got 0.25"):
        envs.rewrite(bonus, credit="dense")
    np.testing.assert_array_equal(bonus, before)
    envs.rewrite(rewards, credit="dense")
    once = rewards.copy()
    assert envs.rewrite(rewards, credit="dense") == 1
    np.testing.assert_array_equal(rewards, once)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_a_buffer_is_not_paid_twice_in_different_ways(dtype):
    envs, rewards = play(SCRIPT, group_size=2)
    dense, episode = rewards.astype(dtype), rewards.astype(dtype)
    envs.rewrite(dense, credit="dense")
    with pytest.raises(ValueError, match='rewritten with credit="dense" before'):
        envs.rewrite(dense)
    envs.rewrite(episode)
    with pytest.raises(ValueError, match="must hold the reward"):
        envs.rewrite(episode, credit="dense")


def test_small_increments_in_half_precision_are_written():
    script = [[WALK, WALK], [STAY, STAY]] * 2 + [[WALK, GIVE_UP]]
    envs, rewards = play(script, group_size=2, encoder=PathEncoder(5))
    import torch

    half, exact = torch.tensor(rewards, dtype=torch.bfloat16), rewards.copy()
    envs.rewrite(half, credit="dense")
    envs.rewrite(exact, credit="dense")
    np.testing.assert_allclose(half.float().numpy(), exact, rtol=2**-7, atol=1e-12)


def test_points_are_refused_before_anything_is_closed():
    envs, rewards = play(SCRIPT[:2], encoder=ReadingEncoder(), group_size=2)
    state = envs.state_dict()
    with pytest.raises(ValueError, match=r"Dense credit needs latents that are paths.*got \(2,\)"):
        envs.rewrite(rewards, credit="dense")
    with pytest.raises(ValueError, match="`credit` must be one of"):
        envs.rewrite(rewards, credit="sparse")
    assert envs.state_dict() == state
    (episode,) = [e for e in play(SCRIPT, group_size=2, encoder=ReadingEncoder())[0]
                  .pop_groups()[0].episodes if e.success]  # fmt: skip
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        _ = episode.step_rewards


def test_state_is_restored_in_the_middle_of_an_episode():
    expected = play(SCRIPT, group_size=2)
    expected[0].rewrite(expected[1], credit="dense")
    for stop in range(1, 4):
        base = make_corridor(2, limit=9)
        envs = wrap(base, PathEncoder(), group_size=2)
        envs.reset(seed=0)
        rewards = [result[1] for result in drive(envs, SCRIPT[:stop])]
        state = envs.state_dict()
        envs = wrap(base, PathEncoder(), group_size=2)
        envs.load_state_dict(state)
        assert envs.state_dict() == state
        rewards += [result[1] for result in drive(envs, SCRIPT[stop:])]
        buffer = np.array(rewards)
        envs.rewrite(buffer, credit="dense")
        np.testing.assert_array_equal(buffer, expected[1])


def test_an_encoder_can_name_the_frames_of_its_moments():
    class Late(PathEncoder):
        def moment_frames(self, num_frames):
            return np.array([1, 1, 2, 3])

    envs, _ = play(SCRIPT, group_size=2, encoder=Late())
    (group,) = envs.pop_groups()
    assert group.episodes[0].potential_steps.tolist() == [1, 1, 2, 3]

    class Wrong(PathEncoder):
        def moment_frames(self, num_frames):
            return np.arange(num_frames, num_frames - 4, -1)

    with pytest.raises(ValueError, match=r"moment_frames\(4\) must return 4 ascending integers"):
        play(SCRIPT, group_size=2, encoder=Wrong())


def test_moments_of_the_bundled_world_model_end_with_their_last_frame():
    # 32 frames, two in each moment: of 63 frames, every second one is seen.
    encoder = VJEPA2Encoder("libero-vjepa2")
    assert encoder.moment_frames(63).tolist() == list(range(2, 63, 4))
