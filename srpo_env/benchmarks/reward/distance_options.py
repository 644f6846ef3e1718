"""Options for the distance of a failure from the successes, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from srpo_env.benchmarks.reward.encoder_rows import Paths
from srpo_env.rewards import distances as path_distances
from srpo_env.rewards.clustering import Clustering, success_centers
from srpo_env.rewards.distances import Distance, distances_to_centers
from srpo_env.types import Floats

Centers = Literal["dbscan", "nearest", "mean"]


@dataclass(frozen=True)
class Option:
    """One distance between paths of latents."""

    distance: Distance
    description: str
    pooled: bool = False
    """Whether the mean over the times is taken first, as in the paper."""

    def points(self, paths: Paths) -> Floats:
        """Returns the latents to cluster and compare: the paths, or their means if ``pooled``.

        Args:
            paths: Shape ``(N, num_times, dim)``.

        Returns:
            Shape ``(N, num_times, dim)``, or ``(N, 1, dim)`` if ``pooled``.
        """
        wide = np.asarray(paths, np.float64)
        return wide.mean(axis=1, keepdims=True) if self.pooled else wide


def _l2(paths: Floats, references: Floats) -> path_distances.Nearest:
    return distances_to_centers(_flat(paths), _flat(references))


OPTIONS: dict[str, Option] = {
    "mean": Option(_l2, "L2 between mean latents (the paper's)", pooled=True),
    "in-step": Option(_l2, "L2 between paths, time by time"),
    "end": Option(path_distances.end_distance, "L2 between the means of the last quarters"),
    "dtw": Option(path_distances.dtw_distance, "dynamic time warping"),
    "transport": Option(path_distances.transport_distance, "optimal transport between the times"),
    "remaining": Option(
        path_distances.remaining_share,
        "share of the nearest success that the path never reached, by time warping",
    ),
    "unreached": Option(
        path_distances.unreached_share,
        "share of the successes that lies beyond the path's furthest moment",
    ),
    "coverage": Option(
        path_distances.coverage_distance,
        "smallest distance to each moment of a success, averaged over its moments",
    ),
    "unvisited": Option(
        path_distances.unvisited_share, "share of a success's moments that the path never visited"
    ),
    "ordered": Option(
        path_distances.ordered_coverage_distance,
        "coverage, with the success's moments visited in their order",
    ),
}
"""All options by name."""


def distances(
    option: Option, paths: Paths, successes: Paths, centers: Centers = "dbscan"
) -> Floats:
    """Computes the distance of each path from the successes.

    Args:
        option: The distance to use.
        paths: Shape ``(N, num_times, dim)``.
        successes: Shape ``(M, num_times, dim)``, at least one.
        centers: Representation of the successes: the means of DBSCAN's clusters, each success,
            or the mean of all successes.

    Returns:
        Shape ``(N,)``, lower is better.
    """
    points = option.points(successes)
    if centers == "dbscan":
        clustering = success_centers(_flat(points))
        points = clustering.centers.reshape(-1, *points.shape[1:])
    elif centers == "mean":
        points = points.mean(axis=0, keepdims=True)
    return option.distance(option.points(paths), points)[0]


def cluster(option: Option, successes: Paths) -> Clustering:
    """Clusters the successes with DBSCAN, in the latents that the option compares."""
    return success_centers(_flat(option.points(successes)))


def centers_without(option: Option, successes: Paths, clustering: Clustering, index: int) -> Floats:
    """Returns the centers without one success, for leave-one-out comparisons.

    The clusters do not change; only the mean of that success's cluster is computed without it.

    Returns:
        Shape ``(num_centers, num_times, dim)``, with no rows if there is no other success.
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
