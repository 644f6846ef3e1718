"""The progress potential: how far an episode has come through a success at each of its moments.

Needs latents that are paths, ``(num_times, dim)``. `Episode.step_shares` and `relabel` turn it into
dense rewards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from srpo_env.rewards.clustering import SAME_POINT
from srpo_env.rewards.distances import Distance, furthest_places, remaining_share
from srpo_env.types import Bools, Floats

Potential = Callable[[Floats, Floats, Bools], Floats]
"""Maps paths, their references and successes to potentials, as `covered_potential` does."""


def potential_for(distance: Distance) -> Potential:
    """Returns the potential that measures the same as a distance."""
    return placed_potential if distance is remaining_share else covered_potential


def covered_potential(paths: Floats, references: Floats, successes: Bools) -> Floats:
    """Computes how much of its reference each episode has covered at each of its moments.

    With D_t the mean, over the moments of the reference, of the smallest distance to any moment of
    the path up to t, the potential of a failure is ``1 - D_t / D_0``. A success has covered all
    that its own task needs, so its potential is scaled to end at 1: its reference can be the mean
    of several successes, which it never reaches exactly.

    A path that comes no nearer to its reference after its first moment has the potential 0, as if
    the reference does not move either (``D_0 = 0``); if it succeeded, 1 at its last moment.

    Args:
        paths: Latents of the episodes, shape ``(num_episodes, num_times, dim)``.
        references: The success path that each is compared with, ``(num_episodes, times, dim)``.
        successes: Whether each episode succeeded, shape ``(num_episodes,)``.

    Returns:
        Potentials in [0, 1], shape ``(num_episodes, num_times)``. They never fall along an episode,
        start at 0 and, in a success, end at 1.

    Examples:
        >>> success = np.array([[0.0], [1.0], [2.0]])
        >>> failure = np.array([[0.0], [1.0], [0.0]])
        >>> paths, references = np.stack([success, failure]), np.stack([success, success])
        >>> covered_potential(paths, references, np.array([True, False])).round(3)
        array([[0.   , 0.667, 1.   ],
               [0.   , 0.667, 0.667]])
    """
    # Imported here, because importing SciPy takes a while.
    from scipy.spatial.distance import cdist

    potentials = np.zeros(paths.shape[:2])
    for row, (path, reference, success) in enumerate(
        zip(paths, references, successes, strict=True)
    ):
        nearest = np.minimum.accumulate(cdist(path, reference), axis=0)  # (times of path, of ref.)
        # Accumulated once more, because the rounding of a mean could raise it.
        left = np.minimum.accumulate(nearest.mean(axis=1))
        covered = left[0] - left
        # Distances below the precision of float32 are noise, and would be scaled up to full size.
        noise = SAME_POINT * max(left[0], float(np.linalg.norm(reference, axis=1).max()))
        if covered[-1] > noise:
            potentials[row] = covered / (covered[-1] if success else left[0])
        elif success:
            potentials[row, -1] = 1.0
    return potentials


def placed_potential(paths: Floats, references: Floats, successes: Bools) -> Floats:
    """Computes how far along its reference each episode has come at each of its moments.

    The furthest place up to each moment, which `furthest_places` finds by dynamic time warping; 0
    at the first moment. As with `covered_potential`, the potential of a success is scaled to end at
    1. Needs dtaidistance.

    Arguments and shapes are those of `covered_potential`.

    Examples:
        >>> success = np.array([[0.0], [1.0], [2.0]])
        >>> failure = np.array([[0.0], [1.0], [0.0]])
        >>> paths, references = np.stack([success, failure]), np.stack([success, success])
        >>> placed_potential(paths, references, np.array([True, False]))
        array([[0. , 0.5, 1. ],
               [0. , 0.5, 0.5]])
    """
    potentials = np.zeros(paths.shape[:2])
    for row, (path, reference, success) in enumerate(
        zip(paths, references, successes, strict=True)
    ):
        places, _ = furthest_places(path, reference)
        has_moved = places[-1] > 0
        potentials[row] = places / places[-1] if success and has_moved else places
        potentials[row, 0] = 0.0
        if success:
            potentials[row, -1] = 1.0
    return potentials
