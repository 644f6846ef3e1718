"""From distances to figures: rankings over all tasks, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from srpo_env.benchmarks.reward_metrics import (
    STAGE,
    average,
    correlation,
    draw_counts,
    interval,
    kendall_tau,
    overpaid_share,
    pair_accuracy,
)
from srpo_env.benchmarks.reward_scores import (
    AS_RECORDED,
    ONE_SIDED,
    TaskFacts,
    TaskScores,
)
from srpo_env.reward import Formula, progress_rewards

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
    """Kendall's tau of one row and option, averaged over tasks, and its bootstrap samples."""

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
    """Ranking of a task's failures, averaged over the tasks."""
    taus, samples = [], []
    for task, score, counts in zip(facts, scores, drawn.failures, strict=True):
        truths, near = task.furthest[task.failed], -score.ranking[condition]
        taus.append(kendall_tau(truths, near)[0])
        samples.append(kendall_tau(truths, near, counts))
    return _over_tasks(np.array(taus), np.stack(samples, axis=1), drawn)


def rank_within_groups(
    facts: Sequence[TaskFacts], scores: Sequence[TaskScores], drawn: Bootstrap, condition: str
) -> Ranking:
    """Ranking of a group's failures, averaged over a task's groups and then the tasks."""
    values, samples = [], []
    for task, score, counts in zip(facts, scores, drawn.groups, strict=True):
        taus = np.full(counts.shape[1], np.nan)
        for row, (group, near) in enumerate(zip(task.groups, score.groups[condition], strict=True)):
            taus[row] = kendall_tau(task.furthest[group.failures], -near)[0]
        values.append(average(taus, np.ones((1, len(taus))))[0])
        samples.append(average(taus, counts))
    return _over_tasks(np.array(values), np.stack(samples, axis=1), drawn)


def _over_tasks(values: Floats, samples: Floats, drawn: Bootstrap) -> Ranking:
    return Ranking(_mean(values), average(samples, drawn.tasks))


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
    for reference in scores[0].curves:
        five = [score.curves[reference] for score in scores]
        result["curves"][reference] = {
            name: _mean(np.array([task[name] for task in five])) for name in five[0]
        }
    return result


def _task_figures(facts: Sequence[TaskFacts], scores: Sequence[TaskScores]) -> dict[str, float]:
    rows: list[dict[str, float]] = []
    for task, score in zip(facts, scores, strict=True):
        furthest, final = task.furthest[task.failed], task.final[task.failed]
        near = -score.ranking[AS_RECORDED]
        rows.append(
            {
                "tau_of_final": kendall_tau(final, near)[0],
                "accuracy": pair_accuracy(furthest, near)[0],
                "accuracy_within_a_stage": pair_accuracy(furthest, near, most_gap=STAGE)[0],
                "accuracy_a_stage_apart": pair_accuracy(furthest, near, least_gap=STAGE)[0],
            }
        )
    return _mean_of_rows(rows)


def _group_figures(facts: Sequence[TaskFacts], scores: Sequence[TaskScores]) -> dict[str, float]:
    rows: list[dict[str, float]] = []
    for task, score in zip(facts, scores, strict=True):
        for group, found in zip(task.groups, score.groups[AS_RECORDED], strict=True):
            truths = task.furthest[group.failures]
            rows.append(
                {
                    "accuracy": pair_accuracy(truths, -found)[0],
                    "accuracy_a_stage_apart": pair_accuracy(truths, -found, least_gap=STAGE)[0],
                    "overpaid": overpaid_share(truths, -found),
                    **{
                        f"correlation_{formula}": correlation(
                            truths, progress_rewards(found, formula=formula)
                        )
                        for formula in FORMULAS
                    },
                }
            )
    return _mean_of_rows(rows)


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


def _mean_of_rows(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    if not rows:
        return {}
    return {name: _mean(np.array([row[name] for row in rows])) for name in rows[0]}
