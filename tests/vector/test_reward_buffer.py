"""Writing shaped rewards into a buffer; errors of `rewrite` are tested in test_wrapper.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from srpo_env.vector import reward_buffer
from srpo_env.vector.reward_buffer import EndedEpisode, RewardWriter, StepRecord
from tests.rewards.test_diagnostics import LOST, SHAPED, group


def end(step, env_index, progress_reward, env_reward=0.0):
    return EndedEpisode(
        step=step,
        env_index=env_index,
        episode_id=0,
        success=False,
        group=0,
        env_return=env_reward,
        env_reward=env_reward,
        progress_reward=progress_reward,
        record=StepRecord(np.array([env_reward]), np.empty(0), np.empty(0, np.int64)),
    )


def at_different_cells(group, first=0):
    """Returns the group with each episode in its own environment."""
    episodes = (replace(e, env_index=index) for index, e in enumerate(group.episodes, first))
    return replace(group, episodes=tuple(episodes))


def test_only_failures_that_were_compared_with_a_success_are_paid():
    writer = RewardWriter(num_envs=5)
    writer.add([at_different_cells(SHAPED), at_different_cells(group(LOST, LOST), 3)])
    rewards = np.zeros((4, 5))
    rewards[3, 0] = 1.0
    # Both failures of the shaped group end at step 3, with progress rewards 0.6 and 0.2.
    assert writer.write(rewards, first_step=0) == 2
    np.testing.assert_array_equal(rewards[3], [1.0, 0.6, 0.2, 0, 0])


def test_progress_reward_is_added_to_the_reward_of_the_environment():
    writer = RewardWriter(num_envs=2)
    writer.ends.append(end(3, 1, 0.6, env_reward=-1.0))
    rewards = np.full((2, 2), -1.0, np.float32)
    assert writer.write(rewards, first_step=2) == 1
    np.testing.assert_allclose(rewards, [[-1, -1], [-1, -0.4]])


def test_rewards_of_earlier_buffers_are_dropped_and_later_ones_kept():
    writer = RewardWriter(num_envs=1)
    writer.ends.extend([end(0, 0, 0.1), end(1, 0, 0.2), end(5, 0, 0.3)])
    rewards = np.zeros((2, 1))
    assert writer.write(rewards, first_step=1) == 1
    assert rewards.tolist() == [[0.2], [0.0]]
    assert [e.step for e in writer.ends] == [1, 5]
    with pytest.raises(ValueError, match="begins with step 0, and rewards up to step 0"):
        writer.check_steps(0, num_steps=2, step_count=6)
    writer.check_steps(1, num_steps=2, step_count=6)


def test_write_raises_if_rewards_are_no_longer_kept(monkeypatch):
    monkeypatch.setattr(reward_buffer, "MAX_ENDS", 3)
    writer = RewardWriter(num_envs=1)
    writer.add([SHAPED, SHAPED])
    with pytest.raises(ValueError, match=r"up to step 3 are no longer kept: .* the newest 3"):
        writer.check_steps(3, num_steps=2, step_count=5)
    # A buffer that begins after the dropped ones is complete.
    writer.check_steps(4, num_steps=1, step_count=5)


def test_half_precision_and_torch_like_buffers_are_accepted():
    class Tensor:
        shape, dtype = (1, 1), "torch.bfloat16"

    assert RewardWriter(1).checked_length(Tensor()) == 1
    assert RewardWriter(1).checked_length(np.zeros((1, 1), np.float16)) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_buffers_of_any_precision_are_paid_once(dtype):
    torch = pytest.importorskip("torch", reason="needs torch")
    writer = RewardWriter(num_envs=1)
    writer.ends.append(end(0, 0, 0.3, env_reward=0.1))
    rewards = torch.full((1, 1), 0.1, dtype=getattr(torch, dtype))
    assert writer.write(rewards, 0) == writer.write(rewards, 0) == 1
    assert float(rewards) == pytest.approx(0.4, rel=1e-2)


def test_write_raises_and_changes_nothing_if_a_cell_holds_another_reward():
    writer = RewardWriter(num_envs=2)
    writer.ends.extend([end(0, 0, 0.3), end(0, 1, 0.2)])
    rewards = np.array([[0.0, 0.25]])
    with pytest.raises(ValueError, match=r"`rewards`\[0, 1\] must hold .* 0 .* got 0.25; nothing"):
        writer.write(rewards, 0)
    np.testing.assert_array_equal(rewards, [[0.0, 0.25]])
