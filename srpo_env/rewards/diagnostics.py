"""Statistics of closed groups: do the rewards carry a training signal?

A group whose episodes all got the same reward contributes nothing to a group-relative policy
gradient. If that holds for every group, training makes no progress, and no other metric shows why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np

from srpo_env.types import Group

logger = logging.getLogger(__name__)

PATIENCE = 32
"""Number of consecutive groups without signal before a warning: 256 episodes in groups of 8."""


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of closed groups. Fractions are fractions of the groups, in [0, 1]."""

    num_groups: int
    num_episodes: int
    success_rate: float
    """Fraction of the episodes that succeeded."""
    all_failed: float
    """Fraction without a success; not shaped unless a wider reference has one."""
    all_succeeded: float
    """Fraction without a failure."""
    shaped: float
    """Fraction with a failure that was rewarded for its progress."""
    borrowed: float
    """Fraction without a success whose failures were compared with successes outside of the group.
    """
    confidence: float
    """How alike the successes rank the failures (`Group.confidence`), averaged over shaped groups.
    """
    without_signal: float
    """Fraction whose episodes all got the same reward."""
    flat: float
    """Fraction that are shaped and whose failures, two or more, all got the same reward."""
    distance_spread: float
    """Standard deviation of the failures' distances divided by their mean, averaged over groups
    with at least two measured failures; NaN without such a group."""
    clusters: float
    """Number of centers that are the mean of several successes, averaged over groups with centers.
    """
    single_centers: float
    """Number of centers that are one success, averaged over groups with centers."""
    fallbacks: float
    """Fraction, of groups with centers, in which no center is the mean of several successes."""
    failures_above_success: int
    """Number of failures whose shaped return exceeds that of a success of their group. Must be 0.
    """

    def as_dict(self, prefix: str = "rollout/") -> dict[str, float]:
        """Returns the statistics by name, for any logger."""
        return {prefix + name: float(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """Returns one line of text."""
        return (
            f"{self.num_groups} groups of {self.num_episodes} episodes, "
            f"{self.success_rate:.0%} succeeded: {self.shaped:.0%} shaped, "
            f"{self.all_failed:.0%} all failed, {self.all_succeeded:.0%} all succeeded, "
            f"{self.without_signal:.0%} without signal; distance spread "
            f"{self.distance_spread:.2f}, {self.clusters:.1f} clusters and "
            f"{self.single_centers:.1f} single centers per group; "
            f"{self.failures_above_success} failures above a success"
        )


def group_statistics(groups: Sequence[Group]) -> GroupStatistics:
    """Computes statistics of groups, for example those of one rollout.

    Args:
        groups: Closed groups. Without groups, all statistics are 0.

    Examples:
        >>> print(group_statistics([]))  # doctest: +ELLIPSIS
        0 groups of 0 episodes, 0% succeeded: 0% shaped, ...
    """
    episodes = [episode for group in groups for episode in group.episodes]
    with_centers = [group for group in groups if len(group.centers)]
    spreads = [spread for group in groups if not np.isnan(spread := distance_spread(group))]
    return GroupStatistics(
        num_groups=len(groups),
        num_episodes=len(episodes),
        success_rate=_mean([episode.success for episode in episodes]),
        all_failed=_mean([group.num_successes == 0 for group in groups]),
        all_succeeded=_mean([group.num_successes == len(group.episodes) for group in groups]),
        shaped=_mean([group.shaped for group in groups]),
        borrowed=_mean([group.borrowed for group in groups]),
        confidence=_mean([group.confidence for group in groups if group.shaped]),
        without_signal=_mean([not has_signal(group) for group in groups]),
        flat=_mean([is_flat(group) for group in groups]),
        distance_spread=_mean(spreads) if spreads else float("nan"),
        clusters=_mean([group.num_clusters for group in with_centers]),
        single_centers=_mean([group.num_singles for group in with_centers]),
        fallbacks=_mean([group.num_clusters == 0 for group in with_centers]),
        failures_above_success=sum(failures_above_success(group) for group in groups),
    )


def group_info(group: Group) -> dict[str, Any]:
    """Returns the statistics of a closed group that ``infos["srpo"]`` reports."""
    return {
        "num_episodes": len(group.episodes),
        "success_rate": group.num_successes / len(group.episodes),
        "shaped": group.shaped,
        "borrowed": group.borrowed,
        "confidence": group.confidence,
        "signal": has_signal(group),
        "distance_spread": distance_spread(group),
        "num_clusters": group.num_clusters,
        "num_singles": group.num_singles,
    }


def has_signal(group: Group) -> bool:
    """Returns whether the episodes of a group got different rewards."""
    return bool(np.ptp(group.rewards) > 0)


def is_flat(group: Group) -> bool:
    """Returns whether a group is shaped and its failures, two or more, got the same reward."""
    rewards = [e.progress_reward for e in group.episodes if not e.success]
    return group.shaped and len(rewards) > 1 and max(rewards) == min(rewards)


def distance_spread(group: Group) -> float:
    """Returns the standard deviation of the failures' distances divided by their mean.

    NaN for a group with fewer than two measured failures.
    """
    distances = np.array([episode.distance for episode in group.episodes if not episode.success])
    if len(distances) < 2 or np.isnan(distances).any():
        return float("nan")
    return float(distances.std() / np.abs(distances).mean()) if distances.any() else 0.0


def failures_above_success(group: Group) -> int:
    """Returns the number of a group's failures that return more than one of its successes.

    Progress rewards alone cannot cause this. An environment that pays less than 1 for a success, or
    more than 0 for a failure, can.
    """
    successes = [episode.env_return for episode in group.episodes if episode.success]
    if not successes:
        return 0
    return sum(
        episode.env_return + episode.progress_reward > min(successes)
        for episode in group.episodes
        if not episode.success
    )


class MonitorState(TypedDict):
    """What `SignalMonitor.state` returns."""

    silent: dict[str, int]
    flat: int


class SignalMonitor:
    """Logs a warning, with the usual causes, when many groups in a row carry no signal."""

    def __init__(self) -> None:
        """Initialises the counters with 0."""
        self.silent: dict[str, int] = {}
        """Number of groups without signal since the last group with one, by kind."""
        self.flat = 0
        """Number of flat groups since the last one whose failures got different rewards."""

    def update(self, groups: Sequence[Group]) -> None:
        """Counts closed groups; logs a warning at `PATIENCE` in a row and at each doubling."""
        for group in groups:
            if is_flat(group):
                self.flat += 1
                if _is_due(self.flat):
                    logger.warning(FLAT_MESSAGE, self.flat)
            elif not np.isnan(distance_spread(group)):
                self.flat = 0
            if has_signal(group):
                self.silent = {}
                continue
            kind = _kind(group)
            self.silent[kind] = self.silent.get(kind, 0) + 1
            if _is_due(sum(self.silent.values())):
                logger.warning("%s", self.message())

    def state(self) -> MonitorState:
        """Returns everything that `load` needs."""
        return {"silent": dict(self.silent), "flat": self.flat}

    def load(self, state: MonitorState) -> None:
        """Restores what `state` returned."""
        self.silent, self.flat = state["silent"], state["flat"]

    def message(self) -> str:
        """Returns the text of the warning: the observation and its usual causes."""
        causes = "; ".join(f"{self.silent[kind]} {CAUSES[kind]}" for kind in self.silent)
        return (
            f"{sum(self.silent.values())} groups in a row carry no training signal, because all "
            f"episodes of each got the same reward: {causes}."
        )


CAUSES = {
    "alone": (
        "hold a single episode (no two episodes share a group key before the groups are closed: "
        "pass `group_key`, start the episodes of a group from one task and initial state, or use "
        'reference="task")'
    ),
    "failed": (
        "have no success (the policy cannot do the task: wrong checkpoint, image upside down, "
        "gripper sign; or the success flag is never set: run `srpo_env.check_wrapped`)"
    ),
    "succeeded": "have no failure (these tasks are solved: train on others)",
}
"""Usual causes of groups without signal, by kind of group."""

FLAT_MESSAGE = (
    "In %d groups in a row all failures are equally far from the successes, so their rewards carry "
    "no more information than success and failure: the encoder sees no difference between the "
    "videos (is the camera image black, or is it the wrong camera?)."
)


def _kind(group: Group) -> str:
    if len(group.episodes) == 1:
        return "alone"
    return "succeeded" if group.num_successes else "failed"


def _is_due(count: int) -> bool:
    """Returns whether a count is PATIENCE times a power of 2."""
    rounds, rest = divmod(count, PATIENCE)
    return rest == 0 and rounds.bit_count() == 1


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
