"""Groups without a success: compared with their task's, marked, and limited by `fail_safe`."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env import ProgressReward, group_statistics
from srpo_env.rewards.progress import BORROWED_WEIGHT
from tests.corridor import GIVE_UP, STAY, WALK, PathEncoder, drive, make_corridor, wrap

WIN = [[WALK, WALK]] * 3
"""Both succeed after three steps."""
LOSE = [[STAY, STAY], [WALK, STAY], [WALK, STAY], [GIVE_UP, GIVE_UP]]
"""After the reset, one failure comes to 2 of 3, the other stays at 0."""


def play(*scripts, **kwargs):
    envs = wrap(make_corridor(2, limit=9), PathEncoder(), group_size=2, **kwargs)
    envs.reset(seed=0)
    infos = [result[4] for script in scripts for result in drive(envs, script)]
    return envs, infos


def test_group_without_a_success_borrows_those_that_closed_earlier():
    envs, infos = play(WIN, LOSE, borrow=True)
    won, lost = envs.pop_groups()
    assert (won.borrowed, lost.borrowed) == (False, True)
    # Distances to positions 0 1 2 3: 0 + 0 + 0 + 1 and 0 + 1 + 2 + 3, a z-score of -1 and 1.
    np.testing.assert_allclose(lost.rewards, 0.8 / (1 + np.exp([-1.0, 1.0])))
    assert [len(lost.centers), lost.episodes[0].nearest_center] == [1, 0]
    assert lost.episodes[0].potential[-1] == pytest.approx(5 / 6)
    info = next(info["srpo"] for info in reversed(infos) if "srpo" in info)
    assert np.any(info["borrowed"])
    assert group_statistics([won, lost]).borrowed == 0.5


def test_by_default_nothing_is_borrowed():
    envs, _ = play(WIN, LOSE)
    lost = envs.pop_groups()[1]
    assert not lost.borrowed
    np.testing.assert_array_equal(lost.rewards, 0)


def test_nothing_is_borrowed_before_the_task_has_a_success():
    envs, _ = play(LOSE[1:], borrow=True)
    (lost,) = envs.pop_groups()
    assert not lost.shaped
    assert np.isnan(lost.episodes[0].distance)


def test_other_tasks_lend_nothing():
    envs, _ = play(WIN, LOSE, borrow=True, task_key=lambda info, index: info["num_resets"])
    assert not envs.pop_groups()[1].borrowed


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
def test_fail_safe_caps_what_failures_earn_without_a_success_of_their_group(reference):
    kwargs = {"borrow": True} if reference == "group" else {"reference": reference}
    envs, _ = play(WIN, LOSE, reward=ProgressReward(fail_safe=True), **kwargs)
    envs.close_groups()
    lost = envs.pop_groups()[1]
    # The two successes are equal, so that any difference of the failures counts.
    assert lost.borrowed
    expected = BORROWED_WEIGHT / (1 + np.exp([-1.0, 1.0]))
    np.testing.assert_allclose(lost.rewards, expected)
    assert lost.confidence == 1.0


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
def test_fail_safe_pays_nothing_if_there_is_nothing_to_calibrate_with(reference):
    one_win = [[WALK, STAY], [WALK, STAY], [WALK, GIVE_UP]]
    kwargs = {"borrow": True} if reference == "group" else {"reference": reference}
    envs, _ = play(one_win, LOSE, reward=ProgressReward(fail_safe=True), **kwargs)
    envs.close_groups()
    lost = envs.pop_groups()[1]
    assert not lost.shaped
    np.testing.assert_array_equal(lost.rewards, 0)


def test_borrowed_rewards_are_written_with_either_credit():
    for credit in ("episode", "dense"):
        envs = wrap(make_corridor(2, limit=9), PathEncoder(), group_size=2, borrow=True)
        envs.reset(seed=0)
        rewards = np.array([result[1] for result in drive(envs, WIN + LOSE)])
        assert envs.rewrite(rewards, credit=credit) == 2
        np.testing.assert_allclose(rewards[3:].sum(axis=0), 0.8 / (1 + np.exp([-1.0, 1.0])))


def test_state_holds_the_successes_that_are_lent():
    envs, _ = play(WIN, borrow=True)
    state = envs.state_dict()
    other = wrap(make_corridor(2, limit=9), PathEncoder(), group_size=2, borrow=True)
    other.reset(seed=0)
    other.load_state_dict(state)
    assert other.state_dict() == state
    with pytest.raises(ValueError, match="borrow"):
        play(WIN)[0].load_state_dict(state)


@pytest.mark.parametrize(
    "kwargs", [{"borrow": 1}, {"borrow": True, "reference": "task"},
               {"borrow": True, "reference": "memory"}]
)  # fmt: skip
def test_borrowing_fits_the_group_reference_only(kwargs):
    with pytest.raises(ValueError, match=r"`borrow` must be a bool, and False unless"):
        play(**kwargs)
