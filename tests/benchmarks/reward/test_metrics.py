"""Metrics against hand calculations, laws and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from srpo_env.benchmarks.reward.metrics import (
    correct_pairs,
    correlation,
    draw_counts,
    interval,
    jensen_shannon,
    kendall_tau,
    mmd,
    monotonicity,
    overpaid,
    progress_curve,
    rank_sums,
    spearman,
    standardized_mean_difference,
)

ORACLE = np.array([0.1, 0.2, 0.5, 0.9])


# --- Ranking --------------------------------------------------------------------------------------


def tau(oracle, scores, weights=None):
    return kendall_tau(rank_sums(oracle, scores, weights))


def accuracy(oracle, scores, **gaps):
    correct, counted = correct_pairs(oracle, scores, **gaps)
    return correct / counted


def test_tau_is_1_for_the_same_order_and_minus_1_for_the_reverse():
    assert tau(ORACLE, 10 * ORACLE) == pytest.approx([1])
    assert tau(ORACLE, -ORACLE) == pytest.approx([-1])
    assert accuracy(ORACLE, ORACLE**3) == 1
    assert accuracy(ORACLE, -ORACLE) == 0


def test_equal_scores_have_no_tau_and_half_the_pairs_correct():
    assert np.isnan(tau(ORACLE, np.zeros(4))).all()
    assert accuracy(ORACLE, np.zeros(4)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_tau_equals_scipys_with_and_without_ties(seed):
    rng = np.random.default_rng(seed)
    oracle, scores = rng.integers(0, 6, (2, 12)).astype(float)
    assert tau(oracle, scores)[0] == pytest.approx(kendalltau(oracle, scores).statistic)


def test_weights_count_an_episode_as_often_as_it_was_drawn():
    rng = np.random.default_rng(0)
    oracle, scores = rng.normal(size=(2, 6))
    counts = np.array([[2, 0, 1, 1, 0, 3]])
    rows = np.repeat(np.arange(6), counts[0])
    # An episode drawn twice is tied with itself in both, which tau-b leaves out.
    expected = kendalltau(oracle[rows], scores[rows]).statistic
    assert tau(oracle, scores, counts)[0] == pytest.approx(expected)


def test_added_sums_of_two_groups_give_the_tau_over_pairs_within_groups():
    # Three pairs in the right order, and one in the wrong one: (3 - 1) / 4.
    sums = rank_sums(ORACLE[:3], ORACLE[:3]) + rank_sums(ORACLE[:2], -ORACLE[:2])
    assert kendall_tau(sums) == pytest.approx([0.5])


def test_pairs_are_selected_by_their_gap():
    scores = np.array([2.0, 1.0, 3.0, 4.0])  # the closest pair is in the wrong order
    assert correct_pairs(ORACLE, scores).tolist() == [5, 6]
    assert correct_pairs(ORACLE, scores, max_gap=0.2).tolist() == [0, 1]
    assert correct_pairs(ORACLE, scores, min_gap=0.2).tolist() == [5, 5]


def test_overpaid_counts_failures_above_one_that_came_a_stage_further():
    scores = np.array([3.0, 1.0, 2.0, 4.0])
    # The first is above the second, which is less than a stage ahead, and above the third.
    assert overpaid(ORACLE, scores) == 1
    assert overpaid(ORACLE, scores, min_gap=0.45) == 0
    assert overpaid(ORACLE, ORACLE) == 0


def test_correlation_equals_numpys():
    rewards = np.array([0.1, 0.4, 0.3, 0.9])
    assert correlation(ORACLE, rewards) == pytest.approx(np.corrcoef(ORACLE, rewards)[0, 1])
    assert np.isnan(correlation(ORACLE, np.zeros(4)))


# --- Intervals ------------------------------------------------------------------------------------


def test_a_bootstrap_sample_is_as_large_as_the_data():
    counts = draw_counts(np.random.default_rng(0), size=7, num_samples=50)
    assert counts.shape == (50, 7)
    np.testing.assert_array_equal(counts.sum(axis=1), 7)
    assert counts.std() > 0


def test_the_interval_spans_the_middle_95_percent():
    assert interval(np.append(np.arange(101.0), np.nan)) == (2.5, 97.5)
    assert np.isnan(interval(np.array([np.nan]))).all()


# --- Curves ---------------------------------------------------------------------------------------


def test_a_progress_curve_maps_the_farthest_to_0_and_the_nearest_to_1():
    np.testing.assert_allclose(progress_curve(np.array([4.0, 3.0, 2.0])), [0, 0.5, 1])
    np.testing.assert_allclose(progress_curve(np.ones(3)), 0.5)


def test_spearman_depends_on_ranks_only():
    assert spearman(np.array([0.0, 0.1, 0.9, 1.0])) == pytest.approx(1)
    assert spearman(np.array([1.0, 0.5, 0.0])) == pytest.approx(-1)
    # Ranks 0 2 1: 1 - 6 * 2 / (3 * 8).
    assert spearman(np.array([0.0, 1.0, 0.5])) == pytest.approx(0.5)
    assert spearman(np.full(4, 0.5)) == 0.0


def test_spearman_accepts_times():
    assert spearman(np.array([0.0, 0.5, 0.5, 1.0]), np.array([2, 3, 3, 4])) == pytest.approx(1)
    assert spearman(np.array([0.0, 1.0]), np.array([1, 1])) == 0.0


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
    # p and q share one bin: p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4).
    p_to_m = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    expected = (p_to_m + np.log(1 / 0.75)) / 2
    assert jensen_shannon(np.array([0.0, 1.0]), np.zeros(3)) == pytest.approx(expected)


def test_the_difference_of_means_is_divided_by_the_pooled_deviation():
    assert standardized_mean_difference(
        np.array([0.8, 1.0]), np.array([0.1, 0.3])
    ) == pytest.approx(7)
    assert np.isnan(standardized_mean_difference(np.ones(3), np.zeros(3)))
