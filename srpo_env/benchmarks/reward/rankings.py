"""From distances to figures: rankings over all tasks, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward.metrics import (
    STAGE,
    correlation,
    draw_counts,
    interval,
    kendall_tau,
    overpaid,
    rank_sums,
    right_pairs,
)
from srpo_env.benchmarks.reward.task_distances import (
    AS_RECORDED,
    ONE_SIDED,
    TaskFacts,
    TaskScores,
)
from srpo_env.rewards.progress import Formula, ProgressReward

Floats = npt.NDArray[np.float64]

FORMULAS: tuple[Formula, ...] = get_args(Formula)
"""Both fall with the distance, so that their ranks are the same"""


@dataclass(frozen=True)
class Bootstrap:
    """Counts of what is drawn: tasks, and in each task failures and groups. The same for all rows.

    So the difference of two rows has an interval too.
    """

    tasks: Floats
    """``(num_samples, num_tasks)``"""
    failures: list[Floats]
    """of each task, ``(num_samples, num_failures)``"""
    groups: list[Floats]
    """of each task, ``(num_samples, num_groups)``"""

    @classmethod
    def draw(cls, facts: Sequence[TaskFacts], num_samples: int, seed: int) -> Bootstrap:
        """Draws with replacement, as many as there are."""
        rng = np.random.default_rng(seed)
        return cls(
            draw_counts(rng, len(facts), num_samples),
            [draw_counts(rng, len(task.failed), num_samples) for task in facts],
            [draw_counts(rng, max(1, len(task.groups)), num_samples) for task in facts],
        )


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau of one row and option, over the pairs of all tasks, and bootstrap samples."""

    tau: float
    samples: Floats

    @property
    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {"tau": self.tau, "interval": interval(self.samples)}

    def lead(self, other: Ranking) -> dict[str, Any]:
        """How much better it ranks, for JSON."""
        return {
            "tau": self.tau - other.tau,
            "interval": interval(self.samples - other.samples),
        }


def rank_within_tasks(
    facts: Sequence[TaskFacts], scores: Sequence[TaskScores], drawn: Bootstrap, condition: str
) -> Ranking:
    """Ranking of failures within their task: over all pairs of failures of the same task."""
    sums, samples = [], []
    for task, score, counts in zip(facts, scores, drawn.failures, strict=True):
        truths, near = task.furthest[task.failed], -score.ranking[condition]
        sums.append(rank_sums(truths, near))
        samples.append(rank_sums(truths, near, counts))
    return _over_tasks(sums, samples, drawn)


def rank_within_groups(
    facts: Sequence[TaskFacts], scores: Sequence[TaskScores], drawn: Bootstrap, condition: str
) -> Ranking:
    """Ranking of failures within their group: over all pairs of failures of the same group."""
    sums, samples = [], []
    for task, score, counts in zip(facts, scores, drawn.groups, strict=True):
        of_groups = np.zeros((3, counts.shape[1]))
        for column, (group, distances) in enumerate(
            zip(task.groups, score.groups[condition], strict=True)
        ):
            of_groups[:, column] = rank_sums(task.furthest[group.failures], -distances)[:, 0]
        sums.append(of_groups.sum(axis=1, keepdims=True))
        samples.append(of_groups @ counts.T)
    return _over_tasks(sums, samples, drawn)


def _over_tasks(sums: list[Floats], samples: list[Floats], drawn: Bootstrap) -> Ranking:
    total = np.einsum("tks,st->ks", np.stack(samples), drawn.tasks)
    return Ranking(float(kendall_tau(np.sum(sums, axis=0))[0]), kendall_tau(total))


def figures(
    facts: Sequence[TaskFacts], scores: Sequence[TaskScores], drawn: Bootstrap
) -> dict[str, Any]:
    """All figures of one row and option, for JSON; see `reward.measure` for their meaning."""
    conditions = list(scores[0].ranking)
    result: dict[str, Any] = {
        "task": {
            **rank_within_tasks(facts, scores, drawn, AS_RECORDED).figures,
            **_task_figures(facts, scores),
        },
        "group": {
            **rank_within_groups(facts, scores, drawn, AS_RECORDED).figures,
            **_group_figures(facts, scores),
        },
        "rank_errors": _rank_errors(facts, scores),
        "shifts": {},
        "curves": {},
    }
    for condition in conditions:
        if condition == AS_RECORDED:
            continue
        name = condition.removesuffix(ONE_SIDED)
        of_shift = result["shifts"].setdefault(name, {})
        prefix = "one_sided_" if condition.endswith(ONE_SIDED) else ""
        of_shift[prefix + "task"] = rank_within_tasks(facts, scores, drawn, condition).figures
        if condition in scores[0].groups:
            of_shift[prefix + "group"] = rank_within_groups(facts, scores, drawn, condition).figures
    for shift in scores[0].shifted_curves:
        spearmans = np.array([score.shifted_curves[shift] for score in scores])
        result["shifts"][shift]["spearman"] = _mean(spearmans)
    for reference in scores[0].curves:
        five = [score.curves[reference] for score in scores]
        result["curves"][reference] = {
            name: _mean(np.array([task[name] for task in five])) for name in five[0]
        }
    return result


def _task_figures(facts: Sequence[TaskFacts], scores: Sequence[TaskScores]) -> dict[str, float]:
    of_final, pairs = [], []
    for task, score in zip(facts, scores, strict=True):
        near = -score.ranking[AS_RECORDED]
        of_final.append(rank_sums(task.final[task.failed], near))
        pairs.append((task.furthest[task.failed], near))
    return {"tau_of_final": float(kendall_tau(np.sum(of_final, axis=0))[0]), **_accuracies(pairs)}


def _group_figures(facts: Sequence[TaskFacts], scores: Sequence[TaskScores]) -> dict[str, float]:
    pairs = [
        (task.furthest[group.failures], -distances)
        for task, score in zip(facts, scores, strict=True)
        for group, distances in zip(task.groups, score.groups[AS_RECORDED], strict=True)
    ]
    if not pairs:
        return {}
    too_high = sum(overpaid(truths, near) for truths, near in pairs)
    result = {**_accuracies(pairs), "overpaid": too_high / sum(len(near) for _, near in pairs)}
    for formula in FORMULAS:
        found = [
            correlation(truths, ProgressReward(formula).rewards_of(-near)) for truths, near in pairs
        ]
        result[f"correlation_{formula}"] = _mean(np.array(found))
    return result


def _accuracies(pairs: Sequence[tuple[Floats, Floats]]) -> dict[str, float]:
    """Shares of all pairs of truths and scores that are in the right order."""
    result = {}
    for name, gaps in (
        ("accuracy", {}),
        ("accuracy_within_a_stage", {"most_gap": STAGE}),
        ("accuracy_a_stage_apart", {"least_gap": STAGE}),
    ):
        found = [right_pairs(truths, scores, **gaps) for truths, scores in pairs]
        right, counted = np.sum(found, axis=0)
        result[name] = float(right / counted) if counted else float("nan")
    return result


def _rank_errors(facts: Sequence[TaskFacts], scores: Sequence[TaskScores]) -> dict[str, float]:
    """By kind of failure: mean rank by reward less that by truth, as a share of the failures.

    Above 0, the kind is paid too much.
    """
    errors: dict[str, list[float]] = {}
    for task, score in zip(facts, scores, strict=True):
        truths, near = task.furthest[task.failed], -score.ranking[AS_RECORDED]
        shares = (_ranks(near) - _ranks(truths)) / len(truths)
        for row, share in zip(task.failed, shares, strict=True):
            errors.setdefault(task.kinds[row], []).append(float(share))
    return {kind: float(np.mean(found)) for kind, found in sorted(errors.items())}


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), np.float64)


def _mean(values: Floats) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
