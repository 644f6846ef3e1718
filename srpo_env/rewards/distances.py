"""Distances between latents and the centers of successes.

A latent is a point ``(dim,)``, as in the paper, or a path ``(num_times, dim)``: the latent at
evenly spaced times of the video. The mean over time, which the paper uses, loses the order and the
end of a path.

A distance takes latents ``(N, *latent_shape)`` and centers ``(M, *latent_shape)``, M >= 1, and
returns how far each latent is from its nearest center (lower is better) and the row of that center,
both of shape ``(N,)``. `distances_to_centers` takes points and paths, all others take paths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srpo_env.rewards.clustering import SAME_POINT
from srpo_env.types import Floats, Ints, as_array

Nearest = tuple[Floats, Ints]
Distance = Callable[[Floats, Floats], Nearest]
"""Maps latents and centers to distances and rows of the nearest centers."""

END_SHARE = 0.25
"""Share of a path that counts as its end."""

MIN_SQUARED_STEP = 1e-150
"""Squared step of a reference that does not move; avoids a division by 0."""


def distances_to_centers(latents: Floats, centers: Floats) -> Nearest:
    """Computes the L2 distance of each latent to its nearest center. Eq. 4 of the paper.

    Paths are compared time by time: L2 over all times.

    Args:
        latents: Shape ``(num_episodes, *latent_shape)``.
        centers: Shape ``(num_centers, *latent_shape)``, at least one.

    Returns:
        L2 distances (as the text says; the equation is printed with a square) and rows of
        ``centers``, each of shape ``(num_episodes,)``.
    """
    points = np.asarray(latents, np.float64).reshape(len(latents), -1)
    targets = np.asarray(centers, np.float64).reshape(len(centers), -1)
    table = np.stack([np.linalg.norm(points - center, axis=1) for center in targets], axis=1)
    return _nearest(table)


def checked_distances(distance: Distance, latents: Floats, centers: Floats) -> Nearest:
    """Calls a distance and checks what it returns.

    Raises:
        ValueError: If it fails on latents of this shape, or does not return one finite distance
            and one row of ``centers`` for each latent.
    """
    shape = f"latents of shape {latents.shape} and centers of shape {centers.shape}"
    try:
        distances, nearest = map(as_array, distance(latents, centers))
    except (ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise ValueError(
            f"the distance {_name_of(distance)} does not fit {shape} ({reason}). Distances of "
            "srpo_env.rewards.distances other than `distances_to_centers` need latents that are "
            "paths, (num_times, dim)"
        ) from error
    if distances.dtype.kind not in "biuf" or nearest.dtype.kind not in "iu":
        raise ValueError(
            f"the distance {_name_of(distance)} must return numbers and integer rows, got "
            f"{distances.dtype} and {nearest.dtype} for {shape}"
        )
    values, rows = distances.astype(np.float64), nearest
    expected = (len(latents),)
    if values.shape != expected or rows.shape != expected:
        raise ValueError(
            f"the distance {_name_of(distance)} must return distances and rows of the nearest "
            f"centers, both of shape {expected}, got {values.shape} and {rows.shape} for {shape}"
        )
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise ValueError(
            f"the distance {_name_of(distance)} must be finite, and is {values[broken[0]]} for "
            f"the latents in rows {broken.tolist()}"
        )
    if not np.isin(rows, np.arange(len(centers))).all():
        raise ValueError(
            f"the distance {_name_of(distance)} must return rows of the {len(centers)} centers, "
            f"got {rows.tolist()}"
        )
    return values, rows.astype(np.int64)


def end_distance(paths: Floats, references: Floats) -> Nearest:
    """Computes the L2 distance between the mean latents of the last quarters of two paths."""
    count = max(1, round(END_SHARE * paths.shape[1]))
    ends, others = paths[:, -count:].mean(axis=1), references[:, -count:].mean(axis=1)
    return _nearest(_distances(ends, others))


def dtw_distance(paths: Floats, references: Floats) -> Nearest:
    """Computes dynamic time warping: L2 under the best matching of times that keeps their order.

    Needs dtaidistance.
    """
    dtw = _dtw()
    table = np.empty((len(paths), len(references)))
    for row, path in enumerate(paths):
        for column, reference in enumerate(references):
            table[row, column] = dtw.distance_fast(
                np.asarray(path, np.float64), np.asarray(reference, np.float64)
            )
    return _nearest(table)


def transport_distance(paths: Floats, references: Floats) -> Nearest:
    """Computes optimal transport: RMS distance under the best matching of times in any order.

    Between equal numbers of points of equal weight, optimal transport is an assignment.
    """
    from scipy.optimize import linear_sum_assignment

    costs = _step_distances(paths, references) ** 2
    table = np.empty(costs.shape[:2])
    for pair in np.ndindex(table.shape):
        table[pair] = np.sqrt(costs[pair][linear_sum_assignment(costs[pair])].mean())
    return _nearest(table)


def remaining_share(paths: Floats, references: Floats) -> Nearest:
    """Computes the share of the nearest reference that the path never reached, in [0, 1].

    1 minus the path's furthest place (`furthest_places`). The nearest reference is the one that the
    whole path fits best. Needs dtaidistance.

    Raises:
        ValueError: If the references have one moment only, so that there is no way to go.
    """
    if references.shape[1] < 2:
        raise ValueError("what remains of a path needs paths of at least two moments, got one")
    table = np.empty((len(paths), len(references)))
    shares = np.empty(table.shape)
    for row, path in enumerate(paths):
        for column, reference in enumerate(references):
            places, table[row, column] = furthest_places(path, reference)
            shares[row, column] = 1.0 - places[-1]
    _, nearest = _nearest(table)
    return shares[np.arange(len(paths)), nearest], nearest


def furthest_places(path: Floats, reference: Floats) -> tuple[Floats, float]:
    """Locates a path on a reference: how far along it the path has come at each of its moments.

    The path up to a moment is warped onto that first part of the reference which fits it best, by
    dynamic time warping; the end of that part is the path's place. Needs dtaidistance.

    Args:
        path: Shape ``(num_times, dim)``.
        reference: Shape ``(reference_times, dim)``.

    Returns:
        The furthest place up to each moment, shape ``(num_times,)``, ascending: 0 is the first
        moment of the reference and 1 the last; 0 if the reference does not move. And the distance,
        by dynamic time warping, of the whole path from the part that fits it best.
    """
    path, reference = np.asarray(path, np.float64), np.asarray(reference, np.float64)
    # The first row and column stand for empty paths.
    sums = np.asarray(_dtw().warping_paths_fast(path, reference)[1])[1:, 1:]
    # While the reference stands still, it is at one place: the last of its equal moments. Of parts
    # that fit equally well, the longest one is taken.
    steps = np.linalg.norm(np.diff(reference, axis=0), axis=1)
    moves = steps > SAME_POINT * float(np.linalg.norm(reference, axis=1).max())
    best = float(sums[-1].min())
    if not moves.any():
        return np.zeros(len(path)), best
    stops = np.append(np.flatnonzero(moves), len(moves))
    ends = stops[np.searchsorted(stops, len(moves) - sums[:, ::-1].argmin(axis=1))]
    places: Floats = np.maximum.accumulate(ends) / len(moves)
    return places, best


def unreached_share(paths: Floats, references: Floats) -> Nearest:
    """Computes the share of a reference beyond the furthest moment of the path, in [0, 1].

    Each moment of the path is located on the reference: the mean of the reference's times, weighted
    by a Gaussian of their distance to that moment, whose width is the reference's typical step. The
    share is averaged over the references; the nearest is the one where the path came furthest.
    """
    steps = _step_distances(paths, references) ** 2  # (N, M, times of path, of reference)
    nearer = steps - steps.min(axis=3, keepdims=True)
    weights = np.exp(-nearer / (2 * _squared_steps(references)[:, None, None]))
    weights /= weights.sum(axis=3, keepdims=True)
    places = weights @ np.linspace(0.0, 1.0, references.shape[1])
    unreached = 1.0 - places.max(axis=2)
    return unreached.mean(axis=1), unreached.argmin(axis=1).astype(np.int64)


def coverage_distance(paths: Floats, references: Floats) -> Nearest:
    """Computes the mean, over the moments of a reference, of the path's smallest distance to it.

    This is one half of the Chamfer distance: moments of the reference that the path never reached
    increase it, and detours of the path do not.
    """
    return _nearest(_step_distances(paths, references).min(axis=2).mean(axis=2))


def ordered_coverage_distance(paths: Floats, references: Floats) -> Nearest:
    """Computes `coverage_distance` if the reference's moments must be reached in their order."""
    steps = _step_distances(paths, references)
    # Smallest sum over the reference up to a time, matched at this moment of the path or before.
    sums = np.minimum.accumulate(steps[..., 0], axis=2)  # (N, M, times of path)
    for time in range(1, references.shape[1]):
        sums = np.minimum.accumulate(sums + steps[..., time], axis=2)
    return _nearest(sums[..., -1] / references.shape[1])


def unvisited_share(paths: Floats, references: Floats) -> Nearest:
    """Computes the share of a reference that the path never visited, in [0, 1].

    Unlike `coverage_distance`, it does not depend on how far away the path was from a moment that
    it missed. A visit is weighted by a Gaussian of the distance, whose width is the reference's
    typical step.
    """
    nearest = _step_distances(paths, references).min(axis=2)  # (N, M, times of reference)
    visits = np.exp(-(nearest**2) / (2 * _squared_steps(references)[:, None]))
    return _nearest(1.0 - visits.mean(axis=2))


# --- Helpers ---


def _step_distances(paths: Floats, references: Floats) -> Floats:
    """Computes L2 between all moments, shape ``(N, M, path times, reference times)``."""
    (n, t, dim), (m, u, _) = paths.shape, references.shape
    table = _distances(paths.reshape(n * t, dim), references.reshape(m * u, dim))
    return table.reshape(n, t, m, u).transpose(0, 2, 1, 3)


def _squared_steps(references: Floats) -> Floats:
    """Computes the mean squared step of each reference, ``(M,)``; never 0."""
    steps = np.square(np.diff(references, axis=1)).sum(axis=2)
    means: Floats = steps.mean(axis=1) if steps.shape[1] else np.zeros(len(references))
    return np.maximum(means, MIN_SQUARED_STEP)


def _distances(points: Floats, others: Floats) -> Floats:
    # Imported here, because importing SciPy takes a while.
    from scipy.spatial.distance import cdist

    # Not scikit-learn's euclidean_distances: it expands the square, which loses half of the digits,
    # so that failures on the same path would get different rewards.
    distances: Floats = cdist(points, others)
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


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
