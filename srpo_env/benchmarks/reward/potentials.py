"""Quality of the progress potential within failures, against oracle progress at the same moments.

The rankings compare whole failures. Dense credit pays the steps of an episode, so here the moments
of each failure are compared with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srpo_env.benchmarks.reward.distance_options import OPTIONS, cluster
from srpo_env.benchmarks.reward.encoder_rows import Paths, Row
from srpo_env.benchmarks.reward.metrics import STAGE, interval, mean_of_known, spearman
from srpo_env.benchmarks.reward.rankings import Bootstrap
from srpo_env.benchmarks.reward.task_distances import TaskLabels
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.rewards.potential import potential_for
from srpo_env.types import Floats

CHANGE = 0.01
"""Smallest difference of oracle progress between two moments that counts as a change."""

PLACES = ("record", "fall", "retry", "standstill")
"""What the oracle's progress does between two moments: it rises above its maximum so far, falls,
rises again below its maximum, or does not change."""


@dataclass(frozen=True)
class TaskPotentials:
    """The failures of one task: agreement of potential and oracle, and where potential is earned.

    Arrays have one entry per failure, shape ``(num_failures,)``.
    """

    within: Floats
    """Spearman correlation of the potential with the oracle's furthest progress so far, over the
    moments of the failure; NaN if the oracle's does not change."""
    time_within: Floats
    """The same with time in place of the potential: any potential that rises gets as much."""
    pooled: float
    """Spearman correlation over all moments of all failures of the task."""
    time_pooled: float
    """The same with the share of the episode's time in place of the potential."""
    earned: Floats
    """Potential earned in each of `PLACES`, ``(num_failures, 4)``."""
    lost: Floats
    """Furthest minus final oracle progress: what the potential, which never falls, still counts."""


def measure_potentials(
    row: Row, labels: TaskLabels, whole: Paths, episodes: Sequence[BehaviourEpisode]
) -> TaskPotentials | None:
    """Measures the potentials of a task's failures against the centers of the task's successes.

    Args:
        row: The encoder.
        labels: Labels of the task's episodes.
        whole: Latents of the same episodes, ``(num_episodes, num_times, dim)``.
        episodes: The episodes.

    Returns:
        None if the latents are points.
    """
    if whole.shape[1] < 2:
        return None
    option, paths = OPTIONS["coverage"], np.asarray(whole, np.float64)
    clustering = cluster(option, whole[labels.successes])
    centers = clustering.centers.reshape(-1, *paths.shape[1:])
    failures = paths[labels.failed]
    nearest = row.distance(failures, centers)[1]
    never = np.zeros(len(failures), np.bool_)
    potentials = potential_for(row.distance)(failures, centers[nearest], never)
    oracle, times = [], []
    for index in labels.failed:
        progress = episodes[index].progress
        moments = row.moments(len(progress), whole.shape[1])
        # Between two moments the oracle can have been further than at either of them.
        oracle.append((np.maximum.accumulate(progress)[moments], progress[moments]))
        times.append(moments / max(1, len(progress) - 1))
    furthest = np.array([pair[0] for pair in oracle])
    now = np.array([pair[1] for pair in oracle])
    return TaskPotentials(
        within=_row_by_row(potentials, furthest),
        time_within=_row_by_row(np.array(times), furthest),
        pooled=spearman(potentials.ravel(), furthest.ravel()),
        time_pooled=spearman(np.array(times).ravel(), furthest.ravel()),
        earned=_earned(potentials, furthest, now),
        lost=np.array([e.progress.max() - e.progress[-1]
                       for e in (episodes[index] for index in labels.failed)]),
    )  # fmt: skip


def potential_figures(tasks: Sequence[TaskPotentials], bootstrap: Bootstrap) -> dict[str, Any]:
    """Computes the results of one encoder over all tasks, for JSON; `measure` describes them."""
    earned = np.concatenate([task.earned for task in tasks])
    lost = np.concatenate([task.lost for task in tasks])
    totals = earned.sum(axis=0)
    shares = totals / totals.sum() if totals.sum() > 0 else np.full(len(PLACES), np.nan)
    within = np.concatenate([task.within for task in tasks])
    pooled = np.array([task.pooled for task in tasks])
    return {
        "within": mean_of_known(within),
        "within_interval": interval(_resampled([task.within for task in tasks], bootstrap)),
        "time_within": mean_of_known(np.concatenate([task.time_within for task in tasks])),
        "pooled": mean_of_known(pooled),
        "pooled_interval": interval(bootstrap.tasks @ pooled / len(pooled)),
        "time_pooled": mean_of_known([task.time_pooled for task in tasks]),
        "earned": dict(zip(PLACES, shares.tolist(), strict=True)),
        "regret": float(lost.mean()),
        "lost_a_stage": float((lost >= STAGE).mean()),
    }


def _row_by_row(scores: Floats, furthest: Floats) -> Floats:
    return np.array([
        spearman(values, truth) if np.ptp(truth) > CHANGE else np.nan
        for values, truth in zip(scores, furthest, strict=True)
    ])  # fmt: skip


def _earned(potentials: Floats, furthest: Floats, now: Floats) -> Floats:
    """Adds up each failure's increments of the potential by what the oracle does meanwhile."""
    increments = np.diff(potentials, axis=1)
    record, change = np.diff(furthest, axis=1) > CHANGE, np.diff(now, axis=1)
    places = np.select([record, change < -CHANGE, change > CHANGE], [0, 1, 2], default=3)
    return np.stack(
        [(increments * (places == place)).sum(axis=1) for place in range(len(PLACES))], axis=1
    )


def _resampled(values: Sequence[Floats], bootstrap: Bootstrap) -> Floats:
    """Returns the mean over the failures of all tasks in each bootstrap sample."""
    sums, counts = np.zeros(len(bootstrap.tasks)), np.zeros(len(bootstrap.tasks))
    for number, (task, drawn) in enumerate(zip(values, bootstrap.failures, strict=True)):
        known = ~np.isnan(task)
        weight = bootstrap.tasks[:, number]
        sums += weight * (drawn[:, known] @ task[known])
        counts += weight * drawn[:, known].sum(axis=1)
    means = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
