"""The reward: Eqs. 3 to 5, and the traps that the paper and its released code left open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srpo_env.rewards.progress import (
    EQUAL_DISTANCES,
    distances_to_centers,
    progress_rewards,
    relabel,
)


def test_a_nearer_failure_earns_more():
    # Eq. 5 as printed has it the other way round; the text, the figures and the code agree on this.
    rewards = progress_rewards(np.array([1.0, 2.0, 4.0]))
    assert rewards[0] > rewards[1] > rewards[2]


def test_the_paper_formula_is_a_weighted_sigmoid_of_the_negative_z_score():
    # Distances 1, 2, 3: mean 2, population standard deviation sqrt(2/3), so z is -sqrt(3/2), 0, +.
    z = math.sqrt(1.5)
    expected = [0.8 / (1 + math.exp(-z)), 0.4, 0.8 / (1 + math.exp(z))]
    np.testing.assert_allclose(progress_rewards(np.array([1.0, 2.0, 3.0])), expected)


def test_the_siirl_formula_is_a_steep_sigmoid_of_the_min_max_scaled_distance():
    # Scaled to 0, 1/2 and 1; the released code pays 0.6 * sigmoid(10 * (0.5 - scaled)).
    expected = [0.6 / (1 + math.exp(-5)), 0.3, 0.6 / (1 + math.exp(5))]
    np.testing.assert_allclose(
        progress_rewards(np.array([1.0, 2.0, 3.0]), formula="siirl"), expected
    )


@pytest.mark.parametrize(("formula", "midpoint"), [("paper", 0.4), ("siirl", 0.3)])
def test_one_failure_and_equal_distances_get_the_midpoint(formula, midpoint):
    assert progress_rewards(np.array([7.0]), formula=formula) == [midpoint]
    # The mean of these rounds, so their standard deviation is 1e-17 and not 0.
    equal = np.full(3, 0.1)
    assert equal.std() > 0
    np.testing.assert_array_equal(progress_rewards(equal, formula=formula), midpoint)


def test_a_group_without_success_is_not_shaped():
    result = relabel(np.eye(3), np.zeros(3, bool))
    np.testing.assert_array_equal(result.rewards, 0.0)
    assert np.isnan(result.distances).all()
    np.testing.assert_array_equal(result.nearest_centers, -1)


def test_a_group_of_successes_is_all_ones():
    np.testing.assert_array_equal(relabel(np.eye(3), np.ones(3, bool)).rewards, 1.0)


def test_a_single_success_is_the_center():
    result = relabel([[0.0, 0.0], [3.0, 4.0]], [True, False])
    np.testing.assert_array_equal(result.distances, [0.0, 5.0])
    np.testing.assert_array_equal(result.rewards, [1.0, 0.4])


def test_groups_do_not_see_each_other():
    latents = np.array([[0.0], [1.0], [2.0], [100.0], [104.0], [101.0]])
    successes = np.array([True, False, False, True, False, False])
    ids = ["a", "a", "a", "b", "b", "b"]
    together = relabel(latents, successes, ids)
    np.testing.assert_array_equal(together.distances, [0, 1, 2, 0, 4, 1])
    for part in (slice(0, 3), slice(3, 6)):
        alone = relabel(latents[part], successes[part])
        np.testing.assert_array_equal(alone.rewards, together.rewards[part])


def test_the_distance_is_to_the_nearest_center_and_not_squared():
    distances, nearest = distances_to_centers(np.array([[0.0, 3.0]]), np.array([[9.0, 3], [0, 5]]))
    assert (distances.tolist(), nearest.tolist()) == ([2.0], [1])


def test_another_way_to_measure_distance_takes_the_place_of_l2():
    def along_the_first_axis(latents, centers):
        gaps = np.abs(latents[:, :1] - centers[:, 0])
        return gaps.min(axis=1), gaps.argmin(axis=1)

    latents = np.array([[0.0, 0.0], [1.0, 9.0], [2.0, 0.0]])
    successes = np.array([True, False, False])
    by_l2 = relabel(latents, successes)
    assert by_l2.rewards[1] < by_l2.rewards[2]
    other = relabel(latents, successes, distance=along_the_first_axis)
    np.testing.assert_array_equal(other.distances, [0, 1, 2])
    assert other.rewards[1] > other.rewards[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_an_error_that_names_the_episode(bad):
    latents = np.zeros((3, 2))
    latents[1, 0] = bad
    with pytest.raises(ValueError, match=r"episodes \[1\]"):
        relabel(latents, [True, False, False])


def test_successes_must_be_bool_since_two_kinds_of_numbers_mean_success_elsewhere():
    with pytest.raises(ValueError, match="bool"):
        relabel(np.zeros((2, 2)), [1.0, 0.0])


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.4, math.nan])
def test_a_weight_with_which_a_failure_could_beat_a_success_is_refused(weight):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        progress_rewards(np.array([1.0]), weight=weight)


def test_an_unknown_formula_is_refused_by_name():
    with pytest.raises(ValueError, match="'papre'"):
        progress_rewards(np.array([1.0]), formula="papre")


def test_the_smallest_distances_that_there_are_can_be_ranked():
    np.testing.assert_allclose(
        progress_rewards(np.array([1e-200, 2e-200, 3e-200])),
        progress_rewards(np.array([1.0, 2.0, 3.0])),
    )


# --- Laws ---

# Of subnormal numbers, a multiple is rounded to few digits or to none.
distance = st.floats(0, 1e6, allow_subnormal=False)
failures = st.lists(distance, min_size=2, max_size=20).map(np.array)


@given(failures, st.sampled_from(["paper", "siirl"]), st.floats(0.01, 1.0))
def test_rewards_stay_between_nothing_and_the_weight(distances, formula, weight):
    rewards = progress_rewards(distances, formula=formula, weight=weight)
    assert ((rewards > 0) & (rewards < weight)).all()


@given(failures, st.sampled_from(["paper", "siirl"]))
def test_rewards_fall_as_distances_grow(distances, formula):
    order = np.argsort(distances)
    assert (np.diff(progress_rewards(distances, formula=formula)[order]) <= 0).all()


@given(failures, st.sampled_from(["paper", "siirl"]), st.floats(1e-3, 1e3))
def test_the_unit_of_the_distances_does_not_matter(distances, formula, unit):
    one, other = (progress_rewards(d, formula=formula) for d in (distances, unit * distances))
    # Distances right at the limit of being equal may round to either side of it.
    assume(np.ptp(distances) > 2 * EQUAL_DISTANCES * distances.max() or np.ptp(distances) == 0)
    np.testing.assert_allclose(one, other, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 3))
def test_neither_the_order_of_the_episodes_nor_where_the_latents_lie_matters(seed, size, num_ids):
    rng = np.random.default_rng(seed)
    latents, successes = rng.standard_normal((size, 5)), rng.random(size) < 0.5
    ids = rng.integers(num_ids, size=size)
    plain = relabel(latents, successes, ids)
    order = rng.permutation(size)
    moved = relabel(3.0 * latents[order] + 7.0, successes[order], ids[order])
    np.testing.assert_allclose(moved.rewards, plain.rewards[order], rtol=1e-6)
    np.testing.assert_allclose(moved.distances, 3.0 * plain.distances[order], atol=1e-9)
