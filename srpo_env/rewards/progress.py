"""The reward of SRPO: computes one reward per episode from latents and successes.

Equations 3 to 5 of "Self-Referential Policy Optimization for Vision-Language-Action Models"
(arXiv:2511.15605v2). Pure functions over arrays: no environment, no encoder, no state.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.rewards.clustering import Clustering, success_centers
from srpo_env.rewards.confidence import rank_confidence, success_spread
from srpo_env.rewards.distances import (
    Distance,
    Nearest,
    checked_distances,
    coverage_distance,
    distances_to_centers,
)
from srpo_env.rewards.potential import potential_for
from srpo_env.types import Bools, Credit, Floats, Ints, as_array, as_key, checked_credit

Formula = Literal["paper", "siirl"]

WEIGHTS: dict[str, float] = {"paper": 0.8, "siirl": 0.6}
"""Upper bound of a failure's reward: the paper's alpha (appendix D), the released code's factor."""

BORROWED_WEIGHT = 0.3
"""Upper bound of a failure's reward with `ProgressReward.fail_safe` if its group has no success."""

SIIRL_STEEPNESS = 10.0
"""Slope of the released code's sigmoid over min-max scaled distances."""

MAX_LATENT = 1e100
"""Largest absolute value in a latent: squares of larger ones overflow. float32 ends at 3.4e38."""

EQUAL_DISTANCES = 1e-6
"""Distances whose range is below this fraction of the largest are equal: the precision of float32.
"""


@dataclass(frozen=True)
class ProgressReward:
    """How a failed episode is rewarded. Validated once, used by every reference.

    Raises:
        TypeError: If the distance is not callable.
        ValueError: If the formula is unknown, or the weight is not in (0, 1]: above 1, a failure
            could earn more than a success.

    Examples:
        >>> ProgressReward().weight, ProgressReward("siirl").weight
        (0.8, 0.6)
    """

    formula: Formula = "paper"
    """``"paper"``: Eq. 5, a sigmoid of the negative z-score. ``"siirl"``: the authors' released
    code, a steep sigmoid of the distances scaled to [0, 1]."""
    weight: float = None  # type: ignore[assignment]
    """Upper bound of a failure's reward, in (0, 1]; default: 0.8 (paper) or 0.6 (siirl)."""
    distance: Distance | None = None
    """How latents are compared with centers; see `srpo_env.rewards.distances`. Default: the
    encoder's own distance, else L2 for points (Eq. 4) and `coverage_distance` for paths."""
    fail_safe: bool = False
    """Whether rewards shrink where the distances mean little; not from the paper. A failure whose
    own group has no success, and every failure with ``reference="memory"``, earns at most
    `BORROWED_WEIGHT`, and nothing unless the distances of these failures differ by more than the
    `success_spread` of the successes. The rewards of all failures are pulled to ``weight / 2`` by
    the `rank_confidence` of the successes."""

    def __post_init__(self) -> None:
        """Validates the settings and fills in the formula's own weight."""
        if self.formula not in get_args(Formula):
            raise ValueError(f"`formula` must be one of {get_args(Formula)}, got {self.formula!r}")
        weight = WEIGHTS[self.formula] if self.weight is None else self.weight
        if not isinstance(weight, Real) or not 0.0 < weight <= 1.0:
            raise ValueError(f"`weight` must be a number in (0, 1], got {weight!r}")
        object.__setattr__(self, "weight", float(weight))
        if not (self.distance is None or callable(self.distance)):
            raise TypeError(
                "`distance` must be a callable of latents and centers, such as "
                f"srpo_env.rewards.distances.distances_to_centers, got {self.distance!r}"
            )
        if not isinstance(self.fail_safe, bool):
            raise TypeError(f"`fail_safe` must be a bool, got {self.fail_safe!r}")

    def measure(self, latents: Floats, centers: Floats) -> Nearest:
        """Measures the distance of each latent to its nearest center. Eq. 4.

        Args:
            latents: Shape ``(num_episodes, *latent_shape)``.
            centers: Shape ``(num_centers, *latent_shape)``, at least one.

        Returns:
            Distances and rows of ``centers``, each of shape ``(num_episodes,)``.

        Raises:
            ValueError: If the distance does not fit the latents, or its return value is invalid.
        """
        distance = self.distance or default_distance(latents.shape[1:])
        return checked_distances(distance, latents, centers)

    def rewards_of(self, distances: npt.ArrayLike) -> Floats:
        """Computes the rewards of failed episodes from their distances. Eq. 5.

        Args:
            distances: Distances of the failures that are compared with each other, shape
                ``(num_failed,)``. Lower is better. They may be negative: only their order and
                relative spacing count.

        Returns:
            Rewards in ``(0, weight)``, shape ``(num_failed,)``; ``weight / 2`` where nothing can
            be ranked: a single failure, or equal distances.

        Raises:
            ValueError: If a distance is not finite.

        Source: SRPO (arXiv:2511.15605v2), Eq. 5; ``reward_score/embodied.py`` of sii-research/siiRL
        at af00a77 for ``"siirl"``.
        """
        d = np.array(distances, dtype=np.float64)
        if not np.isfinite(d).all():
            raise ValueError(f"`distances` must be finite, got {d}")
        # A single failure, or equal distances: nothing to rank, so every failure gets the midpoint.
        # Divided by the largest, which changes no rank: squares of tiny distances would be 0.
        largest = np.abs(d).max(initial=0.0)
        if largest > 0:
            d /= largest
        # Tested on the range, because the standard deviation of equal floats can be 1e-17.
        if largest == 0 or np.ptp(d) <= EQUAL_DISTANCES:
            return np.full_like(d, self.weight / 2)
        # Eq. 5 as printed grows with the distance; the text says the opposite. We follow the text.
        if self.formula == "paper":
            z = (d - d.mean()) / d.std()
        else:
            z = SIIRL_STEEPNESS * ((d - d.min()) / np.ptp(d) - 0.5)
        rewards: Floats = self.weight / (1.0 + np.exp(z))
        # One far outlier among many can bring the sigmoid to 1 in floating point.
        return np.minimum(rewards, np.nextafter(self.weight, 0.0))

    def settings(self) -> dict[str, Any]:
        """Returns the settings as JSON values, for comparing and saving them."""
        name = None if self.distance is None else name_of(self.distance)
        settings = {"formula": self.formula, "weight": self.weight, "distance": name}
        return {**settings, "fail_safe": True} if self.fail_safe else settings


@dataclass(frozen=True)
class Relabeling:
    """Rewards of episodes, in the order in which they were given."""

    rewards: Floats
    """1 for a success, below the weight for a failure, 0 for a failure without a success to
    compare with; shape ``(num_episodes,)``."""
    distances: Floats
    """Distance of each latent to the nearest center; NaN without a success; same shape."""
    nearest_centers: Ints
    """Row of that center in the group's `Clustering.centers`; -1 without a success; same shape."""
    clusterings: dict[Hashable, Clustering]
    """Centers of each group, by group id, in the order of first appearance."""
    confidences: Floats
    """`rank_confidence` of the successes that each episode is compared with, with
    `ProgressReward.fail_safe`; otherwise 1; shape ``(num_episodes,)``."""
    potentials: Floats
    """With ``credit="dense"``, the progress potential of each episode against its nearest center
    (`Episode.potential`), shape ``(num_episodes, num_times)``, NaN without a success; otherwise
    empty, ``(num_episodes, 0)``."""


def relabel(
    latents: npt.ArrayLike,
    successes: npt.ArrayLike,
    group_ids: Sequence[Any] | npt.NDArray[np.generic] | None = None,
    reward: ProgressReward | None = None,
    *,
    credit: Credit = "episode",
    own_group_ids: Sequence[Any] | npt.NDArray[np.generic] | None = None,
) -> Relabeling:
    """Rewards successes with 1, and failures by their distance to the successes of their group.

    For training loops without a Gymnasium environment. The wrapper calls it for every reference.

    Args:
        latents: Outputs of the encoder, finite: points ``(num_episodes, dim)`` or paths
            ``(num_episodes, num_times, dim)``.
        successes: Whether each episode succeeded, bool, shape ``(num_episodes,)``.
        group_ids: Group of each episode; ids are equal if their values are. None: one group.
        reward: How failures are rewarded; None for ``ProgressReward()``.
        credit: ``"dense"`` also computes how progress is spread over each episode
            (`Relabeling.potentials`; `srpo_env.types.step_shares` makes rewards per step of it).
            The rewards are the same.
        own_group_ids: With `ProgressReward.fail_safe`, the group in which the advantage of each
            episode is computed, if ``group_ids`` are wider, such as tasks. None: ``group_ids``.

    Returns:
        Rewards, distances, nearest centers, the centers of each group, and the potentials.

    Raises:
        TypeError: If ``reward`` is not a `ProgressReward`.
        ValueError: If a shape is wrong, a latent or a distance is not finite, an id is NaN, or
            ``credit`` is ``"dense"`` and the latents are points.

    Examples:
        >>> latents = [[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]
        >>> result = relabel(latents, successes=[True, False, False])
        >>> result.distances
        array([0., 1., 3.])
        >>> result.rewards.round(3)
        array([1.   , 0.585, 0.215])
    """
    reward = checked_reward(reward)
    points, succeeded = _checked(latents, successes)
    is_dense = checked_credit(credit, points.shape[1:]) == "dense"
    ids = _checked_ids("group_ids", group_ids, len(points))
    own = (
        ids if own_group_ids is None else _checked_ids("own_group_ids", own_group_ids, len(points))
    )
    members: dict[Hashable, list[int]] = {}
    for index, group_id in enumerate(ids):
        members.setdefault(group_id, []).append(index)

    rewards = succeeded.astype(np.float64)
    distances = np.full(len(points), np.nan)
    nearest = np.full(len(points), -1, dtype=np.int64)
    potentials = np.full((len(points), points.shape[1] if is_dense else 0), np.nan)
    confidences = np.ones(len(points))
    clusterings: dict[Hashable, Clustering] = {}
    for group_id, indices in members.items():
        rows = np.array(indices)
        clustering = success_centers(points[rows[succeeded[rows]]])
        clusterings[group_id] = clustering
        # A group without a success is not shaped: nothing says which of its failures is better, and
        # a group-relative advantage would scale that noise up to full size.
        if len(clustering.centers) == 0:
            continue
        distances[rows], nearest[rows] = reward.measure(points[rows], clustering.centers)
        failed = rows[~succeeded[rows]]
        rewards[failed] = reward.rewards_of(distances[failed])
        if reward.fail_safe:
            won = points[rows[succeeded[rows]]]
            confidences[rows] = rank_confidence(points[failed], won, reward.measure)
            middle = reward.weight / 2
            rewards[failed] = middle + confidences[failed] * (rewards[failed] - middle)
            spread = success_spread(won, reward.measure)
            for borrowing in _without_success([own[row] for row in rows], rows, succeeded):
                rewards[borrowing] *= min(1.0, BORROWED_WEIGHT / reward.weight)
                if np.ptp(distances[borrowing]) <= spread:  # not compared, and not shaped
                    rewards[borrowing], distances[borrowing] = 0.0, np.nan
                    nearest[borrowing] = -1
        if is_dense:
            known = rows[nearest[rows] >= 0]
            references = clustering.centers[nearest[known]]
            potential = potential_for(reward.distance or default_distance(points.shape[1:]))
            potentials[known] = potential(points[known], references, succeeded[known])
    return Relabeling(rewards, distances, nearest, clusterings, confidences, potentials)


def _without_success(own_ids: list[Hashable], rows: Ints, succeeded: Bools) -> list[Ints]:
    """Returns the rows of each own group in which no episode succeeded."""
    members: dict[Hashable, list[int]] = {}
    for own_id, row in zip(own_ids, rows.tolist(), strict=True):
        members.setdefault(own_id, []).append(row)
    return [np.array(group) for group in members.values() if not succeeded[group].any()]


def _checked_ids(
    name: str, ids: Sequence[Any] | npt.NDArray[np.generic] | None, count: int
) -> list[Hashable]:
    values = [0] * count if ids is None else list(ids)
    if len(values) != count:
        raise ValueError(f"`{name}` must have one id per episode, {count}, got {len(values)}")
    return [as_key(value) for value in values]


def checked_reward(reward: ProgressReward | None) -> ProgressReward:
    """Returns a reward, or the default one for None.

    Raises:
        TypeError: If it is not a `ProgressReward`.
    """
    if reward is None:
        return ProgressReward()
    if not isinstance(reward, ProgressReward):
        raise TypeError(
            '`reward` must be a ProgressReward, such as ProgressReward(formula="siirl"), '
            f"got {reward!r}"
        )
    return reward


def default_distance(latent_shape: tuple[int, ...]) -> Distance:
    """Returns the default distance for latents: L2 for points, `coverage_distance` for paths."""
    return distances_to_centers if len(latent_shape) == 1 else coverage_distance


def name_of(function: Any) -> str:
    """Returns the qualified name of a function, or of the class of a callable object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _checked(latents: npt.ArrayLike, successes: npt.ArrayLike) -> tuple[Floats, Bools]:
    values, succeeded = as_array(latents), np.asarray(successes)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`latents` must be real numbers, got {values.dtype}")
    points = values.astype(np.float64)
    if points.ndim not in (2, 3) or 0 in points.shape[1:]:
        raise ValueError(
            "`latents` must be (num_episodes, dim) or (num_episodes, num_times, dim) with at least "
            f"one number per episode, got shape {points.shape}"
        )
    if succeeded.shape != (len(points),):
        raise ValueError(
            f"`successes` must have shape ({len(points)},) like `latents`, got {succeeded.shape}"
        )
    if succeeded.dtype != np.bool_:
        raise ValueError(f"`successes` must be bool, got {succeeded.dtype}: {succeeded}")
    # NaN is not below the limit either.
    is_valid = (np.abs(points) <= MAX_LATENT).all(axis=tuple(range(1, points.ndim)))
    if not is_valid.all():
        raise ValueError(
            f"Latents must be finite and at most {MAX_LATENT:g}, and those of episodes "
            f"{np.flatnonzero(~is_valid).tolist()} are not: the encoder failed on them"
        )
    return points, succeeded
