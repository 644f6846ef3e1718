"""Table and picture of success rates under perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from srpo_env.benchmarks.text_table import aligned_rows
from srpo_env.libero.perturbations import DIMENSIONS
from srpo_env.training.evaluation import Evaluation
from srpo_env.training.perturbed_evaluation import UNPERTURBED, Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "camera": "camera",
    "robot": "robot's initial state",
    "language": "language",
    "light": "light",
    "background": "background",
    "noise": "sensor noise",
    "layout": "layout",
}


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """Returns one evaluation of the episodes of several."""
    return Evaluation(tuple(episode for part in parts for episode in part.episodes))


def table(results: Mapping[Cell, Evaluation]) -> str:
    """Returns a table: dimensions in rows, levels in columns, with Wilson 95% intervals."""
    levels = sorted({level for _, level in results if level})
    dimensions = [name for name in DIMENSIONS if any(cell[0] == name for cell in results)]
    rows = [["dimension", *(f"level {level}" for level in levels), "all levels"]]
    for name in dimensions:
        cells = [results.get((name, level)) for level in levels]
        rows.append([name, *map(_cell, cells), _cell(_all(cells))])
    columns = [[results.get((name, level)) for name in dimensions] for level in levels]
    total = _all([part for column in columns for part in column])
    if len(dimensions) > 1:
        rows.append(["total", *(_cell(_all(column)) for column in columns), _cell(total)])
    lines = aligned_rows(rows)
    if (UNPERTURBED, 0) in results:
        lines.append(f"\nwithout a perturbation: {results[UNPERTURBED, 0]} episodes")
    return "\n".join(lines)


def draw(results: Mapping[Cell, Evaluation], title: str) -> Figure:
    """Draws a small curve for each dimension: success rate by level, with Wilson 95% intervals.

    A grey band is the interval without a perturbation.
    """
    from matplotlib.figure import Figure

    dimensions = [name for name in DIMENSIONS if any(cell[0] == name for cell in results)]
    columns = min(4, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.1 * rows + 0.6), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).reshape(-1)
    for axes, name in zip(panels, dimensions, strict=False):
        unperturbed = results.get((UNPERTURBED, 0))
        if unperturbed is not None:
            axes.axhspan(*unperturbed.interval, color="#dddddd", linewidth=0)
            axes.axhline(unperturbed.success_rate, color="#888888", linewidth=1)
        points = sorted((level, part) for (cell, level), part in results.items() if cell == name)
        levels, rates = [level for level, _ in points], [part.success_rate for _, part in points]
        below = [part.success_rate - part.interval[0] for _, part in points]
        above = [part.interval[1] - part.success_rate for _, part in points]
        axes.errorbar(levels, rates, [below, above], marker="o", markersize=3, capsize=2)
        axes.set_title(TITLES[name], fontsize=9)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xticks(sorted({level for _, level in results if level}))
        axes.margins(x=0.1)
        axes.grid(alpha=0.3)
    for axes in panels[len(dimensions) :]:
        axes.set_axis_off()
    figure.supxlabel("level", fontsize=9)
    figure.supylabel("success rate", fontsize=9)
    figure.suptitle(title, fontsize=9)
    return figure


def _all(parts: Sequence[Evaluation | None]) -> Evaluation | None:
    known = [part for part in parts if part is not None]
    return pooled(known) if known else None


def _cell(part: Evaluation | None) -> str:
    if part is None:
        return "-"
    low, high = part.interval
    return f"{part.success_rate:.0%} [{low:.0%}, {high:.0%}]"
