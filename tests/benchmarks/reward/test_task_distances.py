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
    TaskScores,
    curve_figures,
    facts_of,
    make_groups,
    score_task,
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
    return facts_of("toy", episodes, 8), latents_of(episodes)


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
        (7, 5, [(4, 4)]),  # one failure is left, which has nothing to be ranked with
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


def test_without_a_state_for_a_group_its_episodes_have_mixed_ones():
    episodes = [
        *(slide(np.linspace(0, 1, 8), init_state_id=state) for state in range(4)),
        *(slide(np.linspace(0, 0.5, 8), init_state_id=state) for state in range(4, 8)),
    ]
    facts = facts_of("toy", episodes, 8)
    assert not facts.same_state
    assert [len(group.failures) for group in facts.groups] == [4]


def test_a_task_with_nothing_to_rank_is_left_out():
    assert facts_of("toy", toy_episodes()[:4], 8) is None  # three successes and a failure
    assert facts_of("toy", toy_episodes()[2:8], 8) is None  # a success, which has no other


# --- Distances ------------------------------------------------------------------------------------


def test_the_papers_option_is_the_reward_that_the_library_pays(toy):
    facts, latents = toy
    scores = score_task(facts, latents, "mean", "dbscan")
    paid = relabel(latents.whole.mean(axis=1), facts.successes)
    np.testing.assert_allclose(scores.ranking[AS_RECORDED], paid.distances[facts.failed])


def test_centers_are_clusters_single_successes_or_their_mean():
    option = OPTIONS["in-step"]
    successes = np.array([[[0.0]], [[1.0]], [[10.0]]], np.float32)  # two alike, one alone
    path = np.array([[[6.0]]], np.float32)
    assert distances(option, path, successes, "nearest") == pytest.approx([4])
    assert distances(option, path, successes, "mean") == pytest.approx([6 - 11 / 3])
    assert distances(option, path, successes, "dbscan") == pytest.approx([4])


def test_a_success_is_not_compared_with_itself():
    option = OPTIONS["in-step"]
    successes = np.array([0.0, 0.1, 0.2, 50.0], np.float32)[:, None, None]
    clustering = cluster(option, successes)
    assert (clustering.num_clusters, clustering.num_singles) == (1, 1)
    np.testing.assert_allclose(
        np.sort(centers_without(option, successes, clustering, 0).ravel()), [0.15, 50]
    )
    np.testing.assert_allclose(centers_without(option, successes, clustering, 3).ravel(), [0.1])


def test_placement_compares_with_other_initial_states_only(toy):
    facts, latents = toy
    scores = score_task(facts, latents, "mean", "nearest")
    other = np.flatnonzero(facts.successes & (facts.init_states == 1))
    failed = facts.failed[facts.init_states[facts.failed] == 0]
    expected = distances(OPTIONS["mean"], latents.whole[failed], latents.whole[other], "nearest")
    np.testing.assert_allclose(scores.ranking[PLACEMENT][: len(failed)], expected)


def test_a_shift_of_the_failures_alone_leaves_the_successes_as_they_were(toy):
    facts, latents = toy
    shifted = replace(latents, shifted={"light": latents.whole + 1})
    scores = score_task(facts, shifted, "mean", "dbscan")
    np.testing.assert_allclose(
        scores.ranking["light"], scores.ranking[AS_RECORDED], rtol=1e-4
    )  # all by 1
    assert (scores.ranking["light" + ONE_SIDED] > scores.ranking[AS_RECORDED]).all()


@pytest.mark.parametrize("name", ["coverage", "unvisited", "remaining", "ordered"])
def test_failures_of_the_sliding_square_are_ranked_by_how_far_it_came(toy, name):
    facts, latents = toy
    scores = score_task(facts, latents, name, "dbscan")
    drawn = Bootstrap.draw([facts], num_samples=20, seed=0)
    found = figures([facts], [scores], drawn)
    assert found["group"]["tau"] == pytest.approx(1)
    assert found["group"]["overpaid"] == 0
    assert found["task"]["accuracy_a_stage_apart"] == 1


# --- Curves ---------------------------------------------------------------------------------------


def test_windows_grow_from_two_frames_to_all():
    np.testing.assert_array_equal(window_ends(11, 4), [2, 5, 8, 11])
    np.testing.assert_array_equal(window_ends(1, 3), [1, 1, 1])


def test_curves_of_successes_that_end_at_1_and_failures_that_do_not():
    rising, falling = progress_curve(np.array([2.0, 1.0, 0.0])), np.array([0.0, 1.0, 0.0])
    found = curve_figures([rising, rising], [falling, falling])
    assert (found["spearman"], found["monotonicity"]) == (pytest.approx(1), 1)
    assert found["mmd"] == pytest.approx(2)
    assert found["js"] == pytest.approx(np.log(2))
    assert np.isnan(found["smd"])  # no spread: the paper's own reference comes near this


def test_beside_its_own_end_a_success_ends_at_1(toy):
    facts, latents = toy
    curves = score_task(facts, latents, "mean", "dbscan").curves
    assert curves["self"]["spearman"] >= curves["others"]["spearman"] > 0.8


def test_under_shift_a_success_is_compared_with_shifted_ones(toy):
    facts, latents = toy
    scores = score_task(facts, latents, "mean", "dbscan")
    assert scores.shifted_curves["light"] == scores.curves["others"]["spearman"]  # no change at all
    backwards = replace(
        latents, shifted_windows={"light": latents.windows[facts.successes][:, ::-1]}
    )
    changed = score_task(facts, backwards, "mean", "dbscan")
    assert changed.shifted_curves["light"] == pytest.approx(-scores.shifted_curves["light"])
    assert changed.curves == scores.curves


# --- Figures --------------------------------------------------------------------------------------


def scores_that_say(facts, distances):
    groups = [distances[np.searchsorted(facts.failed, group.failures)] for group in facts.groups]
    return TaskScores("dbscan", {AS_RECORDED: distances}, {AS_RECORDED: groups})


def test_the_truth_itself_ranks_perfectly_and_its_opposite_as_badly_as_can_be(toy):
    facts, _ = toy
    drawn = Bootstrap.draw([facts], num_samples=50, seed=0)
    truth = facts.furthest[facts.failed]
    best = figures([facts], [scores_that_say(facts, 1 - truth)], drawn)
    worst = figures([facts], [scores_that_say(facts, truth)], drawn)
    assert (best["task"]["tau"], best["group"]["tau"]) == (pytest.approx(1), pytest.approx(1))
    assert best["task"]["interval"] == pytest.approx((1, 1))
    assert worst["task"]["tau"] == pytest.approx(-1)
    assert set(best["rank_errors"].values()) == {0.0}
    # The one that came least far is paid most: nine places of ten too high, its like eight.
    assert worst["rank_errors"]["stops_0"] == pytest.approx(0.8)


def test_noise_for_distances_has_an_interval_around_0(toy):
    facts, _ = toy
    noise = np.random.default_rng(0).random((20, len(facts.failed)))
    scores = [scores_that_say(facts, row) for row in noise]
    found = figures([facts] * 20, scores, Bootstrap.draw([facts] * 20, 200, seed=0))
    low, high = found["task"]["interval"]
    assert low < 0 < high


def test_both_formulas_rank_alike(toy):
    facts, latents = toy
    found = figures(
        [facts],
        [score_task(facts, latents, "coverage", "dbscan")],
        Bootstrap.draw([facts], 5, seed=0),
    )
    assert 0.8 < found["group"]["correlation_paper"] <= 1
    assert 0.8 < found["group"]["correlation_siirl"] <= 1
