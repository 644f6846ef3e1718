"""Whether the rewards say anything: figures for a logger, a line for a person, and an alarm.

A group whose episodes all got the same reward moves no group-relative policy gradient. Runs in
which that is true of every group look healthy from outside, sometimes for days.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from srpo_env.types import Group

logger = logging.getLogger(__name__)

PATIENCE = 32
"""Groups in a row without signal before `SignalWatch` says so: 256 episodes in groups of 8."""


@dataclass(frozen=True)
class SignalReport:
    """What the rewards of some closed groups can teach. Shares are of the groups, in [0, 1]."""

    num_groups: int
    num_episodes: int
    success_rate: float
    """share of the episodes"""
    all_failed: float
    """groups with no success; not shaped unless a wider reference knows one"""
    all_succeeded: float
    """groups with nothing to shape"""
    shaped: float
    """groups with a failure that was rewarded for its progress"""
    without_signal: float
    """groups whose episodes all got the same reward"""
    flat: float
    """groups whose failures, two or more, were all equally far: shaped, but nothing told apart"""
    distance_spread: float
    """standard deviation of the failures' distances over their mean, averaged over groups with at
    least two measured failures; NaN without such a group"""
    clusters: float
    """centers that are the mean of several successes, averaged over groups with a center"""
    single_centers: float
    """centers that are one success, likewise"""
    fallbacks: float
    """groups with centers, none of which is the mean of several successes"""
    failures_above_success: int
    """failures whose shaped return exceeds that of a success of their group; should be 0"""

    def as_dict(self, prefix: str = "signal/") -> dict[str, float]:
        """The figures by name, for any logger."""
        return {prefix + name: float(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.num_groups} groups of {self.num_episodes} episodes, "
            f"{self.success_rate:.0%} succeeded: {self.shaped:.0%} shaped, "
            f"{self.all_failed:.0%} all failed, {self.all_succeeded:.0%} all succeeded, "
            f"{self.without_signal:.0%} without signal; distance spread "
            f"{self.distance_spread:.2f}, {self.clusters:.1f} clusters and "
            f"{self.single_centers:.1f} single centers a group; "
            f"{self.failures_above_success} failures above a success"
        )


def signal_report(groups: Sequence[Group]) -> SignalReport:
    """Sums up groups, say those of one rollout.

    Args:
        groups: Closed groups; none gives zeros.

    Examples:
        >>> print(signal_report([]))  # doctest: +ELLIPSIS
        0 groups of 0 episodes, 0% succeeded: 0% shaped, ...
    """
    episodes = [episode for group in groups for episode in group.episodes]
    referenced = [group for group in groups if len(group.centers)]
    spreads = [spread for group in groups if not np.isnan(spread := distance_spread(group))]
    return SignalReport(
        num_groups=len(groups),
        num_episodes=len(episodes),
        success_rate=_mean([episode.success for episode in episodes]),
        all_failed=_mean([group.num_successes == 0 for group in groups]),
        all_succeeded=_mean([group.num_successes == len(group.episodes) for group in groups]),
        shaped=_mean([group.shaped for group in groups]),
        without_signal=_mean([not has_signal(group) for group in groups]),
        flat=_mean([is_flat(group) for group in groups]),
        distance_spread=_mean(spreads) if spreads else float("nan"),
        clusters=_mean([group.num_clusters for group in referenced]),
        single_centers=_mean([group.num_singles for group in referenced]),
        fallbacks=_mean([group.num_clusters == 0 for group in referenced]),
        failures_above_success=sum(failures_above_success(group) for group in groups),
    )


def group_figures(group: Group) -> dict[str, Any]:
    """The figures of one group, as they stand in ``infos["srpo"]`` when it closes."""
    return {
        "num_episodes": len(group.episodes),
        "success_rate": group.num_successes / len(group.episodes),
        "shaped": group.shaped,
        "signal": has_signal(group),
        "distance_spread": distance_spread(group),
        "num_clusters": group.num_clusters,
        "num_singles": group.num_singles,
    }


def has_signal(group: Group) -> bool:
    """Whether its episodes got different rewards."""
    return bool(np.ptp(group.rewards) > 0)


def is_flat(group: Group) -> bool:
    """Whether it has two or more measured failures, all equally rewarded."""
    rewards = [e.progress_reward for e in group.episodes if not e.success]
    return group.shaped and len(rewards) > 1 and max(rewards) == min(rewards)


def distance_spread(group: Group) -> float:
    """Standard deviation over mean of its failures' distances; NaN with fewer than two."""
    distances = np.array([episode.distance for episode in group.episodes if not episode.success])
    if len(distances) < 2 or np.isnan(distances).any():
        return float("nan")
    return float(distances.std() / distances.mean()) if distances.any() else 0.0


def failures_above_success(group: Group) -> int:
    """How many of its failures return more than one of its successes, all rewards counted.

    The shaped rewards alone cannot do that; an environment that pays for more than success can.
    """
    successes = [episode.env_return for episode in group.episodes if episode.success]
    if not successes:
        return 0
    return sum(
        episode.env_return + episode.progress_reward > min(successes)
        for episode in group.episodes
        if not episode.success
    )


class SignalWatch:
    """Says so when group after group carries no signal, and names the usual causes."""

    def __init__(self) -> None:
        """Starts with no groups seen."""
        self.silent: dict[str, int] = {}
        """groups without signal since the last one with, by what they were"""
        self.flat = 0
        """flat groups since the last one whose failures were told apart"""

    def watch(self, groups: Sequence[Group]) -> None:
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

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs."""
        return {"silent": dict(self.silent), "flat": self.flat}

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.silent, self.flat = state["silent"], state["flat"]

    def message(self) -> str:
        """What was seen, and the usual causes of it."""
        causes = "; ".join(f"{self.silent[kind]} {CAUSES[kind]}" for kind in self.silent)
        return (
            f"{sum(self.silent.values())} groups in a row carry no training signal, as all "
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
    "succeeded": "have no failure (these tasks are learnt: draw others)",
}
"""Usual causes of groups without signal, by what `_kind` calls them."""

FLAT_MESSAGE = (
    "In %d groups in a row all failures lie equally far from the successes, so their rewards say "
    "no more than success and failure: the encoder sees no difference between the videos (is the "
    "camera black, or is it the wrong one?)."
)


def _kind(group: Group) -> str:
    if len(group.episodes) == 1:
        return "alone"
    return "succeeded" if group.num_successes else "failed"


def _is_due(count: int) -> bool:
    """Whether a count is PATIENCE, 2 PATIENCE, 4 PATIENCE and so on."""
    rounds, rest = divmod(count, PATIENCE)
    return rest == 0 and rounds.bit_count() == 1


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
