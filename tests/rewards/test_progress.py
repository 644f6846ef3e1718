"""The reward: Eqs. 3 to 5, and the cases that the paper and its released code leave undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from srpo_env.rewards.distances import coverage_distance, distances_to_centers
from srpo_env.rewards.progress import EQUAL_DISTANCES, ProgressReward, relabel


def test_nearer_failure_earns_more():
    # Eq. 5 as printed has the opposite sign; the text, the figures and the code agree on this one.
    rewards = ProgressReward().rewards_of(np.array([1.0, 2.0, 4.0]))
    assert rewards[0] > rewards[1] > rewards[2]


def test_paper_formula_is_a_weighted_sigmoid_of_the_negative_z_score():
    # Distances 1, 2, 3: mean 2, population standard deviation sqrt(2/3), so z is -sqrt(3/2), 0, +.
    z = math.sqrt(1.5)
    expected = [0.8 / (1 + math.exp(-z)), 0.4, 0.8 / (1 + math.exp(z))]
    np.testing.assert_allclose(ProgressReward().rewards_of(np.array([1.0, 2.0, 3.0])), expected)


def test_siirl_formula_is_a_steep_sigmoid_of_the_min_max_scaled_distance():
    # Scaled to 0, 1/2 and 1; the released code pays 0.6 * sigmoid(10 * (0.5 - scaled)).
    expected = [0.6 / (1 + math.exp(-5)), 0.3, 0.6 / (1 + math.exp(5))]
    np.testing.assert_allclose(
        ProgressReward("siirl").rewards_of(np.array([1.0, 2.0, 3.0])), expected
    )


@pytest.mark.parametrize(("formula", "midpoint"), [("paper", 0.4), ("siirl", 0.3)])
def test_one_failure_and_equal_distances_get_the_midpoint(formula, midpoint):
    assert ProgressReward(formula).rewards_of(np.array([7.0])) == [midpoint]
    # The mean of these rounds, so their standard deviation is 1e-17 and not 0.
    equal = np.full(3, 0.1)
    assert equal.std() > 0
    np.testing.assert_array_equal(ProgressReward(formula).rewards_of(equal), midpoint)


def test_group_without_success_is_not_shaped():
    result = relabel(np.eye(3), np.zeros(3, bool))
    np.testing.assert_array_equal(result.rewards, 0.0)
    assert np.isnan(result.distances).all()
    np.testing.assert_array_equal(result.nearest_centers, -1)


def test_group_of_successes_earns_ones():
    np.testing.assert_array_equal(relabel(np.eye(3), np.ones(3, bool)).rewards, 1.0)


def test_single_success_is_the_center():
    result = relabel([[0.0, 0.0], [3.0, 4.0]], [True, False])
    np.testing.assert_array_equal(result.distances, [0.0, 5.0])
    np.testing.assert_array_equal(result.rewards, [1.0, 0.4])


def test_groups_are_independent():
    latents = np.array([[0.0], [1.0], [2.0], [100.0], [104.0], [101.0]])
    successes = np.array([True, False, False, True, False, False])
    ids = ["a", "a", "a", "b", "b", "b"]
    together = relabel(latents, successes, ids)
    np.testing.assert_array_equal(together.distances, [0, 1, 2, 0, 4, 1])
    for part in (slice(0, 3), slice(3, 6)):
        alone = relabel(latents[part], successes[part])
        np.testing.assert_array_equal(alone.rewards, together.rewards[part])


def test_distance_is_to_the_nearest_center_and_not_squared():
    distances, nearest = distances_to_centers(np.array([[0.0, 3.0]]), np.array([[9.0, 3], [0, 5]]))
    assert (distances.tolist(), nearest.tolist()) == ([2.0], [1])


def test_custom_distance_replaces_l2():
    def along_the_first_axis(latents, centers):
        gaps = np.abs(latents[:, :1] - centers[:, 0])
        return gaps.min(axis=1), gaps.argmin(axis=1)

    latents = np.array([[0.0, 0.0], [1.0, 9.0], [2.0, 0.0]])
    successes = np.array([True, False, False])
    by_l2 = relabel(latents, successes)
    assert by_l2.rewards[1] < by_l2.rewards[2]
    other = relabel(latents, successes, reward=ProgressReward(distance=along_the_first_axis))
    np.testing.assert_array_equal(other.distances, [0, 1, 2])
    assert other.rewards[1] > other.rewards[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_relabel_raises_and_names_the_episode_of_a_non_finite_latent(bad):
    latents = np.zeros((3, 2))
    latents[1, 0] = bad
    with pytest.raises(ValueError, match=r"episodes \[1\]"):
        relabel(latents, [True, False, False])


def test_successes_must_be_bool():
    with pytest.raises(ValueError, match="bool"):
        relabel(np.zeros((2, 2)), [1.0, 0.0])


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.4, math.nan])
def test_weight_outside_of_0_to_1_raises(weight):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        ProgressReward(weight=weight)


def test_unknown_formula_raises():
    with pytest.raises(ValueError, match="'papre'"):
        ProgressReward("papre")


def test_tiny_distances_can_be_ranked():
    np.testing.assert_allclose(
        ProgressReward().rewards_of(np.array([1e-200, 2e-200, 3e-200])),
        ProgressReward().rewards_of(np.array([1.0, 2.0, 3.0])),
    )


def test_negative_distances_are_ranked_by_their_order():
    def negative_cosine(latents, centers):
        table = -(latents @ centers.T) / np.linalg.norm(latents, axis=1)[:, None]
        table /= np.linalg.norm(centers, axis=1)
        return table.min(axis=1), table.argmin(axis=1)

    latents = [[1, 0], [1, 0.1], [1, 1], [1, 3]]
    reward = ProgressReward(distance=negative_cosine)
    rewards = relabel(latents, [True, False, False, False], reward=reward).rewards
    np.testing.assert_allclose(rewards, [1, 0.61, 0.42, 0.17], atol=0.005)


def test_distances_with_maximum_0_are_ranked():
    expected = ProgressReward().rewards_of([0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(ProgressReward().rewards_of([-3.0, -2.0, -1.0, 0.0]), expected)


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (lambda latents, centers: np.zeros(len(latents)), "does not fit latents of shape"),
        (lambda latents, centers: (np.zeros(2), np.zeros(3, int)), r"both of shape \(3,\), got"),
        (
            lambda latents, centers: (np.full(3, np.nan), np.zeros(3, int)),
            "must be finite, and is nan",
        ),
        (
            lambda latents, centers: (np.zeros(3), np.full(3, 7)),
            "must return rows of the 1 centers",
        ),
        (coverage_distance, "need latents that are paths"),
    ],
)
def test_invalid_results_of_a_distance_raise(distance, message):
    with pytest.raises(ValueError, match=message):
        relabel(np.eye(3), [True, False, False], reward=ProgressReward(distance=distance))


def test_distance_that_is_not_callable_raises():
    with pytest.raises(TypeError, match="`distance` must be a callable"):
        ProgressReward(distance="cosine")


def test_paths_are_compared_by_coverage_and_not_by_l2():
    # The failure reaches both moments of the success, in another order.
    paths = [[[0.0], [1.0]], [[1.0], [0.0]], [[0.0], [0.0]]]
    result = relabel(paths, [True, False, False])
    np.testing.assert_allclose(result.distances, [0, 0, 0.5])


@pytest.mark.parametrize("one", [7, 7.0, np.int64(7), np.array(7), "tensor"])
def test_group_ids_are_equal_if_their_values_are(one):
    if one == "tensor":
        one = pytest.importorskip("torch", reason="needs torch").tensor(7)
    latents, successes = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [True, False, False]
    rewards = relabel(latents, successes, [7, one, one]).rewards
    np.testing.assert_allclose(rewards, [1, 0.585, 0.215], atol=0.001)


def test_group_ids_may_be_a_tensor():
    torch = pytest.importorskip("torch", reason="needs torch")
    latents, successes = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [True, False, False]
    rewards = relabel(latents, successes, torch.tensor([7, 7, 7])).rewards
    np.testing.assert_allclose(rewards, [1, 0.585, 0.215], atol=0.001)


@pytest.mark.parametrize("nan", [math.nan, np.float32("nan")])
def test_nan_as_a_group_id_raises(nan):
    with pytest.raises(ValueError, match="must not be NaN"):
        relabel(np.eye(2), [True, False], [nan, nan])


def test_failure_beside_an_outlier_earns_less_than_a_success():
    distances = np.array([1.0] * 2000 + [1e9])
    assert ProgressReward(weight=1.0).rewards_of(-distances).max() < 1.0


# --- Properties ---

# Multiples of subnormal numbers are rounded to few digits or to 0.
distance = st.floats(-1e6, 1e6, allow_subnormal=False)
failures = st.lists(distance, min_size=2, max_size=20).map(np.array)


@given(failures, st.sampled_from(["paper", "siirl"]), st.floats(0.01, 1.0))
def test_rewards_are_between_0_and_the_weight(distances, formula, weight):
    rewards = ProgressReward(formula, weight).rewards_of(distances)
    assert ((rewards > 0) & (rewards < weight)).all()


@given(failures, st.sampled_from(["paper", "siirl"]))
def test_rewards_fall_as_distances_grow(distances, formula):
    order = np.argsort(distances)
    assert (np.diff(ProgressReward(formula).rewards_of(distances)[order]) <= 0).all()


@given(failures, st.sampled_from(["paper", "siirl"]), st.floats(1e-3, 1e3))
def test_rewards_do_not_depend_on_the_unit_of_the_distances(distances, formula, unit):
    one, other = (ProgressReward(formula).rewards_of(d) for d in (distances, unit * distances))
    # Distances right at the limit of being equal may round to either side of it.
    assume(
        np.ptp(distances) > 2 * EQUAL_DISTANCES * np.abs(distances).max() or np.ptp(distances) == 0
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 3))
def test_rewards_do_not_depend_on_order_scale_or_offset(seed, size, num_ids):
    rng = np.random.default_rng(seed)
    latents, successes = rng.standard_normal((size, 5)), rng.random(size) < 0.5
    ids = rng.integers(num_ids, size=size)
    plain = relabel(latents, successes, ids)
    order = rng.permutation(size)
    moved = relabel(3.0 * latents[order] + 7.0, successes[order], ids[order])
    np.testing.assert_allclose(moved.rewards, plain.rewards[order], rtol=1e-6)
    np.testing.assert_allclose(moved.distances, 3.0 * plain.distances[order], atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 2)])
def test_no_episodes_have_no_rewards(shape):
    result = relabel(np.zeros(shape), np.zeros(0, bool))
    assert result.rewards.shape == (0,)
    assert result.clusterings == {}


@pytest.mark.parametrize("value", [1e101, -1e308, np.inf, -np.inf, np.nan])
def test_latents_whose_squares_overflow_are_refused_by_episode(value):
    with pytest.raises(ValueError, match=r"at most 1e\+100, and those of episodes \[1\] are not"):
        relabel([[0.0], [value], [1.0]], [True, False, False])


@pytest.mark.parametrize("latents", [np.zeros((2, 0)), np.zeros((2, 3, 0)), np.zeros((2, 0, 3))])
def test_latents_without_numbers_are_refused(latents):
    with pytest.raises(ValueError, match="at least one number per episode"):
        relabel(latents, [True, False])


@pytest.mark.parametrize(
    "latents", [[["1"], ["2"]], [[1j], [2j]], np.array([[1], [2]], object), [[None], [None]]]
)
def test_latents_that_are_not_real_numbers_are_refused(latents):
    with pytest.raises(ValueError, match="`latents` must be real numbers"):
        relabel(latents, [True, False])


@pytest.mark.parametrize(
    ("distances", "rows"),
    [
        (["0", "1"], [0, 0]), ([None, None], [0, 0]), ([0j, 1j], [0, 0]),
        ([0.0, 1.0], [0.0, 0.0]), ([0.0, 1.0], ["a", "b"]), ([0.0, 1.0], [True, False]),
    ],
)  # fmt: skip
def test_distances_that_are_not_numbers_are_refused_with_the_name_of_the_distance(distances, rows):
    def wrong(latents, centers):
        return distances, rows

    with pytest.raises(ValueError, match=r"wrong must return numbers and integer rows"):
        relabel(np.zeros((2, 1)), [True, False], reward=ProgressReward(distance=wrong))


@pytest.mark.parametrize("formula", ["paper", "siirl"])
def test_distances_of_any_magnitude_are_ranked(formula):
    reward = ProgressReward(formula)
    expected = reward.rewards_of([-1.0, 0.0, 1.0])
    for scale in (5e-324, 1e-300, 1e300, 1.7e308):
        np.testing.assert_allclose(reward.rewards_of([-scale, 0.0, scale]), expected)
