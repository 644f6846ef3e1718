"""The wrapper among other wrappers: which belong inside, which outside, and what they hide."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit, TransformReward
from gymnasium.wrappers import vector as vector_wrappers

from tests.corridor import STAY, WALK, Corridor, wrap


def corridors(inside=lambda env: env, mode=AutoresetMode.SAME_STEP):
    """Returns two corridors, with a time limit of three steps and a wrapper around each."""
    makers = [partial(lambda slot: inside(Corridor(slot, limit=3)), slot) for slot in range(2)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def rollout(envs):
    """The first corridor succeeds in its third step, the second is truncated in the same step."""
    envs.reset(seed=0)
    steps = [envs.step(np.array([WALK, STAY])) for _ in range(3)]
    return np.array([step[1] for step in steps], float), steps[-1][4]


SHAPED = [[0, 0], [0, 0], [1, 0.4]]


@pytest.mark.parametrize(
    "inside",
    [
        RecordEpisodeStatistics,
        lambda env: TimeLimit(env, 3),
        lambda env: TransformReward(env, lambda reward: float(reward > 0)),
    ],
    ids=["RecordEpisodeStatistics", "TimeLimit", "TransformReward"],
)
def test_wrappers_of_a_single_environment_work_inside(inside):
    envs = wrap(corridors(inside), group_size=2)
    rewards, _ = rollout(envs)
    assert envs.rewrite(rewards) == 1
    np.testing.assert_allclose(rewards, SHAPED)


@pytest.mark.parametrize(
    "outside",
    [
        vector_wrappers.RecordEpisodeStatistics,
        vector_wrappers.NormalizeObservation,
        vector_wrappers.FlattenObservation,
    ],
)
def test_wrappers_that_leave_the_rewards_unchanged_work_outside(outside):
    # Gymnasium's observation wrappers refuse SAME_STEP.
    envs = wrap(corridors(mode=AutoresetMode.NEXT_STEP), group_size=2)
    rewards, _ = rollout(outside(envs))
    assert envs.rewrite(rewards) == 1
    np.testing.assert_allclose(rewards, SHAPED)


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_recorded_returns_are_those_of_the_environment(place):
    record = vector_wrappers.RecordEpisodeStatistics
    envs = corridors()
    envs = wrap(record(envs)) if place == "inside" else record(wrap(envs))
    _, infos = rollout(envs)
    np.testing.assert_array_equal(infos["episode"]["r"], [1, 0])


@pytest.mark.parametrize(
    "outside",
    [
        vector_wrappers.NormalizeReward,
        partial(vector_wrappers.ClipReward, max_reward=0.5),
        partial(vector_wrappers.TransformReward, func=lambda reward: 10 * reward),
    ],
    ids=["NormalizeReward", "ClipReward", "TransformReward"],
)
def test_wrappers_that_change_rewards_outside_make_rewrite_raise(outside):
    envs = wrap(corridors(), group_size=2)
    rewards, _ = rollout(outside(envs))
    before = rewards.copy()
    with pytest.raises(ValueError, match="outside of SelfReferentialProgressWrapper"):
        envs.rewrite(rewards)
    np.testing.assert_array_equal(rewards, before)


def test_wrappers_outside_hide_the_methods_of_the_wrapper():
    envs = wrap(corridors(), group_size=2)
    outer = vector_wrappers.RecordEpisodeStatistics(envs)
    assert not hasattr(outer, "rewrite")
    assert not hasattr(outer, "pop_groups")
    rewards, _ = rollout(outer)
    assert envs.rewrite(rewards) == 1  # the reference that was kept
