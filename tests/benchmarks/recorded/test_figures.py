"""Measures of recorded episodes, with expected values calculated by hand."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.benchmarks.recorded.figures import check_latents
from srpo_env.benchmarks.recorded.latents import MAX_CURVES, EncodedEpisodes, encode_episodes
from srpo_env.rewards.progress import ProgressReward
from tests.benchmarks.recorded.toy_recordings import Blind, LastPosition, Noise, recorded, walks


def check(episodes, encoder=None):
    (encoded,) = encode_episodes(episodes, {"toy": encoder or LastPosition()})
    return check_latents(encoded, num_samples=200)


def test_each_success_is_compared_with_the_center_of_the_others():
    (task,) = check(walks([100, 102, 104], [50, 60])).tasks
    # Centers of the others: 103, 102, 101. Center of all: 102.
    np.testing.assert_allclose(task.success_distances, [3, 0, 3])
    np.testing.assert_allclose(task.failure_distances, [52, 42])
    assert (task.num_clusters, task.num_singles, task.is_fallback) == (1, 0, False)
    assert task.spread == pytest.approx(5 / 47)
    assert task.separation == 1.0
    assert task.correlation == pytest.approx(1.0)


def test_separation_compares_failure_and_success_with_the_same_references():
    (task,) = check(walks([100, 102, 104], [50, 103])).tasks
    # The failure at 103 is 0, 1 and 2 from the centers, the successes are 3, 0 and 3.
    np.testing.assert_array_equal(task.is_farther, [[1, 0], [1, 1], [1, 0]])
    assert task.separation == pytest.approx(4 / 6)


def test_equal_distances_count_half():
    found = check(walks(), Blind())
    assert found.separation.value == 0.5
    assert found.correlation.value == 0.0
    assert found.spread == 0.0


def test_random_latents_are_at_chance():
    found = check(walks([100] * 12, [50] * 12), Noise())
    assert abs(found.correlation.value) < 0.3
    assert abs(found.separation.value - 0.5) < 0.25
    assert found.separation.low < 0.5 < found.separation.high


def test_progress_that_falls_with_time_has_a_negative_correlation():
    latents = np.array([[0.0], [0.0], [0.0]])
    prefixes = {row: np.array([[1.0], [2.0], [3.0]]) for row in range(3)}
    times = {row: np.array([0.2, 0.6, 1.0]) for row in range(3)}
    encoded = EncodedEpisodes(
        "toy", ProgressReward(), ("t",) * 3, np.ones(3, bool), latents, prefixes, times
    )
    found = check_latents(encoded)
    assert found.correlation.value == pytest.approx(-1)
    np.testing.assert_allclose(found.tasks[0].curves, [[1, 0.5, 0]] * 3)


def test_a_single_success_is_a_fallback_and_an_outlier_is_a_separate_center():
    (alone,) = check(walks([100])).tasks
    assert (alone.num_clusters, alone.num_singles, alone.is_fallback) == (0, 1, True)
    (outlier,) = check(walks([100, 102, 104, 200])).tasks
    assert (outlier.num_clusters, outlier.num_singles, outlier.is_fallback) == (1, 1, False)


def test_means_give_every_task_the_same_weight():
    episodes = walks([100, 102, 104], [50] * 9, "easy") + walks([100, 102, 104], [102], "hard")
    found = check(episodes)
    easy, hard = found.tasks
    # The failure at 102 is 1, 0 and 1 from the centers: nearer, tie, nearer.
    assert (easy.separation, hard.separation) == (1.0, pytest.approx(0.5 / 3))
    assert found.separation.value == pytest.approx((1 + 0.5 / 3) / 2)


def test_one_success_leaves_correlation_and_separation_unmeasured():
    found = check(walks([100], [50, 60]))
    (task,) = found.tasks
    assert np.isnan([task.correlation, task.separation, task.success_distances[0]]).all()
    assert np.isnan([found.correlation.value, found.separation.low]).all()
    np.testing.assert_allclose(task.failure_distances, [50, 40])


def test_no_failure_leaves_separation_and_spread_unmeasured():
    found = check(walks(failures=()))
    assert np.isnan([found.separation.value, found.spread]).all()
    assert found.correlation.value == pytest.approx(1)


def test_a_task_without_success_does_not_count():
    found = check([*walks(), recorded(30, False, "other")])
    assert [task.num_successes for task in found.tasks] == [3, 0]
    assert found.separation.value == 1.0


def test_no_success_at_all_is_an_error():
    with pytest.raises(ValueError, match=r"none of 2 has: .* check the success labels"):
        check(walks(successes=()))


def test_no_episode_is_an_error():
    with pytest.raises(ValueError, match="at least one recorded episode, got none"):
        check([])


def test_a_latent_that_is_not_finite_names_the_episode():
    class Broken(Blind):
        def encode(self, videos):
            return np.full((len(videos), 1), np.nan)

    with pytest.raises(ValueError, match=r"not finite for episode of toy\.hdf5"):
        check(walks(), Broken())


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_do_not_change_the_latents(batch_size):
    episodes = walks()
    (encoded,) = encode_episodes(episodes, {"toy": LastPosition()}, batch_size=batch_size)
    np.testing.assert_array_equal(encoded.latents[:, 0], [100, 102, 104, 50, 60])
    assert set(encoded.prefixes) == {0, 1, 2}  # of the successes only
    for row, end in enumerate([100, 102, 104]):
        prefixes = encoded.prefixes[row][:, 0]
        assert prefixes[-1] == end
        assert (np.diff(prefixes) >= 0).all()
        np.testing.assert_allclose(encoded.times[row][[0, -1]], [2 / 11, 1])


def test_prefixes_of_a_bounded_number_of_successes_are_encoded():
    episodes = walks([100] * (MAX_CURVES + 5), [], "many") + walks([100] * 3, [], "few")
    (encoded,) = encode_episodes(episodes, {"toy": LastPosition()})
    tasks = np.array(encoded.tasks)[list(encoded.prefixes)]
    assert ((tasks == "many").sum(), (tasks == "few").sum()) == (MAX_CURVES, 3)


def test_an_episode_of_one_frame_has_no_correlation_with_time():
    episodes = [recorded(100, True, num_frames=1) for _ in range(3)]
    assert check(episodes).correlation.value == 0.0
