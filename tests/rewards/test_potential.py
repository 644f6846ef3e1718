"""The progress potential against calculations by hand, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from srpo_env import ProgressReward, relabel
from srpo_env.rewards.distances import coverage_distance, remaining_share
from srpo_env.rewards.potential import covered_potential, placed_potential
from srpo_env.types import step_shares
from tests.fuzz.oracle import Ambiguous, potential_of, shares_of

SUCCESS = [0.0, 1.0, 2.0, 3.0]


def paths(*values):
    """Returns paths in one dimension."""
    return np.array(values, np.float64)[..., None]


def potential(path, success=False, reference=SUCCESS):
    return covered_potential(paths(path), paths(reference), np.array([success]))[0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # The smallest distances to 0, 1, 2, 3 sum to 6 at the start, and at the end to:
        ([0, 1, 1, 1], [0, 0.5, 0.5, 0.5]),  # 0 + 0 + 1 + 2
        ([0, 2, 0, 0], [0, 4 / 6, 4 / 6, 4 / 6]),  # 0 + 1 + 0 + 1
        ([0, 0, 0, 3], [0, 0, 0, 4 / 6]),  # 0 + 1 + 1 + 0
        ([0, -1, -2, -3], [0, 0, 0, 0]),
    ],
)
def test_potential_equals_a_calculation_by_hand(path, expected):
    np.testing.assert_allclose(potential(path), expected, atol=1e-12)


def test_drops_and_detours_lower_nothing():
    rises = potential([0, 2, 2, 2])
    np.testing.assert_array_equal(potential([0, 2, 0, -5]), rises)


def test_a_success_ends_at_1_also_if_its_reference_is_the_mean_of_several():
    np.testing.assert_allclose(potential([0, 1, 2, 3], success=True), [0, 0.5, 5 / 6, 1])
    mean = [0.1, 1.1, 2.1, 3.1]
    found = potential([0, 1, 2, 3], success=True, reference=mean)
    assert found[-1] == 1.0
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("reference", [[2, 2, 2, 2], [0, 0, 0, 0]])
def test_a_path_that_never_moves_covers_nothing_and_a_success_everything_at_its_end(reference):
    np.testing.assert_array_equal(potential([0, 0, 0, 0], False, reference), [0, 0, 0, 0])
    np.testing.assert_array_equal(potential([0, 0, 0, 0], True, reference), [0, 0, 0, 1])


def test_noise_below_single_precision_is_no_progress():
    np.testing.assert_array_equal(potential([0, 1e-9, 2e-9, 3e-9]), [0, 0, 0, 0])


numbers = st.floats(-100, 100, width=32)
cases = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda sizes: st.tuples(
        arrays.arrays(np.float64, (sizes[0], sizes[1], sizes[2]), elements=numbers),
        arrays.arrays(np.float64, (sizes[0], sizes[1], sizes[2]), elements=numbers),
        arrays.arrays(np.bool_, (sizes[0],)),
    )
)


@given(cases)
@settings(max_examples=100)
def test_potential_is_monotone_within_0_and_1_and_equals_the_definition(case):
    values, references, successes = case
    found = covered_potential(values, references, successes)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert found.shape[1] == 1 or (found[:, 0] == 0).all()
    assert (found[successes, -1] == 1).all()
    for row, success in enumerate(successes):
        try:
            expected = potential_of(values[row].tolist(), references[row].tolist(), success)
        except Ambiguous:
            continue
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-6)


@given(cases, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_scale_and_order_of_the_episodes_do_not_matter(case, scale, random):
    values, references, successes = case
    found = covered_potential(values, references, successes)
    order = random.sample(range(len(values)), len(values))
    permuted = covered_potential(values[order], references[order], successes[order])
    np.testing.assert_array_equal(permuted, found[order])
    ends = found[:, -1] - found[:, 0]
    assume(((ends == 0) | (ends > 1e-4)).all())  # not decided by rounding
    scaled = covered_potential(scale * values, scale * references, successes)
    np.testing.assert_allclose(scaled, found, rtol=0, atol=1e-6)


rising = st.integers(1, 12).flatmap(
    lambda length: st.tuples(
        st.just(length),
        st.lists(
            st.tuples(st.integers(0, length), st.floats(0, 1)), min_size=1, max_size=8
        ),
    )
)  # fmt: skip


@given(rising)
@settings(max_examples=100)
def test_shares_sum_to_1_and_are_not_negative(case):
    length, moments = case
    steps = np.array(sorted(step for step, _ in moments))
    values = np.array(sorted(value for _, value in moments))
    shares = step_shares(values, steps, length)
    assert shares.shape == (length,)
    assert (shares >= 0).all()
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    if values[-1] - values[0] > 1e-6:
        expected = shares_of(values.tolist(), steps.tolist(), length)
        np.testing.assert_allclose(shares, expected, atol=1e-9)


def test_relabel_with_dense_credit_adds_potentials_and_changes_no_reward():
    latents = paths(SUCCESS, [0, 1, 1, 1], [0, 2, 0, 0], [0, 0, 0, 0])
    wins, ids = [True, False, False, False], [0, 0, 0, 1]
    plain, dense = (relabel(latents, wins, ids, credit=c) for c in ("episode", "dense"))
    np.testing.assert_array_equal(plain.rewards, dense.rewards)
    assert plain.potentials.shape == (4, 0)
    expected = [[0, 0.5, 5 / 6, 1], [0, 0.5, 0.5, 0.5], [0, 4 / 6, 4 / 6, 4 / 6]]
    np.testing.assert_allclose(dense.potentials[:3], expected)
    assert np.isnan(dense.potentials[3]).all()  # its group has no success
    # The end of the potential is what the distance measures.
    distances = coverage_distance(latents[1:3], latents[:1])[0]
    np.testing.assert_allclose(1 - distances / 1.5, dense.potentials[1:3, -1])


@pytest.mark.parametrize(
    ("path", "success", "expected"),
    [
        ([0, 1, 1, 1], False, [0, 1 / 3, 1 / 3, 1 / 3]),
        ([0, 2, 0, 0], False, [0, 2 / 3, 2 / 3, 2 / 3]),
        ([1, 2, 2, 2], False, [0, 2 / 3, 2 / 3, 2 / 3]),
        ([0, 1, 2, 2], True, [0, 0.5, 1, 1]),
        ([0, 0, 0, 0], False, [0, 0, 0, 0]),
        ([0, 0, 0, 0], True, [0, 0, 0, 1]),
    ],
)
def test_placed_potential_equals_a_calculation_by_hand(path, success, expected):
    pytest.importorskip("dtaidistance")
    found = placed_potential(paths(path), paths(SUCCESS), np.array([success]))[0]
    np.testing.assert_allclose(found, expected)


@given(cases)
@settings(max_examples=100)
def test_placed_potential_is_monotone_within_0_and_1(case):
    pytest.importorskip("dtaidistance")
    values, references, successes = case
    found = placed_potential(values, references, successes)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert found.shape[1] == 1 or (found[:, 0] == 0).all()
    assert (found[successes, -1] == 1).all()


def test_the_potential_is_that_of_the_distance():
    pytest.importorskip("dtaidistance")
    latents = paths(SUCCESS, [0, 1, 1, 1], [0, 2, 0, 0])
    reward = ProgressReward(distance=remaining_share)
    found = relabel(latents, [True, False, False], reward=reward, credit="dense")
    np.testing.assert_allclose(1 - found.distances, found.potentials[:, -1])
    assert found.rewards[2] > found.rewards[1]


def test_dense_credit_of_points_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"needs latents that are paths.*got \(2,\)"):
        relabel([[0.0, 1.0]], [True], credit="dense")
    with pytest.raises(ValueError, match=r"`credit` must be one of .*got 'sparse'"):
        relabel([[0.0, 1.0]], [True], credit="sparse")
    with pytest.raises(ValueError, match="needs latents that are paths"):
        step_shares(np.empty(0), np.empty(0, np.int64), 3)
