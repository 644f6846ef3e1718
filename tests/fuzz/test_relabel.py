"""`relabel` on any input: documented errors, the laws of the reward, and the oracle's values."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from srpo_env import ProgressReward, relabel
from srpo_env.rewards import distances as named
from tests.fuzz.oracle import Ambiguous, scored
from tests.fuzz.running import fuzz

numbers = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 1e-300, 5e-324, 1e-30, 1e30, 1e150, -1e200, 1e308]),
)
any_numbers = st.one_of(numbers, st.floats(), st.integers(-(2**70), 2**70), st.complex_numbers())
shapes = st.one_of(
    st.tuples(st.integers(0, 9), st.integers(1, 4)),
    st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(1, 3)),
)
valid_latents = shapes.flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=numbers, fill=st.nothing())
)
any_latents = st.one_of(
    valid_latents,
    st.lists(st.lists(any_numbers, max_size=3), max_size=5),
    arrays.arrays(
        st.one_of(arrays.scalar_dtypes(), st.just(np.dtype(object))),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.none(), st.text(max_size=3), st.integers(),
)  # fmt: skip
ids = st.one_of(
    st.integers(0, 2), st.sampled_from(["a", "b", b"a"]), st.booleans(), st.none(),
    st.sampled_from([0.0, 1.0, float("nan"), float("inf")]),
    st.sampled_from([np.int64(1), np.float32(0), np.array(1), np.array([1]), np.str_("a")]),
    st.tuples(st.integers(0, 1), st.sampled_from(["a", None])),
    st.sampled_from([[], {}, set(), object(), np.zeros(2)]),
)  # fmt: skip
rewards = st.builds(
    ProgressReward,
    st.sampled_from(["paper", "siirl"]),
    st.one_of(st.none(), st.floats(1e-9, 1.0), st.just(1.0)),
)
PATHS = [
    named.end_distance, named.transport_distance, named.unreached_share, named.coverage_distance,
    named.ordered_coverage_distance, named.unvisited_share, named.distances_to_centers,
]  # fmt: skip


def outcome(function, *arguments):
    """What a function returns and "", or None and the message of a documented error."""
    try:
        return function(*arguments), ""
    except (ValueError, TypeError) as error:
        return None, str(error)


def plain(key):
    """A key as a value that Python compares."""
    if isinstance(key, list):
        return tuple(key)
    return key.item() if hasattr(key, "item") else key


def check_laws(result, successes, ids, weight):
    """The laws of design.md, section 3, for groups of equal ids."""
    successes = np.asarray(successes)
    assert result.rewards.shape == result.distances.shape == result.nearest_centers.shape
    assert np.isfinite(result.rewards).all()
    assert (result.rewards[successes] == 1).all()
    assert (result.rewards[~successes] >= 0).all()
    assert (result.rewards[~successes] < weight).all()
    for key in set(ids):
        rows = np.array([other == key for other in ids])
        failed = rows & ~successes
        if not (rows & successes).any():
            assert (result.rewards[rows] == 0).all()
            assert np.isnan(result.distances[rows]).all()
            assert (result.nearest_centers[rows] == -1).all()
            continue
        assert np.isfinite(result.distances[rows]).all()
        order = np.argsort(result.distances[failed], kind="stable")
        assert (np.diff(result.rewards[failed][order]) <= 0).all()  # nearer earns no less


@fuzz(
    60, 15_000,
    latents=any_latents, data=st.data(), reward=rewards,
    with_ids=st.booleans(),
)  # fmt: skip
def test_any_input_is_rewarded_or_refused(latents, data, reward, with_ids):
    try:
        count = len(latents)
    except TypeError:
        count = 2
    successes = data.draw(
        st.one_of(
            st.lists(st.booleans(), min_size=count, max_size=count).map(np.array),
            st.lists(st.sampled_from([True, False, 0, 1, None, np.nan]), max_size=3),
        )
    )
    keys = data.draw(st.lists(ids, min_size=count, max_size=count)) if with_ids else None
    result, message = outcome(relabel, latents, successes, keys, reward)
    assert result is not None or message
    if result is not None:
        keys = [plain(key) for key in keys or [0] * len(successes)]
        check_laws(result, np.asarray(successes, bool), keys, reward.weight)


@fuzz(60, 15_000, latents=valid_latents, data=st.data(), reward=rewards)
def test_laws_hold_at_any_magnitude(latents, data, reward):
    count = len(latents)
    successes = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    keys = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    result, message = outcome(relabel, latents, successes, keys, reward)
    if result is None:
        assert "at most 1e+100" in message
        assert np.abs(latents).max() > 1e100
        return
    check_laws(result, successes, keys, reward.weight)
    order = data.draw(st.permutations(range(count)))
    permuted = relabel(latents[order], successes[order], np.array(keys, int)[order], reward)
    assert permuted.rewards.shape == result.rewards.shape


@fuzz(40, 6_000, data=st.data(), distance=st.sampled_from(PATHS), reward=rewards)
def test_laws_hold_for_all_distances_of_paths(data, distance, reward):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3)))
    latents = data.draw(arrays.arrays(np.float64, shape, elements=st.floats(-1e3, 1e3, width=32)))
    successes = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    reward = ProgressReward(reward.formula, reward.weight, distance)
    check_laws(relabel(latents, successes, None, reward), successes, [0] * shape[0], reward.weight)


outputs = st.one_of(
    st.floats(), st.integers(), st.text(max_size=2), st.none(), st.booleans(),
    arrays.arrays(st.sampled_from([np.float64, np.int64, object, "U1"]),
                  arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)),
    st.lists(st.floats(), max_size=4),
)  # fmt: skip


@fuzz(40, 6_000, one=outputs, other=outputs, as_pair=st.booleans())
def test_any_distance_is_used_or_refused(one, other, as_pair):
    reward = ProgressReward(distance=lambda latents, centers: (one, other) if as_pair else one)
    successes = np.array([True, False, False, False])
    result, message = outcome(relabel, np.eye(4), successes, None, reward)
    if result is None:
        assert "the distance" in message
    else:
        check_laws(result, successes, [0] * 4, 0.8)


coordinates = st.one_of(st.integers(-6, 6), st.integers(-1000, 1000)).map(lambda n: n / 8)


@fuzz(
    60, 15_000,
    points=st.integers(1, 3).flatmap(lambda dim: st.lists(
        st.lists(coordinates, min_size=dim, max_size=dim), min_size=1, max_size=14)),
    data=st.data(), reward=rewards, scale=st.sampled_from([1.0, 2.0**-40, 2.0**40]),
    offset=st.sampled_from([0.0, 1000.0]),
)  # fmt: skip
def test_values_are_those_of_the_oracle(points, data, reward, scale, offset):
    count = len(points)
    successes = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    keys = data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    latents = [[(x + offset) * scale for x in point] for point in points]
    result = relabel(latents, successes, keys, reward)
    for key in set(keys):
        rows = [i for i in range(count) if keys[i] == key]
        try:
            expected = scored([latents[i] for i in rows], [successes[i] for i in rows],
                              reward.formula, reward.weight)  # fmt: skip
        except Ambiguous:
            assume(False)
        for row, (distance, value) in zip(rows, expected, strict=True):
            assert abs(result.rewards[row] - value) <= 1e-9
            assert (distance is None) == np.isnan(result.distances[row])
            if distance is not None:
                assert abs(result.distances[row] - distance) <= 1e-9 * scale * max(1, offset)
