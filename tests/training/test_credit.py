import dataclasses
import math

import numpy as np
import pytest
import torch

from srpo_env.training.credit import dense_advantages, encoder_for, potential_of, rewarded
from srpo_env.training.trajectories import Chunk, Trajectory
from tests.training.groups import make_group


def trajectories_with(max_progress):
    empty = torch.zeros(0)
    return [
        Trajectory(0, 0, [Chunk({}, empty, empty, empty, empty, torch.tensor(progress))])
        for progress in max_progress
    ]


def test_binary_reward_ignores_progress():
    group = make_group([True, False, False], [1.0, 0.6, 0.2])
    unknown = trajectories_with([math.nan] * 3)
    binary = rewarded(group, unknown, "binary")
    np.testing.assert_array_equal(binary.rewards, [1, 0, 0])
    assert not binary.shaped
    np.testing.assert_array_equal(rewarded(group, unknown, "srpo").rewards, [1, 0.6, 0.2])


def test_oracle_reward_ranks_failures_by_progress():
    group = make_group([False, True, False, False], [0.0] * 4)
    result = rewarded(group, trajectories_with([0.1, 1.0, 0.7, 0.3]), "oracle")
    rewards = result.rewards
    assert rewards[1] == 1.0
    assert 0 < rewards[0] < rewards[3] < rewards[2] < 0.8
    assert result.shaped


def test_oracle_reward_of_a_group_without_success_is_zero():
    group = make_group([False, False], [0.0, 0.0])
    result = rewarded(group, trajectories_with([0.1, 0.7]), "oracle")
    np.testing.assert_array_equal(result.rewards, 0.0)


def whole_trajectory(num_chunks, progress=math.nan, task_id=0):
    """Decisions of 8 control steps, all executed."""
    chunk = Chunk(
        {}, torch.zeros(56), torch.zeros(56), torch.ones(56, dtype=torch.bool),
        torch.zeros(8, 3), torch.tensor(progress),
    )  # fmt: skip
    return Trajectory(task_id, 0, [chunk] * num_chunks)


def test_potential_of_a_video_is_interpolated_at_the_decisions():
    (episode,) = make_group([True], [1.0]).episodes
    seen = dataclasses.replace(
        episode, potential=np.array([0.0, 0.5, 1.0]), potential_steps=np.array([0, 2, 4])
    )
    trajectory = whole_trajectory(4)
    np.testing.assert_allclose(potential_of(seen, trajectory, "srpo"), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(potential_of(seen, trajectory, "binary"), np.zeros(5))
    unknown = dataclasses.replace(seen, potential=np.full(3, math.nan))
    np.testing.assert_array_equal(potential_of(unknown, trajectory, "srpo"), np.zeros(5))


def test_dense_advantages_have_a_row_per_decision_and_spread_1():
    group = make_group([True, False, False], [1.0, 0.5, 0.1])
    trajectories = [whole_trajectory(n, p) for n, p in ((2, 1.0), (3, 0.9), (3, 0.1))]
    advantages = dense_advantages([(group, trajectories)], "oracle", 24)
    assert [len(rows) for rows in advantages] == [2, 3, 3]
    assert np.concatenate(advantages).std() == pytest.approx(1.0, rel=1e-4)


def test_steps_before_a_decision_count_what_was_executed():
    trajectory = whole_trajectory(2)
    mask = torch.arange(56) < 3 * 7  # ended in the third control step
    trajectory.chunks = [*trajectory.chunks, trajectory.chunks[0]._replace(mask=mask)]
    trajectory.chunks.append(trajectory.chunks[0])
    assert trajectory.steps_before().tolist() == [0, 8, 16, 19]


def test_dense_credit_with_latents_that_are_no_paths_is_an_error():
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        encoder_for("srpo", "dense", "pixels")
    for reward, credit in (("srpo", "episode"), ("binary", "dense"), ("oracle", "dense")):
        assert len(encoder_for(reward, credit, "pixels").latent_shape) == 1
