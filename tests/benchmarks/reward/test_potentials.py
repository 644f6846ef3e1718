"""Figures of the progress potential within failures, against episodes with known progress."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("dtaidistance")

from srpo_env.benchmarks.reward.encoder_rows import Row, make_rows
from srpo_env.benchmarks.reward.potentials import (
    PLACES,
    TaskPotentials,
    measure_potentials,
    potential_figures,
)
from srpo_env.benchmarks.reward.rankings import Bootstrap
from srpo_env.benchmarks.reward.task_distances import task_labels
from srpo_env.rewards.distances import remaining_share
from tests.benchmarks.reward.toy_episodes import slide

SUCCESS = np.linspace(0, 1, 5)
ROW = Row("places", lambda paths: np.stack(paths))


def measured(*failures, moved=None):
    """Measures failures with one latent per frame: the place, or ``moved`` instead."""
    episodes = [slide(SUCCESS, seed=1), slide(SUCCESS, seed=2)]
    episodes += [slide(places) for places in failures]
    paths = [SUCCESS, SUCCESS, *(failures if moved is None else moved)]
    labels = task_labels("toy", episodes, 8)
    found = measure_potentials(ROW, labels, np.array(paths, np.float32)[..., None], episodes)
    return found, potential_figures([found], Bootstrap.draw([labels], 50, 0))


STOPS, DROPS = [0, 0.25, 0.5, 0.5, 0.5], [0, 0.25, 0.75, 0.25, 0.25]


def test_a_potential_of_the_true_places_agrees_with_the_oracle():
    found, figures = measured(STOPS, DROPS)
    np.testing.assert_allclose(found.within, 1)
    assert figures["within"] == pytest.approx(1)
    assert figures["within_interval"] == pytest.approx((1, 1))
    assert figures["time_within"] < 1  # time goes on after the furthest moment
    assert figures["earned"] == pytest.approx({**dict.fromkeys(PLACES, 0), "record": 1})


def test_regret_is_the_progress_that_was_lost_at_the_end():
    _, figures = measured(STOPS, DROPS)
    assert figures["regret"] == pytest.approx((0 + 0.5) / 2)
    assert figures["lost_a_stage"] == 0.5


def test_potential_that_is_earned_in_retries_and_standstills_is_counted():
    oracle = [0, 0.5, 0.25, 0.5, 0.5]  # rises, falls, rises again to where it was, stands still
    # The latent covers the success in the three intervals in which the oracle makes no record.
    found, figures = measured(oracle, STOPS, moved=[[0, 0, 0.25, 0.5, 0.75], STOPS])
    # Uncovered places of 0 0.25 0.5 0.75 1 sum to 2.5, and after each move to 1.5, 0.75 and 0.25.
    np.testing.assert_allclose(found.earned[0], [0, 1 / 2.5, 0.75 / 2.5, 0.5 / 2.5])
    others = found.earned[1].sum()
    assert figures["earned"]["retry"] == pytest.approx(0.3 / (0.9 + others))
    assert sum(figures["earned"].values()) == pytest.approx(1)


def test_failures_in_which_the_oracle_never_changes_do_not_count():
    found, figures = measured([0.2] * 5, STOPS)
    assert np.isnan(found.within[0])
    assert figures["within"] == pytest.approx(1)


def test_points_have_no_potential():
    episodes = [slide(SUCCESS), slide(SUCCESS), slide(STOPS), slide(DROPS)]
    labels = task_labels("toy", episodes, 8)
    assert measure_potentials(ROW, labels, np.zeros((4, 1, 3), np.float32), episodes) is None


def test_the_oracle_is_read_at_the_last_frame_of_each_moment():
    row = Row("late", ROW.encode_paths, moment_frames=lambda num_frames: np.array([1, 4]))
    episodes = [slide(SUCCESS), slide(SUCCESS), slide(STOPS), slide(DROPS)]
    labels = task_labels("toy", episodes, 8)
    paths = np.array([[0, 1], [0, 1], [0, 0.5], [0, 0.75]], np.float32)[..., None]
    found = measure_potentials(row, labels, paths, episodes)
    # The oracle rises from 0.25 to 0.5 and 0.75: to the furthest, though DROPS is at 0.25 again.
    assert isinstance(found, TaskPotentials)
    assert (found.earned[:, 0] > 0).all()
    assert (found.earned[:, 1:] == 0).all()


class Own:
    """An encoder with its own distance and its own moments."""

    latent_shape = (2, 1)
    distance = staticmethod(remaining_share)

    def encode(self, videos):
        return np.zeros((len(videos), 2, 1), np.float32)

    def moment_frames(self, num_frames):
        return np.array([0, num_frames // 2])


def test_the_distance_and_the_moments_of_a_users_encoder_are_used():
    (row,) = make_rows([f"{__name__}:Own"])
    assert row.distance is remaining_share
    assert row.moments(8, 2).tolist() == [0, 4]
