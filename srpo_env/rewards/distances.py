"""Ways to compare a failure's path through latent space with the paths of successes.

A path is an episode's latent at evenly spaced times; the paper takes the mean over them, which
hides their order and the end. Each function here takes paths ``(N, num_times, dim)`` and references
``(M, num_times, dim)``, M at least 1, and returns what
:func:`~srpo_env.rewards.progress.distances_to_centers` does: how far each path is from its
reference (small is good), and which reference that is; both of shape ``(N,)``. `by_paths` makes
them fit where that function is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Nearest = tuple[Floats, Ints]
PathDistance = Callable[[Floats, Floats], Nearest]

END = 0.25
"""share of a path that counts as its end"""

STILL = 1e-150
"""squared step of a reference that does not move, so that nothing is divided by 0"""


def by_paths(distance: PathDistance, num_times: int) -> PathDistance:
    """A distance for latents that hold the times of a path one after the other.

    Args:
        distance: One of this module's.
        num_times: In a latent, whose length must be a multiple of it.

    Returns:
        What takes latents ``(N, latent_dim)`` and centers ``(M, latent_dim)``.
    """

    def on_latents(latents: Floats, centers: Floats) -> Nearest:
        return distance(_as_paths(latents, num_times), _as_paths(centers, num_times))

    return on_latents


def end_distance(paths: Floats, references: Floats) -> Nearest:
    """L2 between the means of the last quarters: where it ended, not how it came there."""
    count = max(1, round(END * paths.shape[1]))
    ends, others = paths[:, -count:].mean(axis=1), references[:, -count:].mean(axis=1)
    return _nearest(_distances(ends, others))


def dtw_distance(paths: Floats, references: Floats) -> Nearest:
    """Dynamic time warping: L2 over the best matching of times that keeps their order.

    Needs dtaidistance.
    """
    dtw = _dtw()
    table = np.empty((len(paths), len(references)))
    for row, path in enumerate(paths):
        for column, reference in enumerate(references):
            table[row, column] = dtw.distance_fast(path, reference)
    return _nearest(table)


def transport_distance(paths: Floats, references: Floats) -> Nearest:
    """Optimal transport: root mean square distance under the best matching of times in any order.

    Between as many points of equal weight, transport is an assignment.
    """
    from scipy.optimize import linear_sum_assignment

    costs = _step_distances(paths, references) ** 2
    table = np.empty(costs.shape[:2])
    for pair in np.ndindex(table.shape):
        table[pair] = np.sqrt(costs[pair][linear_sum_assignment(costs[pair])].mean())
    return _nearest(table)


def remaining_share(paths: Floats, references: Floats) -> Nearest:
    """How much of the nearest reference was still to come when the path ended, in [0, 1].

    Dynamic time warping of the whole path onto the first part of a reference, whichever part suits
    it best; nearest is the reference whose part suits best. Needs dtaidistance.
    """
    dtw = _dtw()
    num_times = references.shape[1]
    table = np.empty((len(paths), len(references)))
    ends = np.empty(table.shape)
    for row, path in enumerate(paths):
        for column, reference in enumerate(references):
            # So much of the reference's end may stay without a partner.
            free = (0, 0, 0, num_times)
            table[row, column], sums = dtw.warping_paths_fast(path, reference, psi=free)
            # The library marks what comes after the best end with -1.
            ends[row, column] = np.flatnonzero(sums[-1, 1:] >= 0)[-1]
    _, nearest = _nearest(table)
    share = 1.0 - ends[np.arange(len(paths)), nearest] / max(1, num_times - 1)
    return share, nearest


def unreached_share(paths: Floats, references: Floats) -> Nearest:
    """How much of a reference was beyond the path's furthest moment, in [0, 1].

    Each moment of the path is placed on the reference: the mean of the reference's times, each
    weighted by a Gaussian of its distance to that moment, as wide as a usual step of the reference.
    Averaged over the references, of which the nearest is where most was reached.
    """
    steps = _step_distances(paths, references) ** 2  # (N, M, times of path, of reference)
    nearer = steps - steps.min(axis=3, keepdims=True)
    weights = np.exp(-nearer / (2 * _squared_steps(references)[:, None, None]))
    weights /= weights.sum(axis=3, keepdims=True)
    places = weights @ np.linspace(0.0, 1.0, references.shape[1])
    unreached = 1.0 - places.max(axis=2)
    return unreached.mean(axis=1), unreached.argmin(axis=1).astype(np.int64)


def coverage_distance(paths: Floats, references: Floats) -> Nearest:
    """How near the path ever came to the moments of a reference, averaged over these.

    One half of the Chamfer distance: what a failure did besides costs nothing, and what it never
    came to see, it pays for.
    """
    return _nearest(_step_distances(paths, references).min(axis=2).mean(axis=2))


def ordered_coverage_distance(paths: Floats, references: Floats) -> Nearest:
    """As `coverage_distance`, with the moments of the reference met in their order."""
    steps = _step_distances(paths, references)
    # Least sum of meeting the reference up to a time, at this moment of the path or before.
    sums = np.minimum.accumulate(steps[..., 0], axis=2)  # (N, M, times of path)
    for time in range(1, references.shape[1]):
        sums = np.minimum.accumulate(sums + steps[..., time], axis=2)
    return _nearest(sums[..., -1] / references.shape[1])


def unvisited_share(paths: Floats, references: Floats) -> Nearest:
    """How much of a reference the path never visited, in [0, 1].

    As `coverage_distance`, but a moment that was missed is missed, by little or by much: so where
    the hand went instead does not count. A visit fades as a Gaussian of the distance, as wide as a
    usual step of the reference.
    """
    nearest = _step_distances(paths, references).min(axis=2)  # (N, M, times of reference)
    visits = np.exp(-(nearest**2) / (2 * _squared_steps(references)[:, None]))
    return _nearest(1.0 - visits.mean(axis=2))


# --- Parts of them --------------------------------------------------------------------------------


def _as_paths(latents: Floats, num_times: int) -> Floats:
    points = np.asarray(latents, np.float64)
    if points.ndim != 2 or num_times < 1 or points.shape[1] % num_times:
        raise ValueError(
            f"latents that are paths of {num_times} times must have shape (N, {num_times} * dim), "
            f"got {points.shape}"
        )
    return points.reshape(len(points), num_times, -1)


def _step_distances(paths: Floats, references: Floats) -> Floats:
    """L2 between all moments, ``(N, M, times of a path, times of a reference)``."""
    (n, t, dim), (m, u, _) = paths.shape, references.shape
    table = _distances(paths.reshape(n * t, dim), references.reshape(m * u, dim))
    return table.reshape(n, t, m, u).transpose(0, 2, 1, 3)


def _squared_steps(references: Floats) -> Floats:
    """Mean squared distance from one time of a reference to its next, ``(M,)``; never 0."""
    steps = np.square(np.diff(references, axis=1)).sum(axis=2)
    means: Floats = steps.mean(axis=1) if steps.shape[1] else np.zeros(len(references))
    return np.maximum(means, STILL)


def _distances(points: Floats, others: Floats) -> Floats:
    # Imported here: scikit-learn takes about a second.
    from sklearn.metrics.pairwise import euclidean_distances

    # Around their mean, since scikit-learn expands the square, which cancels far from the origin.
    middle = others.mean(axis=0)
    distances: Floats = euclidean_distances(points - middle, others - middle)
    return distances


def _nearest(table: Floats) -> Nearest:
    nearest = table.argmin(axis=1)
    return table[np.arange(len(table)), nearest], nearest.astype(np.int64)


def _dtw() -> Any:
    try:
        from dtaidistance import dtw_ndim
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "dynamic time warping needs dtaidistance: run `pip install dtaidistance`",
            name=error.name,
        ) from error
    return dtw_ndim
