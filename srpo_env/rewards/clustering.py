"""Centers of the successes: which strategies solve the task, averaged over their runs.

DBSCAN over the latents of successes, with a radius taken from the data. The distances to the
centers and the rewards are computed in `reward`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

EPS_FACTOR = 1.5
"""DBSCAN's radius in units of the largest usual distance to a k-th nearest neighbour."""

UNUSUAL = 3.0
"""Such a distance is unusual beyond this multiple of its median: the success stands alone."""

SAME_POINT = 1e-6
"""Latents nearer than this fraction of their norm are one point: float32 resolves no more."""


@dataclass(frozen=True)
class Clustering:
    """Centers of one reference set, and how they came about."""

    centers: Floats
    """mean latent of each strategy, shape ``(num_centers, latent_dim)``; clusters first"""
    labels: npt.NDArray[np.int64]
    """row of `centers` that each success belongs to, shape ``(num_successes,)``"""
    num_clusters: int
    """centers that are the mean of several successes"""
    num_singles: int
    """centers that are one success without neighbours"""
    eps: float
    """DBSCAN's radius; 0 with fewer than two successes"""

    @property
    def fallback(self) -> bool:
        """Whether clustering had nothing to cluster: no center is the mean of several successes."""
        return len(self.labels) > 0 and self.num_clusters == 0


def success_centers(latents: npt.NDArray[np.floating]) -> Clustering:
    """Clusters the latents of successful episodes and averages every cluster.

    The radius comes from the distances of the successes to their k-th nearest other success, where
    k is DBSCAN's ``min_samples - 1`` and ``min_samples`` the logarithm of their number, at least 2.
    The largest of these that is not `UNUSUAL` is stretched by `EPS_FACTOR`. So the radius scales
    with the latents, and no constant has to fit an encoder. `tests/benchmarks/clustering.py` prints
    how often this finds one and two strategies, from 2 successes up and from 1 dimension to 1408.

    DBSCAN's noise is kept: a success without neighbours is a center of its own. The environment has
    confirmed that it succeeded, so it is a rare strategy and not a faulty measurement, and dropping
    it would call the failures beside it far away.

    Args:
        latents: One row for each success, shape ``(num_successes, latent_dim)``.

    Returns:
        The centers; none for no success, the success itself for a single one.

    Source: SRPO (arXiv:2511.15605v2), Eq. 3, which leaves the radius open; ``min_samples`` of
    ln(n) after Birant and Kut, "ST-DBSCAN" (2007).
    """
    points = np.asarray(latents, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"`latents` must be (num_successes, latent_dim), got shape {points.shape}")
    num_points = len(points)
    if num_points < 2:
        return Clustering(
            centers=points.copy(),
            labels=np.arange(num_points),
            num_clusters=0,
            num_singles=num_points,
            eps=0.0,
        )
    # Imported here: scikit-learn takes about a second, and `import srpo_env` shall not.
    from sklearn.cluster import DBSCAN
    from sklearn.metrics.pairwise import euclidean_distances

    # Around their mean, since scikit-learn expands the square, which cancels far from the origin.
    distances = euclidean_distances(points - points.mean(axis=0))
    min_samples = max(2, round(float(np.log(num_points))))
    # Column 0 of a sorted row is the point itself.
    neighbours = np.sort(distances, axis=1)[:, min_samples - 1]
    usual = neighbours[neighbours <= UNUSUAL * np.median(neighbours)]
    resolution = SAME_POINT * float(np.linalg.norm(points, axis=1).max())
    eps = max(EPS_FACTOR * float(usual.max()), resolution, float(np.finfo(np.float64).tiny))
    labels = np.asarray(
        DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances).labels_,
        dtype=np.int64,
    )
    num_clusters = int(labels.max()) + 1
    noise = np.flatnonzero(labels < 0)
    labels[noise] = num_clusters + np.arange(len(noise))
    centers = np.stack([points[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    return Clustering(centers, labels, num_clusters, len(noise), eps)
