from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("dtaidistance")

from srpo_env.benchmarks.reward.distance_options import OPTIONS, centers_without, cluster, distances
from srpo_env.benchmarks.reward.encoder_rows import make_rows
from srpo_env.benchmarks.reward.latents import TaskLatents
from srpo_env.benchmarks.reward.metrics import progress_curve, window_ends
from srpo_env.benchmarks.reward.rankings import Bootstrap, figures
from srpo_env.benchmarks.reward.task_distances import (
    AS_RECORDED,
    ONE_SIDED,
    PLACEMENT,
    TaskDistances,
    curve_figures,
    make_groups,
    measure_task,
    task_labels,
)
from srpo_env.rewards.progress import relabel
from tests.benchmarks.reward.toy_episodes import slide, toy_episodes


def latents_of(episodes, num_windows=4):
    (row,) = make_rows(["pixels"])
    videos = [episode.frames for episode in episodes]
    whole = row.encode_paths(videos)
    windows = [v[:end] for v in videos for end in window_ends(len(v), num_windows)]
    parts = row.encode_paths(windows).reshape(len(videos), num_windows, *whole.shape[1:])
    successes = [episode.success for episode in episodes]
    return TaskLatents(whole, parts, {"light": whole}, {"light": parts[successes]})


@pytest.fixture(scope="module")
def toy():
    episodes = toy_episodes()
    return task_labels("toy", episodes, 8), latents_of(episodes)


# --- Groups ---------------------------------------------------------------------------------------


def test_groups_share_an_initial_state_and_no_episode_is_in_two():
    successes = np.tile([True, True, True, False, False, False, False, False], 3)
    states = np.repeat([4, 5, 6], 8)
    groups = make_groups(successes, states, group_size=8)
    assert len(groups) == 3
    members = np.concatenate([np.concatenate(group) for group in groups])
    assert sorted(members) == list(range(24))
    for group in groups:
        assert len(set(states[np.concatenate(group)])) == 1
        assert not successes[group.failures].any()
        assert successes[group.successes].all()


@pytest.mark.parametrize(
    ("num_successes", "num_failures", "sizes"),
    [
        (7, 4, [(4, 4)]),
        (7, 5, [(4, 4)]),  # the fifth failure has no other to be ranked with
        (1, 12, [(7, 1)]),
        (2, 3, [(3, 2)]),
        (8, 8, [(4, 4), (4, 4)]),
        (0, 8, []),
        (7, 1, []),
    ],
)
def test_a_group_is_half_failures_where_there_are_enough(num_successes, num_failures, sizes):
    successes = np.repeat([True, False], [num_successes, num_failures])
    groups = make_groups(successes, np.zeros(len(successes)), group_size=8)
    assert [(len(group.failures), len(group.successes)) for group in groups] == sizes


def test_groups_mix_initial_states_if_no_state_has_enough_episodes():
    episodes = [
        *(slide(np.linspace(0, 1, 8), init_state_id=state) for state in range(4)),
        *(slide(np.linspace(0, 0.5, 8), init_state_id=state) for state in range(4, 8)),
    ]
    labels = task_labels("toy", episodes, 8)
    assert not labels.same_state
    assert [len(group.failures) for group in labels.groups] == [4]


def test_a_task_with_fewer_than_two_successes_or_failures_has_no_labels():
    assert task_labels("toy", toy_episodes()[:4], 8) is None  # three successes and a failure
    assert task_labels("toy", toy_episodes()[2:8], 8) is None  # a success, which has no other


# --- Distances ------------------------------------------------------------------------------------


def test_the_papers_option_gives_the_distances_of_relabel(toy):
    labels, latents = toy
    measured = measure_task(labels, latents, "mean", "dbscan")
    paid = relabel(latents.whole.mean(axis=1), labels.successes)
    np.testing.assert_allclose(measured.ranking[AS_RECORDED], paid.distances[labels.failed])


def test_centers_are_cluster_means_successes_or_the_mean_of_all():
    option = OPTIONS["in-step"]
    successes = np.array([[[0.0]], [[1.0]], [[10.0]]], np.float32)  # a pair and a single
    path = np.array([[[6.0]]], np.float32)
    assert distances(option, path, successes, "nearest") == pytest.approx([4])
    assert distances(option, path, successes, "mean") == pytest.approx([6 - 11 / 3])
    assert distances(option, path, successes, "dbscan") == pytest.approx([4])


def test_centers_without_a_success_do_not_contain_it():
    option = OPTIONS["in-step"]
    successes = np.array([0.0, 0.1, 0.2, 50.0], np.float32)[:, None, None]
    clustering = cluster(option, successes)
    assert (clustering.num_clusters, clustering.num_singles) == (1, 1)
    np.testing.assert_allclose(
        np.sort(centers_without(option, successes, clustering, 0).ravel()), [0.15, 50]
    )
    np.testing.assert_allclose(centers_without(option, successes, clustering, 3).ravel(), [0.1])


def test_placement_compares_with_other_initial_states_only(toy):
    labels, latents = toy
    measured = measure_task(labels, latents, "mean", "nearest")
    other = np.flatnonzero(labels.successes & (labels.init_states == 1))
    failed = labels.failed[labels.init_states[labels.failed] == 0]
    expected = distances(OPTIONS["mean"], latents.whole[failed], latents.whole[other], "nearest")
    np.testing.assert_allclose(measured.ranking[PLACEMENT][: len(failed)], expected)


def test_placement_has_no_figure_if_a_task_has_one_initial_state_only(toy):
    labels, latents = toy
    one_state = replace(labels, init_states=np.zeros_like(labels.init_states))
    measured = [measure_task(task, latents, "mean", "dbscan") for task in (labels, one_state)]
    tasks = [labels, one_state]
    found = figures(tasks, measured, Bootstrap.draw(tasks, 50, seed=0))
    assert PLACEMENT not in found["shifts"]


def test_a_one_sided_shift_leaves_the_successes_unchanged(toy):
    labels, latents = toy
    shifted = replace(latents, shifted={"light": latents.whole + 1})
    measured = measure_task(labels, shifted, "mean", "dbscan")
    np.testing.assert_allclose(
        measured.ranking["light"], measured.ranking[AS_RECORDED], rtol=1e-4
    )  # all by 1
    assert (measured.ranking["light" + ONE_SIDED] > measured.ranking[AS_RECORDED]).all()


@pytest.mark.parametrize("name", ["coverage", "unvisited", "remaining", "ordered"])
def test_failures_of_the_sliding_square_are_ranked_by_progress(toy, name):
    labels, latents = toy
    measured = measure_task(labels, latents, name, "dbscan")
    bootstrap = Bootstrap.draw([labels], num_samples=20, seed=0)
    found = figures([labels], [measured], bootstrap)
    assert found["group"]["tau"] == pytest.approx(1)
    assert found["group"]["overpaid"] == 0
    assert found["task"]["accuracy_a_stage_apart"] == 1


# --- Curves ---------------------------------------------------------------------------------------


def test_windows_grow_from_two_frames_to_all():
    np.testing.assert_array_equal(window_ends(11, 4), [2, 5, 8, 11])
    np.testing.assert_array_equal(window_ends(1, 3), [1, 1, 1])


def test_curve_figures_of_rising_successes_and_failures_that_end_at_0():
    rising, falling = progress_curve(np.array([2.0, 1.0, 0.0])), np.array([0.0, 1.0, 0.0])
    found = curve_figures([rising, rising], [falling, falling])
    assert (found["spearman"], found["monotonicity"]) == (pytest.approx(1), 1)
    assert found["mmd"] == pytest.approx(2)
    assert found["js"] == pytest.approx(np.log(2))
    assert np.isnan(found["smd"])  # no spread


def test_compared_with_its_own_end_a_success_correlates_more_with_time(toy):
    labels, latents = toy
    curves = measure_task(labels, latents, "mean", "dbscan").curves
    assert curves["self"]["spearman"] >= curves["others"]["spearman"] > 0.8


def test_shifted_successes_are_compared_with_shifted_successes(toy):
    labels, latents = toy
    measured = measure_task(labels, latents, "mean", "dbscan")
    assert measured.shifted_curves["light"] == measured.curves["others"]["spearman"]
    backwards = replace(
        latents, shifted_windows={"light": latents.windows[labels.successes][:, ::-1]}
    )
    changed = measure_task(labels, backwards, "mean", "dbscan")
    assert changed.shifted_curves["light"] == pytest.approx(-measured.shifted_curves["light"])
    assert changed.curves == measured.curves


# --- Figures --------------------------------------------------------------------------------------


def as_task_distances(labels, distances):
    groups = [distances[np.searchsorted(labels.failed, group.failures)] for group in labels.groups]
    return TaskDistances("dbscan", {AS_RECORDED: distances}, {AS_RECORDED: groups})


def test_oracle_distances_have_tau_1_and_reversed_ones_minus_1(toy):
    labels, _ = toy
    bootstrap = Bootstrap.draw([labels], num_samples=50, seed=0)
    oracle = labels.max_progress[labels.failed]
    best = figures([labels], [as_task_distances(labels, 1 - oracle)], bootstrap)
    worst = figures([labels], [as_task_distances(labels, oracle)], bootstrap)
    assert (best["task"]["tau"], best["group"]["tau"]) == (pytest.approx(1), pytest.approx(1))
    assert best["task"]["interval"] == pytest.approx((1, 1))
    assert worst["task"]["tau"] == pytest.approx(-1)
    assert set(best["rank_errors"].values()) == {0.0}
    # stops_0 has the two lowest ranks of ten and is paid as the two highest: errors 0.9 and 0.7.
    assert worst["rank_errors"]["stops_0"] == pytest.approx(0.8)


def test_random_distances_have_an_interval_around_0(toy):
    labels, _ = toy
    noise = np.random.default_rng(0).random((20, len(labels.failed)))
    measured = [as_task_distances(labels, row) for row in noise]
    found = figures([labels] * 20, measured, Bootstrap.draw([labels] * 20, 200, seed=0))
    low, high = found["task"]["interval"]
    assert low < 0 < high


def test_rewards_of_both_formulas_correlate_with_the_oracle(toy):
    labels, latents = toy
    found = figures(
        [labels],
        [measure_task(labels, latents, "coverage", "dbscan")],
        Bootstrap.draw([labels], 5, seed=0),
    )
    assert 0.8 < found["group"]["correlation_paper"] <= 1
    assert 0.8 < found["group"]["correlation_siirl"] <= 1
