"""Draws the success of several policies under perturbations, and prints a table.

    python scripts/compare_perturbed.py picture.png start=results/start srpo=results/srpo

The folders are those of ``srpo-env evaluate --perturbations``, with equal settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from srpo_env.libero.perturbations import DIMENSIONS, LEVELS
from srpo_env.system.files import read_versioned_json
from srpo_env.training.evaluation import Evaluation
from srpo_env.training.perturbation_report import TITLES, pooled
from srpo_env.training.perturbed_evaluation import (
    FORMAT,
    FORMAT_VERSION,
    UNPERTURBED,
    Cell,
    PerturbedEvaluation,
    cells_of,
)

Results = dict[Cell, Evaluation]


def main() -> None:
    """Reads the evaluations, prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("policies", nargs="+", metavar="NAME=FOLDER")
    args = parser.parse_args()
    settings, results = {}, {}
    for policy in args.policies:
        name, _, folder = policy.partition("=")
        file = Path(folder) / "evaluation.json"
        if not folder or not file.is_file():
            raise SystemExit(f"policies must be NAME=FOLDER of an evaluation, got {policy!r}")
        content = read_versioned_json(file, FORMAT, FORMAT_VERSION)["settings"]
        results[name] = PerturbedEvaluation.start(file, content).results
        settings[name] = {key: value for key, value in content.items() if key != "weights"}
    first = next(iter(settings.values()))
    for name, other in settings.items():
        if other != first:
            names = ", ".join(key for key in first if first[key] != other.get(key))
            raise SystemExit(
                f"the policies must be evaluated with equal settings, but {names} of {name!r} "
                "differ from the first policy's: evaluate it again with the same"
            )
        missing = [cell for cell in cells_of(list(DIMENSIONS), LEVELS) if cell not in results[name]]
        if missing:
            raise SystemExit(
                f"the evaluation of {name!r} must have all cells, and lacks {missing[0]}: run "
                "`srpo-env evaluate --perturbations all --severity 1..5` again"
            )
    print(*table(results), sep="\n")
    draw(results).savefig(args.picture)


def table(results: dict[str, Results]) -> list[str]:
    """Returns a Markdown table: a row per dimension, a column per policy, over all levels."""
    lines = [f"| perturbation | {' | '.join(results)} |", "| --- |" + " --- |" * len(results)]
    rows = {"none": [(UNPERTURBED, 0)]}
    rows |= {name: [(name, level) for level in LEVELS] for name in DIMENSIONS}
    rows["all seven"] = [cell for name in DIMENSIONS for cell in rows[name]]
    for name, cells in rows.items():
        shown = []
        for cells_of_policy in results.values():
            part = pooled([cells_of_policy[cell] for cell in cells])
            low, high = part.interval
            shown.append(f"{part.success_rate:.0%} [{low:.0%}, {high:.0%}]")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def draw(results: dict[str, Results]) -> Figure:
    """Draws a panel per dimension and a line per policy; dotted: without a perturbation."""
    figure = Figure(figsize=(10.2, 4.8), dpi=110, layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True).reshape(-1)
    for axes, dimension in zip(panels, DIMENSIONS, strict=False):
        for row, (name, cells) in enumerate(results.items()):
            parts = [cells[dimension, level] for level in LEVELS]
            rates = [part.success_rate for part in parts]
            errors = [
                [rate - part.interval[0] for rate, part in zip(rates, parts, strict=True)],
                [part.interval[1] - rate for rate, part in zip(rates, parts, strict=True)],
            ]
            places = [level + 0.12 * (row - (len(results) - 1) / 2) for level in LEVELS]
            axes.errorbar(
                places, rates, errors, color=f"C{row}", label=name,
                marker="o", markersize=3, capsize=2, linewidth=1,
            )  # fmt: skip
            rate = cells[UNPERTURBED, 0].success_rate
            axes.axhline(rate, color=f"C{row}", linewidth=1, linestyle=":")
        axes.set_title(TITLES[dimension], fontsize=9)
        axes.set(ylim=(-0.03, 1.03), xticks=LEVELS)
        axes.grid(alpha=0.3)
    panels[-1].set_axis_off()
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=9)
    figure.supxlabel("level", fontsize=9)
    figure.supylabel("success rate", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
