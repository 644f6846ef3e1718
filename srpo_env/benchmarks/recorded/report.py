"""Formats and draws the results of ``srpo-env check-reward``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo_env.benchmarks.recorded.figures import EncoderCheck, Estimate, TaskCheck
from srpo_env.benchmarks.recorded.verdict import MIN_CORRELATION, MIN_SEPARATION, RewardCheck
from srpo_env.benchmarks.text_table import aligned_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which is safe for colour-blind readers.
ENCODER, PIXELS, SUCCESS, FAILURE = "#0072B2", "#999999", "#009E73", "#D55E00"

MAX_NAME = 40
"""Maximum number of characters of a task's name."""

COLUMNS = ("successes", "failures", "clusters", "correlation [95%]", "separation [95%]", "spread")

LEGEND = """\
clusters     centers of several successes + centers of one success; 0 + 1 is a fallback
correlation  rank correlation with time of the progress of a success's growing prefixes, compared
             with the other successes; 1 is best, 0 is none
separation   share of pairs in which the failure is farther from the other successes than the
             success is (AUC); 1 is best, 0.5 is chance
spread       standard deviation of the failures' distances over their mean"""


def report(check: RewardCheck) -> str:
    """Returns the verdict, the next steps and the tables."""
    verdict = check.verdict
    lines = [textwrap.fill(verdict.text, 100)]
    for step in verdict.next_steps:
        lines.append(textwrap.fill(step, 100, initial_indent="  next: ", subsequent_indent=" " * 8))
    tables = [_table(one) for one in (check.encoder, check.pixels) if one is not None]
    return "\n\n".join([*tables, *_left_out(check.encoder), LEGEND, "\n".join(lines)])


def _table(check: EncoderCheck) -> str:
    rows: list[tuple[str, ...]] = [(f"encoder: {check.encoder}", *COLUMNS)]
    rows += [(_short(task.task), *_task_cells(task)) for task in check.tasks]
    if len(check.tasks) > 1 or not np.isnan(check.correlation.value):
        total = [sum(getattr(task, name) for task in check.tasks)
                 for name in ("num_successes", "num_failures")]  # fmt: skip
        rows.append(
            (
                "mean over tasks",
                *map(str, total),
                "",
                _estimate(check.correlation),
                _estimate(check.separation),
                _number(check.spread),
            )
        )
    return "\n".join(aligned_rows(rows))


def _task_cells(task: TaskCheck) -> tuple[str, ...]:
    return (
        str(task.num_successes),
        str(task.num_failures),
        f"{task.num_clusters} + {task.num_singles}" + " (fallback)" * task.is_fallback,
        _number(task.correlation),
        _number(task.separation),
        _number(task.spread),
    )


def _left_out(check: EncoderCheck) -> list[str]:
    """Returns lines that name what could not be measured, and why."""
    lines = []
    for reason, tasks in (
        (
            "fewer than two successes, so neither correlation nor separation",
            [task for task in check.tasks if task.num_successes < 2],
        ),
        (
            "no failure, so neither separation nor spread",
            [task for task in check.tasks if task.num_failures == 0],
        ),
    ):
        if tasks:
            names = ", ".join(_short(task.task) for task in tasks)
            lines.append(f"Not measured ({reason}): {names}")
    return lines


def _estimate(estimate: Estimate) -> str:
    return "-" if np.isnan(estimate.value) else str(estimate)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _short(name: str, limit: int = MAX_NAME) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


# --- Picture --------------------------------------------------------------------------------------


def draw(check: RewardCheck) -> Figure:
    """Draws progress along successes, the distances of successes and failures, and the figures."""
    from matplotlib.figure import Figure

    tasks = check.encoder.tasks
    height = max(3.6, 1.6 + 0.42 * len(tasks))
    figure = Figure(figsize=(13, height), dpi=130, layout="constrained")
    curves, distances, figures = figure.subplots(1, 3, width_ratios=[1.1, 1.3, 0.9])
    _draw_curves(curves, check)
    _draw_distances(distances, tasks)
    _draw_figures(figures, check)
    for axes in (curves, distances, figures):
        axes.spines[["top", "right"]].set_visible(False)
    # By label, because several panels draw the same encoder.
    entries: dict[str, Any] = {}
    for axes in (figures, curves, distances):
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    figure.suptitle(f"{check.encoder.encoder}: {check.verdict.status}", fontsize=12)
    return figure


def _draw_curves(axes: Axes, check: RewardCheck) -> None:
    axes.plot([0, 1], [0, 1], color="#cccccc", linestyle=":", linewidth=1)
    for one, color in ((check.pixels, PIXELS), (check.encoder, ENCODER)):
        if one is None:
            continue
        pairs = [pair for task in one.tasks for pair in zip(task.times, task.curves, strict=True)]
        for times, curve in pairs:
            axes.plot(times, curve, color=color, linewidth=0.8, alpha=0.35)
        if pairs:
            grid = np.linspace(0, 1, 21)
            mean = np.mean([np.interp(grid, times, curve) for times, curve in pairs], axis=0)
            axes.plot(grid, mean, color=color, linewidth=2.5, label=one.encoder)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_xlabel("share of the success that was seen")
    axes.set_ylabel("progress (other successes as reference)")
    axes.set_title("Progress along successes", fontsize=10, loc="left")


def _draw_distances(axes: Axes, tasks: Sequence[TaskCheck]) -> None:
    for place, task in enumerate(tasks):
        groups = (
            (task.success_distances, SUCCESS, "success, to the others", -0.14),
            (task.failure_distances, FAILURE, "failure", 0.14),
        )
        known = np.concatenate([group[0][~np.isnan(group[0])] for group in groups])
        largest = known.max() if known.size and known.max() > 0 else 1.0
        for values, color, label, offset in groups:
            heights = np.full(len(values), place + offset)
            axes.scatter(values / largest, heights, s=26, color=color, alpha=0.65, linewidths=0,
                         label=label if place == 0 else "_")  # fmt: skip
    axes.set_yticks(range(len(tasks)), [_short(task.task, 24) for task in tasks], fontsize=8)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(0, 1.04)
    axes.set_xlabel("distance to the nearest center, largest of the task = 1")
    axes.set_title("Distances", fontsize=10, loc="left")


def _draw_figures(axes: Axes, check: RewardCheck) -> None:
    rows = [("correlation", MIN_CORRELATION), ("separation", MIN_SEPARATION)]
    checks = [(check.encoder, ENCODER), (check.pixels, PIXELS)]
    for number, (one, color) in enumerate(checks):
        if one is None:
            continue
        for place, (name, _) in enumerate(rows):
            estimate: Estimate = getattr(one, name)
            if np.isnan(estimate.value):
                continue
            y = place + 0.3 * number - 0.15
            axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2)
            axes.plot([estimate.value], [y], color=color, marker="o", markersize=8,
                      label=one.encoder if place == 0 else "_")  # fmt: skip
    for place, (_, threshold) in enumerate(rows):
        axes.plot([threshold] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.2,
                  label="needed" if place == 0 else "_")  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.1, 1.05)
    axes.set_title("Means over tasks with 95% intervals", fontsize=10, loc="left")
