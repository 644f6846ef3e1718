"""The benchmark's figures by hand, by law, and beside SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from srpo_env.benchmarks.reward.metrics import (
    correlation,
    draw_counts,
    interval,
    jensen_shannon,
    kendall_tau,
    mean_difference,
    mmd,
    monotonicity,
    overpaid,
    progress_curve,
    rank_sums,
    right_pairs,
    spearman,
)

TRUTHS = np.array([0.1, 0.2, 0.5, 0.9])


# --- Ranking --------------------------------------------------------------------------------------


def tau(truths, scores, weights=None):
    return kendall_tau(rank_sums(truths, scores, weights))


def accuracy(truths, scores, **gaps):
    right, counted = right_pairs(truths, scores, **gaps)
    return right / counted


def test_a_perfect_ranking_has_tau_1_and_a_reversed_one_minus_1():
    assert tau(TRUTHS, 10 * TRUTHS) == pytest.approx([1])
    assert tau(TRUTHS, -TRUTHS) == pytest.approx([-1])
    assert accuracy(TRUTHS, TRUTHS**3) == 1
    assert accuracy(TRUTHS, -TRUTHS) == 0


def test_scores_that_are_all_equal_rank_nothing():
    assert np.isnan(tau(TRUTHS, np.zeros(4))).all()
    assert accuracy(TRUTHS, np.zeros(4)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys_with_and_without_ties(seed):
    rng = np.random.default_rng(seed)
    truths, scores = rng.integers(0, 6, (2, 12)).astype(float)
    assert tau(truths, scores)[0] == pytest.approx(kendalltau(truths, scores).statistic)


def test_weights_count_an_episode_as_often_as_it_was_drawn():
    rng = np.random.default_rng(0)
    truths, scores = rng.normal(size=(2, 6))
    counts = np.array([[2, 0, 1, 1, 0, 3]])
    rows = np.repeat(np.arange(6), counts[0])
    # An episode drawn twice is tied with itself in both, which tau-b leaves out.
    expected = kendalltau(truths[rows], scores[rows]).statistic
    assert tau(truths, scores, counts)[0] == pytest.approx(expected)


def test_sums_of_two_groups_make_the_tau_of_the_pairs_within_them():
    # Three pairs in the right order, and one in the wrong one: (3 - 1) / 4.
    sums = rank_sums(TRUTHS[:3], TRUTHS[:3]) + rank_sums(TRUTHS[:2], -TRUTHS[:2])
    assert kendall_tau(sums) == pytest.approx([0.5])


def test_pairs_are_counted_by_how_far_they_are_apart():
    scores = np.array([2.0, 1.0, 3.0, 4.0])  # the nearest two are the wrong way round
    assert right_pairs(TRUTHS, scores).tolist() == [5, 6]
    assert right_pairs(TRUTHS, scores, most_gap=0.2).tolist() == [0, 1]
    assert right_pairs(TRUTHS, scores, least_gap=0.2).tolist() == [5, 5]


def test_the_overpaid_rank_above_one_that_got_a_stage_further():
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    # The first is above the second, which is less than a stage ahead, and above the third.
    assert overpaid(TRUTHS, scores) == 1
    assert overpaid(TRUTHS, scores, least_gap=0.45) == 0
    assert overpaid(TRUTHS, TRUTHS) == 0


def test_correlation_is_numpys():
    rewards = np.array([0.1, 0.4, 0.3, 0.9])
    assert correlation(TRUTHS, rewards) == pytest.approx(np.corrcoef(TRUTHS, rewards)[0, 1])
    assert np.isnan(correlation(TRUTHS, np.zeros(4)))


# --- Intervals ------------------------------------------------------------------------------------


def test_as_many_are_drawn_as_there_are():
    counts = draw_counts(np.random.default_rng(0), size=7, num_samples=50)
    assert counts.shape == (50, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), 7)
    assert counts.std() > 0


def test_the_interval_holds_the_middle_95_of_100():
    assert interval(np.append(np.arange(101.0), np.nan)) == (2.5, 97.5)
    assert np.isnan(interval(np.array([np.nan]))).all()


# --- Curves ---------------------------------------------------------------------------------------


def test_a_curve_goes_from_the_farthest_to_the_nearest():
    np.testing.assert_allclose(progress_curve(np.array([4.0, 3.0, 2.0])), [0, 0.5, 1])
    np.testing.assert_allclose(progress_curve(np.ones(3)), 0.5)


def test_spearman_asks_for_the_order_alone():
    assert spearman(np.array([0.0, 0.1, 0.9, 1.0])) == pytest.approx(1)
    assert spearman(np.array([1.0, 0.5, 0.0])) == pytest.approx(-1)
    # Ranks 0 2 1: 1 - 6 * 2 / (3 * 8).
    assert spearman(np.array([0.0, 1.0, 0.5])) == pytest.approx(0.5)
    assert spearman(np.full(4, 0.5)) == 0.0


def test_monotonicity_is_the_share_of_steps_that_rise():
    assert monotonicity(np.array([0.0, 0.5, 0.4, 0.4, 1.0])) == 0.5


def test_mmd_of_equal_samples_is_0_and_of_samples_far_apart_2():
    sample = np.random.default_rng(0).random(20)
    assert mmd(sample, np.random.default_rng(1).permutation(sample)) == pytest.approx(0, abs=1e-12)
    assert mmd(np.zeros(5), np.ones(5)) == pytest.approx(2)


def test_mmd_by_hand():
    # Two points at a distance of one bandwidth: 1 + 1 - 2 exp(-1/2).
    assert mmd(np.zeros(3), np.full(2, 0.1)) == pytest.approx(2 - 2 * np.exp(-0.5))


def test_jensen_shannon_is_0_for_equal_samples_and_ln_2_for_disjoint_ones():
    sample = np.random.default_rng(0).random(20)
    assert jensen_shannon(sample, sample) == 0.0
    assert jensen_shannon(np.zeros(5), np.ones(7)) == pytest.approx(np.log(2))
    # Half of the one lies with the other: p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4).
    p_to_m = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    expected = (p_to_m + np.log(1 / 0.75)) / 2
    assert jensen_shannon(np.array([0.0, 1.0]), np.zeros(3)) == pytest.approx(expected)


def test_the_difference_of_means_is_in_units_of_their_spread():
    assert mean_difference(np.array([0.8, 1.0]), np.array([0.1, 0.3])) == pytest.approx(7)
    assert np.isnan(mean_difference(np.ones(3), np.zeros(3)))
