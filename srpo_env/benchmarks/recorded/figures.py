"""Computes correlation, separation and spread of each task from latents, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.recorded.latents import EncodedEpisodes
from srpo_env.benchmarks.reward.metrics import (
    draw_counts,
    interval,
    mean_of_known,
    progress_curve,
    spearman,
)
from srpo_env.rewards.clustering import success_centers
from srpo_env.types import Floats


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks and its 95% interval; all NaN if nothing could be measured."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns, for example, ``0.85 [0.81, 0.90]``."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, eq=False)
class TaskCheck:
    """Distances, curves and figures of one task."""

    task: str
    num_clusters: int
    """Number of centers that are the mean of several successes."""
    num_singles: int
    """Number of centers that are one success."""
    success_distances: Floats
    """Distance of each success from the others, NaN if there are none; ``(num_successes,)``."""
    failure_distances: Floats
    """Distance of each failure from the successes, ``(num_failures,)``."""
    is_farther: Floats
    """Whether a failure (column) is farther than a success (row) from the other successes: 1, 0, or
    0.5 for a tie; ``(num_successes, num_failures)``, no rows for a single success."""
    curves: Floats
    """Progress of growing prefixes, from 0 to 1, ``(num_curves, num_prefixes)``."""
    times: Floats
    """Share of the episode in each prefix, ``(num_curves, num_prefixes)``."""

    @property
    def num_successes(self) -> int:
        """Number of successes."""
        return len(self.success_distances)

    @property
    def num_failures(self) -> int:
        """Number of failures."""
        return len(self.failure_distances)

    @property
    def is_fallback(self) -> bool:
        """Whether there are centers, none of which is the mean of several successes."""
        return self.num_clusters == 0 and self.num_singles > 0

    @cached_property
    def correlations(self) -> Floats:
        """Rank correlation of each curve with time, ``(num_curves,)``."""
        pairs = zip(self.curves, self.times, strict=True)
        return np.array([spearman(curve, times) for curve, times in pairs], np.float64)

    @property
    def correlation(self) -> float:
        """Mean rank correlation; NaN with fewer than two successes."""
        return mean_of_known(self.correlations)

    @property
    def separation(self) -> float:
        """AUC in [0, 1]; NaN with fewer than two successes or without a failure."""
        return mean_of_known(self.is_farther)

    @property
    def spread(self) -> float:
        """Standard deviation of the failures' distances over their mean; NaN for fewer than 2."""
        distances = self.failure_distances
        if len(distances) < 2 or np.isnan(distances).any():
            return float("nan")
        return float(distances.std() / np.abs(distances).mean()) if distances.any() else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns nested data for JSON."""
        return {
            "task": self.task,
            "num_successes": self.num_successes,
            "num_failures": self.num_failures,
            "num_clusters": self.num_clusters,
            "num_singles": self.num_singles,
            "is_fallback": self.is_fallback,
            "correlation": self.correlation,
            "separation": self.separation,
            "spread": self.spread,
            "correlations": self.correlations,
            "success_distances": self.success_distances,
            "failure_distances": self.failure_distances,
            "times": self.times,
            "curves": self.curves,
        }


@dataclass(frozen=True, eq=False)
class EncoderCheck:
    """Figures of one encoder, by task and as means over the tasks."""

    encoder: str
    tasks: tuple[TaskCheck, ...]
    correlation: Estimate
    separation: Estimate
    spread: float


def check_latents(
    encoded: EncodedEpisodes, *, num_samples: int = 1000, seed: int = 0
) -> EncoderCheck:
    """Computes the figures of each task, and their means over the tasks with intervals.

    Args:
        encoded: Latents of episodes and of prefixes.
        num_samples: Bootstrap samples, over the episodes of each task.
        seed: Random seed of the bootstrap.

    Raises:
        ValueError: If no episode succeeded.
    """
    if not encoded.successes.any():
        raise ValueError(
            f"at least one episode must have succeeded, and none of {len(encoded.tasks)} has: the "
            "reward compares failures with successes. Record some, or check the success labels"
        )
    names = np.array(encoded.tasks)
    tasks = tuple(
        _check_task(task, encoded, np.flatnonzero(names == task))
        for task in dict.fromkeys(encoded.tasks)
    )
    rng = np.random.default_rng(seed)
    correlations, separations = [], []
    for task in tasks:
        if not np.isnan(task.correlation):
            counts = draw_counts(rng, len(task.correlations), num_samples)
            correlations.append(counts @ task.correlations / len(task.correlations))
        if not np.isnan(task.separation):
            wins = task.is_farther
            rows, columns = (draw_counts(rng, size, num_samples) for size in wins.shape)
            separations.append(((rows @ wins) * columns).sum(axis=1) / wins.size)
    return EncoderCheck(
        encoder=encoded.encoder,
        tasks=tasks,
        correlation=_estimate([task.correlation for task in tasks], correlations),
        separation=_estimate([task.separation for task in tasks], separations),
        spread=mean_of_known([task.spread for task in tasks]),
    )


def _check_task(task: str, encoded: EncodedEpisodes, rows: npt.NDArray[np.intp]) -> TaskCheck:
    latents = encoded.latents
    succeeded, failed = rows[encoded.successes[rows]], rows[~encoded.successes[rows]]
    clustering = success_centers(latents[succeeded])

    def distances(points: Floats, centers: Floats) -> Floats:
        if not len(points) or not len(centers):
            return np.full(len(points), np.nan)
        return encoded.reward.measure(points, centers)[0]

    success_distances, is_farther, curves, times = [], [], [], []
    for row in succeeded:
        others = success_centers(latents[succeeded[succeeded != row]]).centers
        (own,) = distances(latents[[row]], others)
        success_distances.append(own)
        if not len(others):
            continue
        # Failures are compared with the same references as the success. With one more reference,
        # they would be nearer, and the separation of random latents would not be 0.5.
        is_farther.append((np.sign(distances(latents[failed], others) - own) + 1) / 2)
        if row in encoded.prefixes:
            curves.append(progress_curve(distances(encoded.prefixes[row], others)))
            times.append(encoded.times[row])
    shape = (len(curves), -1) if curves else (0, 0)
    return TaskCheck(
        task=task,
        num_clusters=clustering.num_clusters,
        num_singles=clustering.num_singles,
        success_distances=np.array(success_distances, np.float64),
        failure_distances=distances(latents[failed], clustering.centers),
        is_farther=np.array(is_farther, np.float64).reshape(len(is_farther), len(failed)),
        curves=np.array(curves, np.float64).reshape(shape),
        times=np.array(times, np.float64).reshape(shape),
    )


def _estimate(values: list[float], samples: list[Floats]) -> Estimate:
    if not samples:
        return Estimate(float("nan"), float("nan"), float("nan"))
    return Estimate(mean_of_known(values), *interval(np.mean(samples, axis=0)))
