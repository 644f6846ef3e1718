"""How far each failure of a task is from the successes, by every option, and the groups' rewards.

What is made of these distances, and for all tasks together, is in `reward_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward.distance_options import (
    OPTIONS,
    Centers,
    Option,
    centers_without,
    cluster,
    distances,
)
from srpo_env.benchmarks.reward.encoder_rows import Paths
from srpo_env.benchmarks.reward.latents import TaskLatents
from srpo_env.benchmarks.reward.metrics import (
    jensen_shannon,
    mean_difference,
    mmd,
    monotonicity,
    progress_curve,
    spearman,
)
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.rewards.clustering import Clustering

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

AS_RECORDED = "as recorded"
PLACEMENT = "placement"
ONE_SIDED = ", failures only"
"""Added to the name of a shift: the successes were seen before it"""


class Group(NamedTuple):
    """Rows of a task's episodes that are compared with each other alone, as in training."""

    failures: Ints
    successes: Ints


@dataclass(frozen=True)
class TaskFacts:
    """What is true of a task's episodes."""

    task: str
    successes: npt.NDArray[np.bool_]
    init_states: Ints
    kinds: tuple[str, ...]
    furthest: Floats
    """the most true progress that was seen of each"""
    final: Floats
    """true progress at its end"""
    groups: tuple[Group, ...]
    same_state: bool
    """whether each group's episodes start from one initial state"""

    @property
    def failed(self) -> Ints:
        """Rows of the failures."""
        return np.flatnonzero(~self.successes)


def facts_of(task: str, episodes: Sequence[BehaviourEpisode], group_size: int) -> TaskFacts | None:
    """Collects the facts of a task's episodes; None with fewer than two successes or failures."""
    successes = np.array([episode.success for episode in episodes])
    if successes.sum() < 2 or (~successes).sum() < 2:
        return None
    init_states = np.array([episode.init_state_id for episode in episodes])
    groups = make_groups(successes, init_states, group_size)
    same_state = bool(groups)
    return TaskFacts(
        task=task,
        successes=successes,
        init_states=init_states,
        kinds=tuple(episode.kind for episode in episodes),
        furthest=np.array([episode.furthest for episode in episodes]),
        final=np.array([float(episode.progress[-1]) for episode in episodes]),
        groups=tuple(groups or make_groups(successes, np.zeros_like(init_states), group_size)),
        same_state=same_state,
    )


def make_groups(
    successes: npt.NDArray[np.bool_], init_states: npt.NDArray[np.integer], group_size: int
) -> list[Group]:
    """Groups of episodes from one initial state, as nearly half of them failures as there are.

    No episode is in two groups; a group has a success, and two failures to rank.
    """
    groups = []
    for state in np.unique(init_states):
        here = init_states == state
        failed, succeeded = np.flatnonzero(here & ~successes), np.flatnonzero(here & successes)
        while len(failed) >= 2 and len(succeeded) >= 1:
            half = group_size - group_size // 2
            num_failed = min(len(failed), max(half, group_size - len(succeeded)), group_size - 1)
            num_succeeded = min(len(succeeded), group_size - num_failed)
            groups.append(Group(failed[:num_failed], succeeded[:num_succeeded]))
            failed, succeeded = failed[num_failed:], succeeded[num_succeeded:]
    return groups


@dataclass
class TaskScores:
    """What one row and one option say of a task."""

    centers: Centers
    ranking: dict[str, Floats] = field(default_factory=dict)
    """distances of the failures from the task's successes, by condition, ``(num_failures,)``"""
    groups: dict[str, list[Floats]] = field(default_factory=dict)
    """distances of each group's failures from its own successes, by condition"""
    curves: dict[str, dict[str, float]] = field(default_factory=dict)
    """the paper's five: with ``others``, a success is compared with the other ones, with ``self``
    with its own end, as the paper does"""
    shifted_curves: dict[str, float] = field(default_factory=dict)
    """Spearman with ``others``, by shift"""


def score_task(
    facts: TaskFacts, latents: TaskLatents, name: str, centers: Centers, *, everything: bool = True
) -> TaskScores:
    """Measures all distances of a task by one option.

    Args:
        facts: Of its episodes.
        latents: Of the same.
        name: Of the option.
        centers: What of the successes failures are compared with.
        everything: Also under shift, and the curves.
    """
    option, scores = OPTIONS[name], TaskScores(centers)
    whole, succeeded = latents.whole, np.flatnonzero(facts.successes)

    def rank(condition: str, failures: Paths, references: Paths) -> None:
        scores.ranking[condition] = distances(
            option, failures[facts.failed], references[succeeded], centers
        )
        scores.groups[condition] = [
            distances(option, failures[group.failures], references[group.successes], centers)
            for group in facts.groups
        ]

    rank(AS_RECORDED, whole, whole)
    if everything:
        for shift, shifted in latents.shifted.items():
            rank(shift, shifted, shifted)
            rank(shift + ONE_SIDED, shifted, whole)
        placement = _from_other_states(facts, whole, option, centers)
        if placement is not None:
            scores.ranking[PLACEMENT] = placement
        scores.curves = _curves(facts, latents, option)
        for shift, windows in latents.shifted_windows.items():
            wholes = latents.shifted[shift][succeeded]
            curves = _curves_beside_others(option, windows, wholes, cluster(option, wholes))
            scores.shifted_curves[shift] = _mean_spearman(curves)
    return scores


def _from_other_states(
    facts: TaskFacts, whole: Paths, option: Option, centers: Centers
) -> Floats | None:
    """Compares a failure with successes from other initial states only; None if all share one."""
    found = np.full(len(facts.failed), np.nan)
    for state in np.unique(facts.init_states[facts.failed]):
        rows = facts.init_states[facts.failed] == state
        references = np.flatnonzero(facts.successes & (facts.init_states != state))
        if len(references) == 0:
            return None
        found[rows] = distances(option, whole[facts.failed[rows]], whole[references], centers)
    return found


# --- Curves ---------------------------------------------------------------------------------------


def _curves(facts: TaskFacts, latents: TaskLatents, option: Option) -> dict[str, dict[str, float]]:
    whole, windows = latents.whole, latents.windows
    succeeded = np.flatnonzero(facts.successes)
    clustering = cluster(option, whole[succeeded])
    centers = clustering.centers.reshape(-1, *option.points(whole[:1]).shape[1:])
    failures = [_curve(option, windows[row], centers) for row in facts.failed]
    others = _curves_beside_others(option, windows[succeeded], whole[succeeded], clustering)
    itself = [_curve(option, windows[row], option.points(whole[[row]])) for row in succeeded]
    return {
        name: curve_figures(successes, failures)
        for name, successes in (("others", others), ("self", itself))
    }


def _curve(option: Option, windows: Paths, references: Floats) -> Floats:
    return progress_curve(option.distance(option.points(windows), references)[0])


def _curves_beside_others(
    option: Option, windows: Paths, wholes: Paths, clustering: Clustering
) -> list[Floats]:
    """Of each success that there are windows of, the first ones, compared with all the others."""
    return [
        _curve(option, of_one, without)
        for number, of_one in enumerate(windows)
        if len(without := centers_without(option, wholes, clustering, number))
    ]


def _mean_spearman(curves: Sequence[Floats]) -> float:
    return float(np.mean([spearman(curve) for curve in curves])) if curves else float("nan")


def curve_figures(successes: Sequence[Floats], failures: Sequence[Floats]) -> dict[str, float]:
    """The paper's five of the curves of a task's successes and failures; NaN without successes."""
    if not successes:
        return dict.fromkeys(("spearman", "monotonicity", "mmd", "js", "smd"), float("nan"))
    ends = np.array([curve[-1] for curve in successes])
    failed = np.array([curve[-1] for curve in failures])
    return {
        "spearman": _mean_spearman(successes),
        "monotonicity": float(np.mean([monotonicity(curve) for curve in successes])),
        "mmd": mmd(ends, failed),
        "js": jensen_shannon(ends, failed),
        "smd": mean_difference(ends, failed),
    }
