from __future__ import annotations

import numpy as np
import pytest

from srpo_env import SelfReferentialProgressWrapper
from srpo_env.rewards import distances
from tests.corridor import GIVE_UP, STAY, WALK, drive, make_corridor

pytest.importorskip("dtaidistance")

SUCCESS = [0.0, 1.0, 2.0, 3.0]
STOPS = [0.0, 1.0, 1.0, 1.0]
TURNS_BACK = [0.0, 2.0, 0.0, 0.0]
BACKWARDS = [3.0, 2.0, 1.0, 0.0]

METRES = [
    distances.end_distance,
    distances.dtw_distance,
    distances.transport_distance,
    distances.coverage_distance,
    distances.ordered_coverage_distance,
]
"""In units of the latents"""
SHARES = [distances.remaining_share, distances.unreached_share, distances.unvisited_share]
"""Without a unit, in [0, 1]"""
EVERY = [*METRES, *SHARES]


def paths(*values):
    """Returns paths in one dimension."""
    return np.array(values, np.float64)[..., None]


def random_paths(count, seed=0, num_times=6, dim=3):
    return np.random.default_rng(seed).normal(size=(count, num_times, dim)).cumsum(axis=1)


@pytest.mark.parametrize(
    ("distance", "stops", "turns_back"),
    [
        # The last of four times is the last quarter.
        (distances.end_distance, 2.0, 3.0),
        # 0-0, 1-1, 1-2, 1-3; and 0-0, 2-1, 2-2, 0-2, 0-3.
        (distances.dtw_distance, np.sqrt(0 + 0 + 1 + 4), np.sqrt(0 + 1 + 0 + 4 + 9)),
        # Sorted, 0 1 1 1 and 0 0 0 2 beside 0 1 2 3.
        (distances.transport_distance, np.sqrt(5 / 4), np.sqrt((0 + 1 + 4 + 1) / 4)),
        # Nearest to 0, 1, 2, 3.
        (distances.coverage_distance, (0 + 0 + 1 + 2) / 4, (0 + 1 + 0 + 1) / 4),
        (distances.ordered_coverage_distance, (0 + 0 + 1 + 2) / 4, (0 + 1 + 0 + 1) / 4),
        # Steps of the success are 1 wide.
        (
            distances.unvisited_share,
            1 - (1 + 1 + np.exp(-0.5) + np.exp(-2)) / 4,
            1 - (1 + np.exp(-0.5) + 1 + np.exp(-0.5)) / 4,
        ),
    ],
)
def test_distances_equal_calculations_by_hand(distance, stops, turns_back):
    found, nearest = distance(paths(STOPS, TURNS_BACK), paths(SUCCESS))
    np.testing.assert_allclose(found, [stops, turns_back], atol=1e-7)
    np.testing.assert_array_equal(nearest, [0, 0])


def test_remaining_distance_is_measured_after_the_best_end():
    # Stopping at 1 fits the first two of four times; two of three steps were still to come.
    found, _ = distances.remaining_share(paths(STOPS, SUCCESS), paths(SUCCESS))
    np.testing.assert_allclose(found, [2 / 3, 0])


def test_remaining_distance_uses_the_best_fitting_success():
    far = [5.0, 5.0, 5.0, 5.0]  # its nearest moment is the end
    found, nearest = distances.remaining_share(paths(STOPS), paths(far, SUCCESS))
    assert found == pytest.approx([2 / 3])
    np.testing.assert_array_equal(nearest, [1])


def test_remaining_distance_counts_the_furthest_place_also_if_the_path_turns_back():
    found, _ = distances.remaining_share(paths([0, 1, 2, 0]), paths(SUCCESS))
    np.testing.assert_allclose(found, [1 / 3])


def test_a_path_may_pass_moments_of_the_reference_without_showing_them():
    places, _ = distances.furthest_places(paths([0, 0, 0, 3])[0], paths(SUCCESS)[0])
    np.testing.assert_allclose(places, [0, 0, 0, 1])


def test_a_reference_that_stands_still_is_at_one_place():
    places, cost = distances.furthest_places(paths([0, 1])[0], paths([0, 0, 1, 1])[0])
    np.testing.assert_allclose(places, [1 / 3, 1])
    assert cost == 0


def test_nothing_is_passed_on_a_reference_that_does_not_move():
    still = np.full((4, 1), 5.0)
    noise = 1e-9 * np.arange(4.0)[:, None]
    for path in (still, still + noise, paths(SUCCESS)[0]):
        np.testing.assert_array_equal(distances.furthest_places(path, still + noise)[0], 0)


def test_noise_below_single_precision_moves_no_place():
    waits = paths([5, 5, 5, 8])[0]
    noise = 1e-9 * np.arange(4.0)[:, None]
    places, _ = distances.furthest_places(np.full((4, 1), 5.0), waits + noise)
    np.testing.assert_allclose(places, 2 / 3)


def test_a_path_beside_the_start_of_the_reference_has_not_left_it():
    # However far beside: its distances from the next moments are larger only in second order.
    reference = np.stack([1e-3 * np.arange(16.0), np.ones(16)], axis=1)
    for offset in (0.3, 1.0, 3.0):
        path = np.tile([0.0, 1.0 + offset], (16, 1))
        assert distances.furthest_places(path, reference)[0].max() == 0


@pytest.mark.parametrize("distance", [distances.dtw_distance, distances.remaining_share])
def test_warping_compares_paths_of_different_lengths(distance):
    found, _ = distance(paths([0, 0, 1, 2, 2, 3, 3]), paths(SUCCESS))
    np.testing.assert_allclose(found, 0)


@pytest.mark.parametrize("distance", EVERY)
def test_latents_of_single_precision_can_be_compared(distance):
    failures, successes = random_paths(3, seed=1), random_paths(2, seed=2)
    found, nearest = distance(failures.astype(np.float32), successes.astype(np.float32))
    expected, rows = distance(failures, successes)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(nearest, rows)


def test_furthest_places_equal_a_search_over_all_alignments():
    path, reference = (
        random_paths(1, seed=1, num_times=4)[0],
        random_paths(1, seed=2, num_times=3)[0],
    )
    squares = np.square(path[:, None] - reference).sum(axis=-1)

    def best(row, column):  # smallest sum of squares that ends with these moments matched
        if row < 0 or column < 0:
            return 0.0 if row == column == -1 else np.inf
        before = min(best(row - 1, column), best(row, column - 1), best(row - 1, column - 1))
        return squares[row, column] + before

    table = np.sqrt([[best(row, column) for column in range(3)] for row in range(4)])
    places, cost = distances.furthest_places(path, reference)
    np.testing.assert_allclose(places, np.maximum.accumulate(table.argmin(axis=1)) / 2)
    assert cost == pytest.approx(table[-1].min())


def test_furthest_moment_is_interpolated_between_moments_of_the_success():
    weights = np.exp(-((1.0 - np.arange(4)) ** 2) / 2)
    place = weights @ np.arange(4) / weights.sum() / 3
    found, _ = distances.unreached_share(paths(STOPS), paths(SUCCESS))
    np.testing.assert_allclose(found, [1 - place])


def test_only_ordered_coverage_depends_on_the_order_of_moments():
    assert distances.coverage_distance(paths(BACKWARDS), paths(SUCCESS))[0] == pytest.approx(
        [0], abs=1e-7
    )
    # One moment near the middle is matched with all: 1 + 0 + 1 + 2.
    ordered, _ = distances.ordered_coverage_distance(paths(BACKWARDS), paths(SUCCESS))
    assert ordered == pytest.approx([1.0])


def test_ordered_coverage_equals_a_search_over_all_alignments():
    path, reference = random_paths(1, seed=1, num_times=4), random_paths(1, seed=2, num_times=3)
    steps = np.linalg.norm(path[0][:, None] - reference[0], axis=-1)
    ways = [
        steps[a, 0] + steps[b, 1] + steps[c, 2]
        for a in range(4)
        for b in range(a, 4)
        for c in range(b, 4)
    ]
    found, _ = distances.ordered_coverage_distance(path, reference)
    np.testing.assert_allclose(found, [min(ways) / 3])


@pytest.mark.parametrize("distance", EVERY)
def test_distance_falls_along_a_success(distance):
    success = np.arange(8.0)
    stopped = [np.minimum(success, last) for last in range(8)]
    found, _ = distance(paths(*stopped), paths(success))
    assert (np.diff(found) < 0).all()


@pytest.mark.parametrize("distance", [d for d in EVERY if d is not distances.unreached_share])
def test_distance_of_a_success_to_itself_is_zero_and_it_is_its_nearest(distance):
    successes = random_paths(3)
    found, nearest = distance(successes, successes)
    np.testing.assert_allclose(found, 0, atol=1e-6)
    np.testing.assert_array_equal(nearest, [0, 1, 2])


@pytest.mark.parametrize("distance", EVERY)
def test_distance_does_not_depend_on_other_paths_or_on_the_order_of_references(distance):
    failures, successes = random_paths(4, seed=1), random_paths(3, seed=2)
    found, nearest = distance(failures, successes)
    np.testing.assert_allclose(distance(failures[2:], successes)[0], found[2:])
    again, swapped = distance(failures, successes[::-1])
    np.testing.assert_allclose(again, found)
    np.testing.assert_array_equal(2 - swapped, nearest)


@pytest.mark.parametrize("distance", EVERY)
def test_distances_do_not_depend_on_the_origin_and_scale_with_the_latents(distance):
    failures, successes = random_paths(4, seed=1), random_paths(3, seed=2)
    found, _ = distance(failures, successes)
    moved, _ = distance(10 * failures + 100, 10 * successes + 100)
    np.testing.assert_allclose(moved, found * (10 if distance in METRES else 1), rtol=1e-6)


@pytest.mark.parametrize("distance", SHARES)
def test_shares_lie_between_0_and_1(distance):
    found, _ = distance(random_paths(20, seed=1), random_paths(3, seed=2))
    assert (found >= 0).all()
    assert (found <= 1).all()


@pytest.mark.parametrize("distance", EVERY)
def test_paths_of_one_time_and_successes_that_do_not_move_can_be_compared(distance):
    if distance is distances.remaining_share:
        with pytest.raises(ValueError, match="at least two moments, got one"):
            distance(random_paths(3, num_times=1), random_paths(2, seed=2, num_times=1))
    else:
        found, _ = distance(random_paths(3, num_times=1), random_paths(2, seed=2, num_times=1))
        assert np.isfinite(found).all()
    still = np.ones((2, 4, 3))
    assert np.isfinite(distance(random_paths(3, num_times=4), still)[0]).all()


# --- As latents ---


def test_wrapper_compares_paths_by_coverage():
    class PlaceAtEachTime:
        latent_shape = (4, 1)

        def encode(self, videos):
            times = [np.linspace(0, len(video) - 1, 4).round().astype(int) for video in videos]
            return np.stack(
                [video[t, 0, 0, :1] for video, t in zip(videos, times, strict=True)]
            ).astype(np.float32)

    envs = SelfReferentialProgressWrapper(
        make_corridor(3),
        PlaceAtEachTime(),
        group_size=3,
    )
    envs.reset(seed=0)
    list(drive(envs, [[WALK, GIVE_UP, WALK], [WALK, STAY, WALK], [WALK, STAY, GIVE_UP]]))
    (group,) = envs.pop_groups()
    # The success has frames at 0, 1, 2 and 3; one failure stays at 0, the other reaches 2.
    measured = [episode.distance for episode in group.episodes]
    np.testing.assert_allclose(measured, [0, (0 + 1 + 2 + 3) / 4, 1 / 4], atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize(
    "distance", [distances.coverage_distance, distances.ordered_coverage_distance]
)
def test_paths_that_reach_every_moment_are_equally_near_to_the_last_digit(distance, offset):
    rng = np.random.default_rng(0)
    success = rng.normal(size=(6, 32)) + offset
    slow = np.repeat(success, 2, axis=0)[:12:2]
    detours = np.stack([success, slow, success[[0, 1, 2, 3, 4, 5]]])
    assert (distance(detours, success[None])[0] == 0).all()
