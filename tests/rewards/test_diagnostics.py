"""Group statistics, and warnings about groups without signal."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from srpo_env.rewards.diagnostics import (
    PATIENCE,
    SignalMonitor,
    failures_above_success,
    group_statistics,
)
from srpo_env.types import Episode, Group


def episode(number, success, distance, reward):
    return Episode(
        episode_id=number,
        env_index=0,
        first_step=0,
        last_step=3,
        success=success,
        env_return=float(success),
        last_env_reward=float(success),
        distance=distance,
        progress_reward=reward,
        nearest_center=0,
        latent=np.zeros(2, np.float32),
    )


def group(*episodes, clusters=0, singles=0):
    """Makes a group of ``(success, distance, reward)``."""
    return Group(
        key=0,
        task=0,
        episodes=tuple(episode(number, *values) for number, values in enumerate(episodes)),
        centers=np.zeros((clusters + singles, 2)),
        num_clusters=clusters,
        num_singles=singles,
    )


WON, LOST = (True, 0.0, 1.0), (False, math.nan, 0.0)
ALL_FAILED = group(LOST, LOST)
ALL_SUCCEEDED = group(WON, WON, clusters=1)
SHAPED = group(WON, (False, 1.0, 0.6), (False, 3.0, 0.2), singles=1)
FLAT = group(WON, (False, 2.0, 0.4), (False, 2.0, 0.4), singles=1)


def test_statistics_count_groups_by_their_signal():
    report = group_statistics([ALL_FAILED, ALL_SUCCEEDED, SHAPED, FLAT])
    assert (report.num_groups, report.num_episodes, report.success_rate) == (4, 10, 0.4)
    assert (report.all_failed, report.all_succeeded, report.shaped) == (0.25, 0.25, 0.5)
    assert (report.without_signal, report.flat) == (0.5, 0.25)
    # Distances 1 and 3 have mean 2 and deviation 1; the equal ones have no spread.
    assert report.distance_spread == pytest.approx((1 / 2 + 0) / 2)
    # Of three groups with centers, one has a cluster and two have a single success.
    assert report.clusters == pytest.approx(1 / 3)
    assert report.fallbacks == pytest.approx(2 / 3)
    assert report.failures_above_success == 0


def test_statistics_are_a_dictionary_of_numbers_and_one_line_of_text():
    report = group_statistics([ALL_FAILED, SHAPED])
    assert all(isinstance(value, float) for value in report.as_dict().values())
    assert report.as_dict("a/")["a/all_failed"] == 0.5
    assert "\n" not in str(report)
    assert "50% all failed" in str(report)


def test_failures_with_a_higher_return_than_a_success_are_counted():
    # A reward of -1 at each step: the success came late, one failure gave up early.
    returns = zip(SHAPED.episodes, (-9.0, -2.0, -10.0), strict=True)
    odd = replace(SHAPED, episodes=tuple(replace(e, env_return=value) for e, value in returns))
    assert failures_above_success(odd) == 1
    assert group_statistics([odd]).failures_above_success == 1


@pytest.mark.parametrize(
    ("silent", "cause"),
    [
        (ALL_FAILED, "32 have no success"),
        (ALL_SUCCEEDED, "32 have no failure"),
        (group(LOST), "32 hold a single episode"),
    ],
)
def test_groups_without_signal_cause_a_warning_that_names_the_cause(silent, cause, caplog):
    monitor = SignalMonitor()
    monitor.update([silent] * (PATIENCE - 1))
    assert not caplog.records
    monitor.update([silent])
    assert cause in caplog.text
    assert "32 groups in a row carry no training signal" in caplog.text


def test_warning_is_repeated_when_the_number_of_groups_doubles(caplog):
    SignalMonitor().update([ALL_FAILED] * (4 * PATIENCE))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3


def test_group_with_signal_resets_the_warning(caplog):
    monitor = SignalMonitor()
    monitor.update([ALL_FAILED] * (PATIENCE - 1) + [SHAPED] + [ALL_FAILED] * (PATIENCE - 1))
    assert not caplog.records


def test_equal_distances_of_failures_cause_a_warning(caplog):
    SignalMonitor().update([FLAT] * PATIENCE)
    assert "In 32 groups in a row all failures are equally far" in caplog.text
