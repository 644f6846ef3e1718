"""Rankings of failures over all tasks, from their distances, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from srpo_env.benchmarks.reward.metrics import (
    STAGE,
    correct_pairs,
    correlation,
    draw_counts,
    interval,
    kendall_tau,
    mean_of_known,
    overpaid,
    rank_sums,
)
from srpo_env.benchmarks.reward.task_distances import (
    AS_RECORDED,
    ONE_SIDED,
    TaskDistances,
    TaskLabels,
)
from srpo_env.rewards.progress import Formula, ProgressReward
from srpo_env.types import Floats

FORMULAS: tuple[Formula, ...] = get_args(Formula)
"""Formulas of the rewards; both decrease with the distance, so their rankings are equal."""


@dataclass(frozen=True)
class Bootstrap:
    """How often each task, failure and group is drawn in each bootstrap sample.

    All rows use the same samples, so the difference of two rows has an interval, too.
    """

    tasks: Floats
    """Counts of the tasks, ``(num_samples, num_tasks)``."""
    failures: list[Floats]
    """Counts of the failures of each task, ``(num_samples, num_failures)``."""
    groups: list[Floats]
    """Counts of the groups of each task, ``(num_samples, num_groups)``."""

    @classmethod
    def draw(cls, labels: Sequence[TaskLabels], num_samples: int, seed: int) -> Bootstrap:
        """Draws samples with replacement, each as large as the data."""
        rng = np.random.default_rng(seed)
        return cls(
            draw_counts(rng, len(labels), num_samples),
            [draw_counts(rng, len(task.failed), num_samples) for task in labels],
            [draw_counts(rng, max(1, len(task.groups)), num_samples) for task in labels],
        )


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau of one row and option over the pairs of all tasks, and bootstrap samples."""

    tau: float
    samples: Floats

    @property
    def figures(self) -> dict[str, Any]:
        """Tau and its 95% interval, for JSON."""
        return {"tau": self.tau, "interval": interval(self.samples)}

    def lead(self, other: Ranking) -> dict[str, Any]:
        """Returns the difference of the two taus and its 95% interval, for JSON."""
        return {
            "tau": self.tau - other.tau,
            "interval": interval(self.samples - other.samples),
        }


def rank_within_tasks(
    labels: Sequence[TaskLabels],
    distances: Sequence[TaskDistances],
    bootstrap: Bootstrap,
    condition: str,
) -> Ranking:
    """Ranks the failures of each task, over all pairs of failures of the same task."""
    sums, samples = [], []
    for task, measured, counts in zip(labels, distances, bootstrap.failures, strict=True):
        oracle, scores = task.max_progress[task.failed], -measured.ranking[condition]
        sums.append(rank_sums(oracle, scores))
        samples.append(rank_sums(oracle, scores, counts))
    return _over_tasks(sums, samples, bootstrap)


def rank_within_groups(
    labels: Sequence[TaskLabels],
    distances: Sequence[TaskDistances],
    bootstrap: Bootstrap,
    condition: str,
) -> Ranking:
    """Ranks the failures of each group, over all pairs of failures of the same group."""
    sums, samples = [], []
    for task, measured, counts in zip(labels, distances, bootstrap.groups, strict=True):
        group_sums = np.zeros((3, counts.shape[1]))
        for column, (group, values) in enumerate(
            zip(task.groups, measured.groups[condition], strict=True)
        ):
            group_sums[:, column] = rank_sums(task.max_progress[group.failures], -values)[:, 0]
        sums.append(group_sums.sum(axis=1, keepdims=True))
        samples.append(group_sums @ counts.T)
    return _over_tasks(sums, samples, bootstrap)


def _over_tasks(sums: list[Floats], samples: list[Floats], bootstrap: Bootstrap) -> Ranking:
    total = np.einsum("tks,st->ks", np.stack(samples), bootstrap.tasks)
    return Ranking(float(kendall_tau(np.sum(sums, axis=0))[0]), kendall_tau(total))


def figures(
    labels: Sequence[TaskLabels], distances: Sequence[TaskDistances], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Computes all results of one row and option, for JSON; `benchmark.measure` describes them."""
    # A task whose episodes share one initial state has no figure for other placements.
    first, *others = (measured.ranking for measured in distances)
    conditions = [name for name in first if all(name in other for other in others)]
    result: dict[str, Any] = {
        "task": {
            **rank_within_tasks(labels, distances, bootstrap, AS_RECORDED).figures,
            **_task_figures(labels, distances),
        },
        "group": {
            **rank_within_groups(labels, distances, bootstrap, AS_RECORDED).figures,
            **_group_figures(labels, distances),
        },
        "rank_errors": _rank_errors(labels, distances),
        "shifts": {},
        "curves": {},
    }
    for condition in conditions:
        if condition == AS_RECORDED:
            continue
        name = condition.removesuffix(ONE_SIDED)
        shift_figures = result["shifts"].setdefault(name, {})
        prefix = "one_sided_" if condition.endswith(ONE_SIDED) else ""
        by_task = rank_within_tasks(labels, distances, bootstrap, condition)
        shift_figures[prefix + "task"] = by_task.figures
        if condition in distances[0].groups:
            by_group = rank_within_groups(labels, distances, bootstrap, condition)
            shift_figures[prefix + "group"] = by_group.figures
    for shift in distances[0].shifted_curves:
        spearmans = [measured.shifted_curves[shift] for measured in distances]
        result["shifts"][shift]["spearman"] = mean_of_known(spearmans)
    for reference in distances[0].curves:
        by_task_curves = [measured.curves[reference] for measured in distances]
        result["curves"][reference] = {
            name: mean_of_known([curves[name] for curves in by_task_curves])
            for name in by_task_curves[0]
        }
    return result


def _task_figures(
    labels: Sequence[TaskLabels], distances: Sequence[TaskDistances]
) -> dict[str, float]:
    final_sums, pairs = [], []
    for task, measured in zip(labels, distances, strict=True):
        scores = -measured.ranking[AS_RECORDED]
        final_sums.append(rank_sums(task.final_progress[task.failed], scores))
        pairs.append((task.max_progress[task.failed], scores))
    tau_of_final = float(kendall_tau(np.sum(final_sums, axis=0))[0])
    return {"tau_of_final": tau_of_final, **_accuracies(pairs)}


def _group_figures(
    labels: Sequence[TaskLabels], distances: Sequence[TaskDistances]
) -> dict[str, float]:
    pairs = [
        (task.max_progress[group.failures], -values)
        for task, measured in zip(labels, distances, strict=True)
        for group, values in zip(task.groups, measured.groups[AS_RECORDED], strict=True)
    ]
    if not pairs:
        return {}
    num_overpaid = sum(overpaid(oracle, scores) for oracle, scores in pairs)
    num_failures = sum(len(scores) for _, scores in pairs)
    result = {**_accuracies(pairs), "overpaid": num_overpaid / num_failures}
    for formula in FORMULAS:
        result[f"correlation_{formula}"] = mean_of_known(
            [
                correlation(oracle, ProgressReward(formula).rewards_of(-scores))
                for oracle, scores in pairs
            ]
        )
    return result


def _accuracies(pairs: Sequence[tuple[Floats, Floats]]) -> dict[str, float]:
    """Computes the shares of pairs of failures whose scores are in the oracle's order."""
    result = {}
    for name, gaps in (
        ("accuracy", {}),
        ("accuracy_within_a_stage", {"max_gap": STAGE}),
        ("accuracy_a_stage_apart", {"min_gap": STAGE}),
    ):
        counts = [correct_pairs(oracle, scores, **gaps) for oracle, scores in pairs]
        correct, counted = np.sum(counts, axis=0)
        result[name] = float(correct / counted) if counted else float("nan")
    return result


def _rank_errors(
    labels: Sequence[TaskLabels], distances: Sequence[TaskDistances]
) -> dict[str, float]:
    """Computes the mean of rank by reward minus rank by oracle, by kind of failure.

    In shares of the task's failures; above 0, the kind is paid too much.
    """
    from scipy.stats import rankdata

    errors: dict[str, list[float]] = {}
    for task, measured in zip(labels, distances, strict=True):
        oracle, scores = task.max_progress[task.failed], -measured.ranking[AS_RECORDED]
        shares = (rankdata(scores) - rankdata(oracle)) / len(oracle)
        for row, share in zip(task.failed, shares, strict=True):
            errors.setdefault(task.kinds[row], []).append(float(share))
    return {kind: float(np.mean(values)) for kind, values in sorted(errors.items())}
