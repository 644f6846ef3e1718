"""Centers of the successes, Eq. 3 of the paper: the mean latent of each strategy.

Clusters successes with DBSCAN, whose radius comes from the data. Distances to the centers are in
`distances`, rewards in `progress`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from srpo_env.types import Floats, Ints

EPS_FACTOR = 1.5
"""DBSCAN's radius in units of the largest typical distance to a k-th nearest neighbour."""

OUTLIER_FACTOR = 3.0
"""A distance above this multiple of the median is not typical: its success has no neighbours."""

SAME_POINT = 1e-6
"""Latents nearer than this fraction of their norm are one point: the precision of float32."""


@dataclass(frozen=True)
class Clustering:
    """Centers of one reference set, and how they were found."""

    centers: Floats
    """Mean latent of each strategy, shape ``(num_centers, *latent_shape)``; clusters first."""
    labels: Ints
    """Row of `centers` that each success belongs to, shape ``(num_successes,)``."""
    num_clusters: int
    """Number of centers that are the mean of several successes."""
    num_singles: int
    """Number of centers that are one success without neighbours."""
    eps: float
    """DBSCAN's radius; 0 with fewer than two successes."""

    @property
    def fallback(self) -> bool:
        """Whether no center is the mean of several successes, though there are successes."""
        return len(self.labels) > 0 and self.num_clusters == 0


def success_centers(latents: npt.ArrayLike) -> Clustering:
    """Clusters the latents of successful episodes and averages every cluster.

    The radius comes from the distances of the successes to their k-th nearest other success, where
    k is DBSCAN's ``min_samples - 1`` and ``min_samples`` the logarithm of their number, at least 2.
    The largest distance within `OUTLIER_FACTOR` medians is multiplied by `EPS_FACTOR`. The radius
    therefore scales with the latents, and no constant depends on the encoder.
    `tests/benchmarks/clustering.py` prints how often this finds one and two strategies, from 2
    successes up and from 1 dimension to 1408.

    DBSCAN's noise is kept: a success without neighbours becomes a separate center. The environment
    confirmed that it succeeded, so it is a rare strategy and not a measurement error. Without it,
    failures near it would be far away from all centers.

    Args:
        latents: Latents of the successes, shape ``(num_successes, *latent_shape)``. Paths are
            clustered by their L2 distance over all times.

    Returns:
        The centers: none without a success, the success itself if there is one.

    Source: SRPO (arXiv:2511.15605v2), Eq. 3, which leaves the radius open; ``min_samples`` of
    ln(n) after Birant and Kut, "ST-DBSCAN" (2007).
    """
    values: Floats = np.asarray(latents, dtype=np.float64)
    if values.ndim not in (2, 3):
        raise ValueError(
            f"`latents` must be (num_successes, dim) or (num_successes, num_times, dim), got shape "
            f"{values.shape}"
        )
    num_points = len(values)
    if num_points < 2:
        return Clustering(
            centers=values.copy(),
            labels=np.arange(num_points),
            num_clusters=0,
            num_singles=num_points,
            eps=0.0,
        )
    # Imported here, because importing scikit-learn takes about a second.
    from scipy.spatial.distance import cdist
    from sklearn.cluster import DBSCAN

    points = values.reshape(num_points, -1)
    # Not scikit-learn's euclidean_distances: it expands the square, which loses half of the digits.
    distances = cdist(points, points)
    min_samples = max(2, round(float(np.log(num_points))))
    # Column 0 of a sorted row is the point itself.
    neighbours = np.sort(distances, axis=1)[:, min_samples - 1]
    typical = neighbours[neighbours <= OUTLIER_FACTOR * np.median(neighbours)]
    resolution = SAME_POINT * float(np.linalg.norm(points, axis=1).max())
    eps = max(EPS_FACTOR * float(typical.max()), resolution, float(np.finfo(np.float64).tiny))
    labels = np.asarray(
        DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances).labels_,
        dtype=np.int64,
    )
    num_clusters = int(labels.max()) + 1
    noise = np.flatnonzero(labels < 0)
    labels[noise] = num_clusters + np.arange(len(noise))
    centers = np.stack([values[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    return Clustering(centers, labels, num_clusters, len(noise), eps)
