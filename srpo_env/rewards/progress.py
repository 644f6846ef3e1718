"""The reward of SRPO: latents and successes in, one reward for each episode out.

Equations 3 to 5 of "Self-Referential Policy Optimization for Vision-Language-Action Models"
(arXiv:2511.15605v2). Pure functions over arrays: no environment, no encoder, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.rewards.clustering import Clustering, success_centers

Floats = npt.NDArray[np.float64]
Formula = Literal["paper", "siirl"]
Distance = Callable[[Floats, Floats], tuple[Floats, npt.NDArray[np.int64]]]
"""What `distances_to_centers` is: latents and centers to distances and rows of the nearest"""

WEIGHTS: dict[str, float] = {"paper": 0.8, "siirl": 0.6}
"""Upper bound of a failure's reward: the paper's alpha (appendix D), the released code's factor."""

SIIRL_STEEPNESS = 10.0
"""Slope of the released code's sigmoid over min-max scaled distances."""

EQUAL_DISTANCES = 1e-6
"""Distances whose range is below this fraction of the largest are equal: float32 says no more."""


@dataclass(frozen=True)
class Relabeling:
    """Rewards of episodes, in the order in which they were given."""

    rewards: Floats
    """1 for a success, less than the weight for a failure, 0 without a reference, ``(N,)``"""
    distances: Floats
    """from an episode's latent to the nearest center, NaN without reference, ``(N,)``"""
    nearest_centers: npt.NDArray[np.int64]
    """row of that center in its group's `Clustering.centers`, -1 without reference, ``(N,)``"""
    clusterings: dict[Hashable, Clustering]
    """the centers of each group, by group id, in order of first appearance"""


def relabel(
    latents: npt.ArrayLike,
    successes: npt.ArrayLike,
    group_ids: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    formula: Formula = "paper",
    weight: float | None = None,
    distance: Distance | None = None,
) -> Relabeling:
    """Rewards every episode by its success, and failures by how near they came to one.

    For training loops that have no Gymnasium environment; the wrapper calls it too.

    Args:
        latents: The encoder's vectors, shape ``(num_episodes, latent_dim)``, finite.
        successes: Whether each episode succeeded, bool, shape ``(num_episodes,)``.
        group_ids: Episodes with equal ids are compared with each other; ``None`` for one group.
        formula: ``"paper"`` (Eq. 5) or ``"siirl"`` (the authors' released code).
        weight: Upper bound of a failure's reward in (0, 1]; ``None`` for the formula's own.
        distance: How latents are compared with centers; ``None`` for L2, as in the paper. Others
            are in :mod:`srpo_env.rewards.distances`.

    Returns:
        Rewards, distances, nearest centers and the centers of each group.

    Raises:
        ValueError: If shapes disagree, or a latent is not finite.

    Examples:
        >>> latents = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]
        >>> result = relabel(latents, successes=[True, False, False])
        >>> result.distances
        array([0., 1., 3.])
        >>> result.rewards.round(3)
        array([1.   , 0.585, 0.215])
    """
    points, succeeded = _checked(latents, successes)
    members: dict[Hashable, list[int]] = {}
    ids = [0] * len(points) if group_ids is None else list(group_ids)
    if len(ids) != len(points):
        raise ValueError(f"`group_ids` must name {len(points)} episodes, got {len(ids)}")
    for index, group_id in enumerate(ids):
        members.setdefault(group_id, []).append(index)

    rewards = succeeded.astype(np.float64)
    distances = np.full(len(points), np.nan)
    nearest = np.full(len(points), -1, dtype=np.int64)
    clusterings: dict[Hashable, Clustering] = {}
    for group_id, indices in members.items():
        rows = np.array(indices)
        clustering = success_centers(points[rows[succeeded[rows]]])
        clusterings[group_id] = clustering
        # A group with no success is not shaped. Its failures differ, but no truth says which is
        # better, and a group-relative advantage would blow that noise up to full size.
        if len(clustering.centers) == 0:
            continue
        measure = distance or distances_to_centers
        distances[rows], nearest[rows] = measure(points[rows], clustering.centers)
        failed = rows[~succeeded[rows]]
        rewards[failed] = progress_rewards(distances[failed], formula=formula, weight=weight)
    return Relabeling(rewards, distances, nearest, clusterings)


def distances_to_centers(
    latents: npt.NDArray[np.floating], centers: npt.NDArray[np.floating]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distance of each latent to its nearest center, and which center that is. Eq. 4.

    Args:
        latents: Shape ``(num_episodes, latent_dim)``.
        centers: Shape ``(num_centers, latent_dim)``, at least one.

    Returns:
        L2 distances (the text's; the equation is printed with a square) and rows of ``centers``,
        each of shape ``(num_episodes,)``.
    """
    differences = [
        np.linalg.norm(np.asarray(latents, np.float64) - center, axis=1) for center in centers
    ]
    table = np.stack(differences, axis=1)  # (num_episodes, num_centers)
    nearest = table.argmin(axis=1)
    return table[np.arange(len(table)), nearest], nearest.astype(np.int64)


def progress_rewards(
    distances: npt.NDArray[np.floating],
    *,
    formula: Formula = "paper",
    weight: float | None = None,
) -> Floats:
    """Rewards of failed episodes: the nearer to a success, the higher.

    Args:
        distances: Of the failures compared with each other, small is good, ``(num_failed,)``.
        formula: ``"paper"``: sigmoid of the negative z-score; ``"siirl"``: a steep sigmoid of the
            distances scaled to [0, 1], as the authors' released code has it.
        weight: Upper bound in (0, 1]; ``None`` for 0.8 (paper, appendix D) or 0.6 (siirl).

    Returns:
        Rewards in ``(0, weight)``, shape ``(num_failed,)``; ``weight / 2`` where nothing can be
        ranked: a single failure, or equal distances.

    Raises:
        ValueError: If the formula is unknown, the weight out of range or a distance not finite.

    Source: SRPO (arXiv:2511.15605v2), Eq. 5; ``reward_score/embodied.py`` of sii-research/siiRL at
    af00a77 for ``"siirl"``.
    """
    weight = checked_weight(formula, weight)
    d = np.array(distances, dtype=np.float64)
    if not np.isfinite(d).all():
        raise ValueError(f"`distances` must be finite, got {d}")
    # One failure, or several equally far: nothing to rank, so all get the midpoint. Asked of the
    # range, as the standard deviation of equal floats can be 1e-17 and not 0.
    if d.size == 0 or np.ptp(d) <= EQUAL_DISTANCES * d.max():
        return np.full_like(d, weight / 2)
    # In units of the largest, which changes no rank: squares of very small distances would be 0.
    d /= d.max()
    # Eq. 5 as printed grows with the distance, while the text has nearer failures earn more.
    # We follow the text: sigmoid(-z). See "Differences" in the README.
    if formula == "paper":
        z = (d - d.mean()) / d.std()
    else:
        z = SIIRL_STEEPNESS * ((d - d.min()) / np.ptp(d) - 0.5)
    rewards: Floats = weight / (1.0 + np.exp(z))
    return rewards


def checked_weight(formula: str, weight: float | None) -> float:
    """The weight to use with a formula.

    Raises:
        ValueError: If the formula is unknown or the weight not in (0, 1]: a failure could then
            beat a success.
    """
    if formula not in get_args(Formula):
        raise ValueError(f"`formula` must be one of {get_args(Formula)}, got {formula!r}")
    if weight is None:
        return WEIGHTS[formula]
    if not 0.0 < weight <= 1.0:
        raise ValueError(f"`weight` must be in (0, 1], got {weight}")
    return float(weight)


def _checked(
    latents: npt.ArrayLike, successes: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    points = np.asarray(latents, dtype=np.float64)
    succeeded = np.asarray(successes)
    if points.ndim != 2:
        raise ValueError(f"`latents` must be (num_episodes, latent_dim), got shape {points.shape}")
    if succeeded.shape != (len(points),):
        raise ValueError(
            f"`successes` must have shape ({len(points)},) like `latents`, got {succeeded.shape}"
        )
    if succeeded.dtype != np.bool_:
        raise ValueError(f"`successes` must be bool, got {succeeded.dtype}: {succeeded}")
    broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(broken):
        raise ValueError(
            f"Latents must be finite, those of episodes {broken.tolist()} are not: the encoder "
            "failed on them"
        )
    return points, succeeded
