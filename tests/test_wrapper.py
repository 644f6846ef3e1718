"""The wrapper against hand-written timelines, in every kind of vector environment."""

from __future__ import annotations

import numpy as np

from srpo_env import SelfReferentialProgressWrapper
from tests.corridor import GIVE_UP, STAY, WALK, ReadingEncoder, make_corridor


def wrap(envs, **kwargs):
    return SelfReferentialProgressWrapper(envs, ReadingEncoder(), **kwargs)


def test_a_failure_is_paid_on_its_last_step_when_its_group_is_closed(vector, mode, as_dict):
    envs = wrap(make_corridor(2, vector=vector, mode=mode, as_dict=as_dict), group_size=2)
    envs.reset(seed=0)
    rewards = []
    for actions in ([WALK, STAY], [WALK, STAY], [WALK, GIVE_UP]):
        rewards.append(envs.step(np.array(actions))[1])
    buffer = np.array(rewards)
    np.testing.assert_array_equal(buffer, [[0, 0], [0, 0], [1, 0]])
    (group,) = envs.pop_groups()
    won, lost = group.episodes
    assert (won.env_index, won.first_step, won.last_step, won.length) == (0, 0, 2, 3)
    assert (won.success, won.env_return, won.progress_reward) == (True, 1.0, 1.0)
    # Last seen at position 0 against 3, after the same 4 frames.
    assert (lost.success, lost.env_return, lost.distance) == (False, 0.0, 3.0)
    assert envs.rewrite(buffer) == 1
    np.testing.assert_array_equal(buffer, [[0, 0], [0, 0], [1, 0.4]])
    envs.close()
