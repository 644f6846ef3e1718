from __future__ import annotations

import numpy as np
import pytest

from srpo_env import ProgressReward, relabel


@pytest.mark.parametrize("weight", ["0.5", [0.5], float("nan"), 0.0, 1.1])
def test_weight_must_be_a_number_in_its_range(weight):
    with pytest.raises(ValueError, match=r"`weight` must be a number in \(0, 1\], got"):
        ProgressReward(weight=weight)


def test_reward_must_be_a_progress_reward():
    with pytest.raises(TypeError, match=r"`reward` must be a ProgressReward, .*got 'siirl'"):
        relabel([[0.0]], [True], reward="siirl")


@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2)])
def test_no_episodes_have_no_rewards(shape):
    result = relabel(np.zeros(shape), np.zeros(0, bool))
    assert (len(result.rewards), len(result.distances), result.clusterings) == (0, 0, {})


def test_distance_of_paths_refuses_points_in_one_sentence():
    from srpo_env.rewards.distances import end_distance

    with pytest.raises(ValueError, match="end_distance does not fit") as raised:
        relabel([[0.0], [1.0]], [True, False], reward=ProgressReward(distance=end_distance))
    assert "\n" not in str(raised.value)
