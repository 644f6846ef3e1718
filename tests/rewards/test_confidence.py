"""Rewards that shrink where distances mean little: gate, cap and rank confidence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from srpo_env import ProgressReward, relabel
from srpo_env.rewards.confidence import rank_confidence, success_spread
from srpo_env.rewards.progress import BORROWED_WEIGHT

MEASURE = ProgressReward().measure
SAFE = ProgressReward(fail_safe=True)


def points(*values):
    return np.array(values, np.float64).reshape(len(values), -1)


def test_spread_is_the_median_distance_to_the_nearest_other_success():
    # Nearest others of 0, 1, 3, 7: at 1, 1, 2 and 4.
    assert success_spread(points(0, 1, 3, 7), MEASURE) == 1.5
    assert success_spread(points(5), MEASURE) == np.inf


def test_confidence_is_the_mean_agreement_of_the_successes_rankings():
    failures = points(1, 2, 3)
    assert rank_confidence(failures, points(0, -1), MEASURE) == 1.0
    assert rank_confidence(failures, points(0, 9), MEASURE) == 0.0  # reversed
    # Orders of the pairs (1, 2), (1, 3), (2, 3) by distance to 0, 0.5 and 2.2: + + +, + + +, - - +;
    # agreements 1, (-1 - 1 + 1) / 3 and the same again.
    found = rank_confidence(failures, points(0, 0.5, 2.2), MEASURE)
    assert found == pytest.approx((1 - 1 / 3 - 1 / 3) / 3)
    assert rank_confidence(failures, points(0), MEASURE) == 1.0
    assert rank_confidence(failures[:1], points(0, 9), MEASURE) == 1.0


def test_success_that_ranks_nothing_agrees_with_none():
    failures = np.array([[1.0, 1.0], [1.0, -1.0]])
    assert rank_confidence(failures, np.array([[0.0, 2.0], [0.0, 0.0]]), MEASURE) == 0.0


def test_disagreement_pulls_the_rewards_of_failures_to_the_middle():
    latents, wins = points(0, 9, 1, 2, 3), [True, True, False, False, False]
    plain, safe = relabel(latents, wins), relabel(latents, wins, reward=SAFE)
    assert np.ptp(plain.rewards[2:]) > 0.1
    np.testing.assert_allclose(safe.rewards, [1, 1, 0.4, 0.4, 0.4])
    np.testing.assert_array_equal(safe.confidences, 0)
    np.testing.assert_array_equal(plain.confidences, 1)
    np.testing.assert_array_equal(safe.distances, plain.distances)


def test_agreement_changes_nothing_in_a_group_with_its_own_successes():
    latents, wins = points(0, -1, 1, 2, 3), [True, True, False, False, False]
    safe, plain = relabel(latents, wins, reward=SAFE), relabel(latents, wins)
    np.testing.assert_allclose(safe.rewards, plain.rewards)


def test_failures_without_a_success_of_their_own_are_capped():
    # Successes 1 apart; the failures of group 1 are 2 to 8 away, so their distances differ by 6.
    latents, wins = points(0, -1, 2, 2, 5, 8), [True, True, False, False, False, False]
    own = [0, 0, 0, 1, 1, 1]
    plain = relabel(latents, wins, own_group_ids=own)
    safe = relabel(latents, wins, reward=SAFE, own_group_ids=own)
    np.testing.assert_allclose(safe.rewards[:3], plain.rewards[:3])
    scale = BORROWED_WEIGHT / 0.8
    np.testing.assert_allclose(safe.rewards[3:], scale * plain.rewards[3:])
    assert safe.rewards[3:].max() < BORROWED_WEIGHT


def test_failures_that_differ_by_less_than_the_successes_are_not_compared():
    wins, own = [True, True, False, False], [0, 0, 1, 1]
    near = relabel(points(0, 1, 5.0, 5.5), wins, reward=SAFE, own_group_ids=own, credit="episode")
    np.testing.assert_array_equal(near.rewards, [1, 1, 0, 0])
    assert np.isnan(near.distances[2:]).all()
    assert near.nearest_centers[2:].tolist() == [-1, -1]
    far = relabel(points(0, 1, 5.0, 6.5), wins, reward=SAFE, own_group_ids=own)
    assert (far.rewards[2:] > 0).all()


def test_one_success_alone_calibrates_nothing():
    wins, own = [True, False, False], [0, 1, 1]
    found = relabel(points(0, 1, 9), wins, reward=SAFE, own_group_ids=own)
    np.testing.assert_array_equal(found.rewards, [1, 0, 0])


latents = st.integers(1, 8).flatmap(
    lambda count: st.tuples(
        arrays.arrays(np.float64, (count, 2), elements=st.floats(-50, 50, width=32)),
        arrays.arrays(np.bool_, (count,)),
        st.lists(st.integers(0, 2), min_size=count, max_size=count),
    )
)


@given(latents, st.floats(0.05, 1.0))
@settings(max_examples=100)
def test_fail_safe_rewards_obey_the_laws_and_never_reverse_an_order(case, weight):
    values, wins, own = case
    plain = relabel(values, wins, reward=ProgressReward(weight=weight))
    safe = relabel(values, wins, None, ProgressReward(weight=weight, fail_safe=True),
                   own_group_ids=own)  # fmt: skip
    assert (safe.rewards[wins] == 1).all()
    assert (safe.rewards[~wins] >= 0).all()
    assert (safe.rewards[~wins] < weight).all()
    assert ((safe.confidences >= 0) & (safe.confidences <= 1)).all()
    for key in set(own):
        rows = np.flatnonzero((np.array(own) == key) & ~wins)
        if not (np.array(own) == key)[wins].any():
            assert (safe.rewards[rows] <= BORROWED_WEIGHT).all()
        order = np.argsort(plain.rewards[rows])
        assert (np.diff(safe.rewards[rows][order]) >= -1e-12).all()


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_fail_safe_is_a_bool(value):
    with pytest.raises(TypeError, match="`fail_safe` must be a bool"):
        ProgressReward(fail_safe=value)


def test_defaults_are_the_papers():
    assert ProgressReward().settings() == {"formula": "paper", "weight": 0.8, "distance": None}
    assert SAFE.settings()["fail_safe"] is True
