"""Computes distances of each task's failures from its successes, and progress curves.

`rankings` computes statistics over all tasks from them.
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
    mmd,
    monotonicity,
    progress_curve,
    spearman,
    standardized_mean_difference,
)
from srpo_env.libero.behaviour_files import BehaviourEpisode
from srpo_env.rewards.clustering import Clustering
from srpo_env.types import Bools, Floats, Ints

AS_RECORDED = "as recorded"
PLACEMENT = "placement"
ONE_SIDED = ", failures only"
"""Suffix of a shift's name if only the failures have shifted frames."""


class Group(NamedTuple):
    """Rows of a task's episodes that are compared only with each other, as in training."""

    failures: Ints
    successes: Ints


@dataclass(frozen=True)
class TaskLabels:
    """Labels of a task's episodes from the simulator."""

    task: str
    successes: Bools
    """Shape ``(num_episodes,)``, as are the following arrays."""
    init_states: Ints
    kinds: tuple[str, ...]
    max_progress: Floats
    """Maximum oracle progress, in [0, 1]."""
    final_progress: Floats
    """Oracle progress at the episode's end, in [0, 1]."""
    groups: tuple[Group, ...]
    same_state: bool
    """Whether each group's episodes start from one initial state."""

    @property
    def failed(self) -> Ints:
        """Rows of the failures."""
        return np.flatnonzero(~self.successes)


def task_labels(
    task: str, episodes: Sequence[BehaviourEpisode], group_size: int
) -> TaskLabels | None:
    """Collects the labels of a task's episodes; None with fewer than two successes or failures."""
    successes = np.array([episode.success for episode in episodes])
    if successes.sum() < 2 or (~successes).sum() < 2:
        return None
    init_states = np.array([episode.init_state_id for episode in episodes])
    groups = make_groups(successes, init_states, group_size)
    same_state = bool(groups)
    return TaskLabels(
        task=task,
        successes=successes,
        init_states=init_states,
        kinds=tuple(episode.kind for episode in episodes),
        max_progress=np.array([float(episode.progress.max()) for episode in episodes]),
        final_progress=np.array([float(episode.progress[-1]) for episode in episodes]),
        groups=tuple(groups or make_groups(successes, np.zeros_like(init_states), group_size)),
        same_state=same_state,
    )


def make_groups(
    successes: Bools, init_states: npt.NDArray[np.integer], group_size: int
) -> list[Group]:
    """Splits episodes into groups of one initial state, half of them failures where possible.

    No episode is in two groups. A group has at least one success, and two failures to rank.
    """
    groups = []
    for state in np.unique(init_states):
        in_state = init_states == state
        failed = np.flatnonzero(in_state & ~successes)
        succeeded = np.flatnonzero(in_state & successes)
        while len(failed) >= 2 and len(succeeded) >= 1:
            half = group_size - group_size // 2
            num_failed = min(len(failed), max(half, group_size - len(succeeded)), group_size - 1)
            num_succeeded = min(len(succeeded), group_size - num_failed)
            groups.append(Group(failed[:num_failed], succeeded[:num_succeeded]))
            failed, succeeded = failed[num_failed:], succeeded[num_succeeded:]
    return groups


@dataclass
class TaskDistances:
    """Distances and curves of one task by one row and one option."""

    centers: Centers
    ranking: dict[str, Floats] = field(default_factory=dict)
    """Distances of the failures from the task's successes, by condition, ``(num_failures,)``."""
    groups: dict[str, list[Floats]] = field(default_factory=dict)
    """Distances of each group's failures from the group's own successes, by condition."""
    curves: dict[str, dict[str, float]] = field(default_factory=dict)
    """The paper's five metrics: with ``others``, a success is compared with the other successes;
    with ``self``, with its own end, as in the paper."""
    shifted_curves: dict[str, float] = field(default_factory=dict)
    """Spearman correlation with ``others``, by shift."""


def measure_task(
    labels: TaskLabels,
    latents: TaskLatents,
    name: str,
    centers: Centers,
    *,
    with_shifts_and_curves: bool = True,
) -> TaskDistances:
    """Measures all distances of a task by one option.

    Args:
        labels: Labels of the task's episodes.
        latents: Latents of the same episodes.
        name: The option's name, one of `OPTIONS`.
        centers: Which centers represent the successes.
        with_shifts_and_curves: Whether to measure shifted frames and progress curves too.
    """
    option, measured = OPTIONS[name], TaskDistances(centers)
    whole, succeeded = latents.whole, np.flatnonzero(labels.successes)

    def rank(condition: str, failures: Paths, references: Paths) -> None:
        measured.ranking[condition] = distances(
            option, failures[labels.failed], references[succeeded], centers
        )
        measured.groups[condition] = [
            distances(option, failures[group.failures], references[group.successes], centers)
            for group in labels.groups
        ]

    rank(AS_RECORDED, whole, whole)
    if with_shifts_and_curves:
        for shift, shifted in latents.shifted.items():
            rank(shift, shifted, shifted)
            rank(shift + ONE_SIDED, shifted, whole)
        placement = _from_other_states(labels, whole, option, centers)
        if placement is not None:
            measured.ranking[PLACEMENT] = placement
        measured.curves = _curves(labels, latents, option)
        for shift, windows in latents.shifted_windows.items():
            wholes = latents.shifted[shift][succeeded]
            curves = _leave_one_out_curves(option, windows, wholes, cluster(option, wholes))
            measured.shifted_curves[shift] = _mean_spearman(curves)
    return measured


def _from_other_states(
    labels: TaskLabels, whole: Paths, option: Option, centers: Centers
) -> Floats | None:
    """Compares failures with successes from other initial states only; None if all share one."""
    result = np.full(len(labels.failed), np.nan)
    for state in np.unique(labels.init_states[labels.failed]):
        rows = labels.init_states[labels.failed] == state
        references = np.flatnonzero(labels.successes & (labels.init_states != state))
        if len(references) == 0:
            return None
        result[rows] = distances(option, whole[labels.failed[rows]], whole[references], centers)
    return result


# --- Curves ---------------------------------------------------------------------------------------


def _curves(
    labels: TaskLabels, latents: TaskLatents, option: Option
) -> dict[str, dict[str, float]]:
    whole, windows = latents.whole, latents.windows
    succeeded = np.flatnonzero(labels.successes)
    clustering = cluster(option, whole[succeeded])
    centers = clustering.centers.reshape(-1, *option.points(whole[:1]).shape[1:])
    failures = [_curve(option, windows[row], centers) for row in labels.failed]
    others = _leave_one_out_curves(option, windows[succeeded], whole[succeeded], clustering)
    itself = [_curve(option, windows[row], option.points(whole[[row]])) for row in succeeded]
    return {
        name: curve_figures(successes, failures)
        for name, successes in (("others", others), ("self", itself))
    }


def _curve(option: Option, windows: Paths, references: Floats) -> Floats:
    return progress_curve(option.distance(option.points(windows), references)[0])


def _leave_one_out_curves(
    option: Option, windows: Paths, wholes: Paths, clustering: Clustering
) -> list[Floats]:
    """Computes the curve of each success that has windows, compared with the other successes."""
    return [
        _curve(option, own_windows, others)
        for number, own_windows in enumerate(windows)
        if len(others := centers_without(option, wholes, clustering, number))
    ]


def _mean_spearman(curves: Sequence[Floats]) -> float:
    return float(np.mean([spearman(curve) for curve in curves])) if curves else float("nan")


def curve_figures(successes: Sequence[Floats], failures: Sequence[Floats]) -> dict[str, float]:
    """Computes the paper's five metrics of a task's curves; NaN without successes."""
    if not successes:
        return dict.fromkeys(("spearman", "monotonicity", "mmd", "js", "smd"), float("nan"))
    succeeded = np.array([curve[-1] for curve in successes])
    failed = np.array([curve[-1] for curve in failures])
    return {
        "spearman": _mean_spearman(successes),
        "monotonicity": float(np.mean([monotonicity(curve) for curve in successes])),
        "mmd": mmd(succeeded, failed),
        "js": jensen_shannon(succeeded, failed),
        "smd": standardized_mean_difference(succeeded, failed),
    }
