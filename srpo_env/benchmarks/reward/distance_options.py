"""How the distance of a failure from the successes can be measured, each way by a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward.encoder_rows import Paths
from srpo_env.rewards import distances as path_distances
from srpo_env.rewards.clustering import Clustering, success_centers
from srpo_env.rewards.distances import Distance, distances_to_centers

Floats = npt.NDArray[np.float64]
Centers = Literal["dbscan", "nearest", "mean"]


@dataclass(frozen=True)
class Option:
    """One way to measure it."""

    distance: Distance
    what: str
    pooled: bool = False
    """whether it takes the mean over the times first, as the paper does"""

    def points(self, paths: Paths) -> Floats:
        """What is clustered and compared, ``(N, num_times, dim)``; of one time if pooled."""
        wide = np.asarray(paths, np.float64)
        return wide.mean(axis=1, keepdims=True) if self.pooled else wide


def _l2(paths: Floats, references: Floats) -> path_distances.Nearest:
    return distances_to_centers(_flat(paths), _flat(references))


OPTIONS: dict[str, Option] = {
    "mean": Option(_l2, "the paper: L2 between mean latents", pooled=True),
    "in-step": Option(_l2, "L2 between paths, time by time"),
    "end": Option(path_distances.end_distance, "L2 between the means of their last quarters"),
    "dtw": Option(path_distances.dtw_distance, "dynamic time warping"),
    "transport": Option(path_distances.transport_distance, "optimal transport between their times"),
    "remaining": Option(
        path_distances.remaining_share, "share of the nearest success still to come, by warping"
    ),
    "unreached": Option(
        path_distances.unreached_share, "share of the successes beyond the furthest moment"
    ),
    "coverage": Option(
        path_distances.coverage_distance, "how near it ever came to the moments of a success"
    ),
    "unvisited": Option(
        path_distances.unvisited_share, "share of the moments of a success that it never visited"
    ),
    "ordered": Option(
        path_distances.ordered_coverage_distance, "coverage, the moments met in their order"
    ),
}
"""The ways by name"""


def distances(
    option: Option, paths: Paths, successes: Paths, centers: Centers = "dbscan"
) -> Floats:
    """Distance of each path from the successes, ``(N,)``.

    Args:
        option: How it is measured.
        paths: ``(N, num_times, dim)``.
        successes: ``(M, num_times, dim)``, at least one.
        centers: What of them is compared with: the means of DBSCAN's clusters, each success, or
            the mean of all.
    """
    points = option.points(successes)
    if centers == "dbscan":
        clustering = success_centers(_flat(points))
        points = clustering.centers.reshape(-1, *points.shape[1:])
    elif centers == "mean":
        points = points.mean(axis=0, keepdims=True)
    return option.distance(option.points(paths), points)[0]


def cluster(option: Option, successes: Paths) -> Clustering:
    """DBSCAN's clusters of the successes, as the option compares them."""
    return success_centers(_flat(option.points(successes)))


def centers_without(option: Option, successes: Paths, clustering: Clustering, index: int) -> Floats:
    """Centers that do not know one of the successes; ``(num_centers, num_times, dim)``, or none.

    The clusters stay as they are, and the mean of its own is taken over the others.
    """
    points = option.points(successes)
    label = clustering.labels[index]
    others = clustering.labels == label
    others[index] = False
    centers: Floats = clustering.centers.reshape(-1, *points.shape[1:]).copy()
    if not others.any():
        return np.delete(centers, label, axis=0)
    centers[label] = points[others].mean(axis=0)
    return centers


def _flat(paths: Floats) -> Floats:
    return paths.reshape(len(paths), -1)
