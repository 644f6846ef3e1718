"""Centers of one or more successes, in as many dimensions as encoders have."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.rewards.clustering import success_centers


def strategy(num_runs, dim, center, *, seed, spread=1.0):
    """Returns latents of one strategy: noise in all dimensions around a point."""
    noise = np.random.default_rng(seed).standard_normal((num_runs, dim))
    return center + spread * noise


@pytest.mark.parametrize("dim", [256, 1408])
@pytest.mark.parametrize("num_runs", [2, 3, 4, 5, 6, 7, 64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_successes_of_one_strategy_are_one_cluster_at_any_scale(num_runs, dim, scale):
    latents = scale * strategy(num_runs, dim, 5.0, seed=num_runs)
    result = success_centers(latents)
    assert (result.num_clusters, result.num_singles) == (1, 0)
    np.testing.assert_allclose(result.centers, latents.mean(axis=0, keepdims=True))


@pytest.mark.parametrize("dim", [256, 1408])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 4), (5, 2), (8, 8), (40, 24)])
def test_two_strategies_are_two_clusters(sizes, dim):
    # Twice as far from each other as two runs of one strategy, which is sqrt(2 * dim).
    first = strategy(sizes[0], dim, 0.0, seed=1)
    second = strategy(sizes[1], dim, 2 * np.sqrt(2), seed=2)
    result = success_centers(np.concatenate([first, second]))
    assert (result.num_clusters, result.num_singles) == (2, 0)
    np.testing.assert_array_equal(result.labels, [0] * sizes[0] + [1] * sizes[1])
    np.testing.assert_allclose(result.centers, [first.mean(axis=0), second.mean(axis=0)])


@pytest.mark.parametrize("num_runs", [3, 6, 15])
def test_outlying_success_has_its_own_center(num_runs):
    latents = np.concatenate(
        [strategy(num_runs, 256, 0.0, seed=3), strategy(1, 256, 8 * np.sqrt(2), seed=4)]
    )
    result = success_centers(latents)
    assert (result.num_clusters, result.num_singles) == (1, 1)
    np.testing.assert_array_equal(result.centers[1], latents[-1])
    assert result.labels[-1] == 1


def test_single_success_is_its_own_center():
    result = success_centers(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(result.centers, [[1.0, 2.0]])
    assert (result.num_clusters, result.num_singles, result.fallback) == (0, 1, True)


def test_no_success_gives_no_center():
    result = success_centers(np.empty((0, 4)))
    assert result.centers.shape == (0, 4)
    assert not result.fallback


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_equal_successes_are_merged_and_different_ones_are_not(offset):
    # The episodes of a deterministic policy are equal: most distances to a neighbour are 0.
    latents = np.array([[0.0, 0], [0, 0], [0, 0], [3, 0], [3, 0]]) + offset
    result = success_centers(latents)
    np.testing.assert_allclose(result.centers - offset, [[0, 0], [3, 0]], atol=1e-8)
    assert success_centers(np.full((4, 2), offset)).num_clusters == 1


def test_order_of_the_successes_does_not_matter():
    latents = np.concatenate([strategy(4, 64, 0.0, seed=5), strategy(3, 64, 9.0, seed=6)])
    order = np.random.default_rng(7).permutation(7)
    centers, shuffled = (success_centers(x).centers for x in (latents, latents[order]))
    by_first = [c[np.argsort(c[:, 0])] for c in (centers, shuffled)]
    np.testing.assert_allclose(*by_first)


def test_radius_of_the_released_code_finds_no_cluster():
    # Standardised, 1408-d points lie sqrt(2 * 1408) = 53 apart, and its radius is 0.5.
    latents = strategy(16, 1408, 0.0, seed=8)
    assert success_centers(latents).eps == pytest.approx(1.5 * 53, rel=0.05)


def test_one_dimensional_latents_raise():
    with pytest.raises(ValueError, match=r"\(num_successes, dim\) or .* got shape \(3,\)"):
        success_centers(np.zeros(3))
