"""Compare rewards and recipes over starts and seeds: run the agent for each, and print a table.

    python scripts/learning_study.py run --starts weak=runs/NAME/policy --seeds 1 2 3
    python scripts/learning_study.py table
    python scripts/learning_study.py table --to 0.6 0.8 --against binary

Every run of ``agents/vla_grpo.py`` is continued until it has taken ``--control-steps``, or until
its held-out success reaches ``--stop-at``. Runs that are complete are kept, so that an interrupted
study continues where it stopped. The runs of one seed come before those of the next one: a study
that ends early has every variant.

The table has the interquartile mean over the seeds of the last held-out success rate, with its
stratified bootstrap interval (arXiv:2108.13264), and the control steps to given rates.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import tyro
from scipy import stats

from srpo_env.cli.main import closed_output_ends_the_program
from srpo_env.training.report import Curve, read_curve, read_history, steps_to

matplotlib.use("Agg")

import matplotlib.pyplot as plt

AGENT = Path(__file__).parents[1] / "agents/vla_grpo.py"

PAPER = (
    *("--credit", "episode", "--replay-steps", "0", "--correlation", "0"),
    *("--temperature", "1", "--target-kl", "1", "--learning-rate", "1.5e-4"),
)
IMITATION = ("--reward", "binary", "--update-epochs", "0")  # no step of the policy gradient
VARIANTS: dict[str, tuple[str, ...]] = {
    "recipe": ("--reward", "srpo"),  # the defaults
    "recipe-binary": ("--reward", "binary"),
    "recipe-oracle": ("--reward", "oracle"),
    "recipe-episode": ("--reward", "srpo", "--credit", "episode"),
    "imitation": IMITATION,
    "imitation-cool": (*IMITATION, "--temperature", "0.5"),
    "imitation-uncorrelated": (*IMITATION, "--temperature", "0.5", "--correlation", "0"),
    "srpo": (*PAPER, "--reward", "srpo"),
    "binary": (*PAPER, "--reward", "binary"),
    "dense": (*PAPER, "--credit", "dense", "--reward", "srpo"),
    "oracle-dense": (*PAPER, "--credit", "dense", "--reward", "oracle"),
}
"""Arguments of the agent by the name of the variant; ``srpo`` is the paper's algorithm."""

CONTINUE = "the same command continues the study"

Cells = dict[tuple[str, str], dict[int, Curve]]
"""Curves by start and variant, then by seed."""


@dataclass(frozen=True)
class Run:
    """Runs what is missing."""

    folder: Path = Path("runs/learning_study")
    """Folder of the study: START/VARIANT/seed_N/RUN."""
    starts: tuple[str, ...] = ("bundled=libero-object",)
    """Initial policies, each as NAME=CHECKPOINT."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Variants to run."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the runs; equal seeds have equal first groups."""
    control_steps: int = 250_000
    """Control steps after which a run is complete."""
    stop_at: float = 0.99
    """Held-out success at which it is complete, too."""
    eval_every: int = 4
    """Iterations between two evaluations."""
    agent: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARG ...")] = ()
    """Further arguments of the agent, for example ``--agent=--physics --agent=fast``."""

    def __post_init__(self) -> None:
        """Checks the names."""
        unknown = sorted(set(self.variants) - set(VARIANTS))
        if unknown:
            raise SystemExit(f"--variants must be among {', '.join(VARIANTS)}, got {unknown[0]!r}")
        for start in self.starts:
            if not all(start.partition("=")[::2]):
                raise SystemExit(f"--starts must be NAME=CHECKPOINT, got {start!r}")

    def __call__(self) -> None:
        """Runs seed by seed."""
        for seed, start, variant in itertools.product(self.seeds, self.starts, self.variants):
            name, _, checkpoint = start.partition("=")
            cell = self.folder / name / variant / f"seed_{seed}"
            while not self.is_complete(cell):
                print(f"--- {name}, {variant}, seed {seed}", flush=True)
                before = num_evaluations(cell)
                try:
                    code = subprocess.run(self.command(cell, checkpoint, variant, seed)).returncode
                except KeyboardInterrupt:
                    raise SystemExit(f"interrupted; {CONTINUE}") from None
                if code != 0 or num_evaluations(cell) == before:
                    raise SystemExit(f"the run in {cell} has failed, see above; {CONTINUE}")

    def is_complete(self, cell: Path) -> bool:
        """Returns whether the run in a folder has taken its steps, or is good enough."""
        if (run := run_in(cell)) is None:
            return False
        curve = read_curve(run)
        return bool(
            curve.control_steps[-1] >= self.control_steps or curve.success_rates[-1] >= self.stop_at
        )

    def command(self, cell: Path, checkpoint: str, variant: str, seed: int) -> list[str]:
        """Returns the command that starts a run, or continues it to its next evaluation."""
        arguments = ["--eval-every", str(self.eval_every)]
        if (run := run_in(cell)) is not None:
            done = read_history(run)[-1]["iteration"] // self.eval_every
            arguments += ["--resume", str(run), "--iterations", str((done + 1) * self.eval_every)]
        else:
            arguments += ["--checkpoint", checkpoint, "--run-dir", str(cell), "--seed", str(seed)]
            arguments += ["--iterations", str(self.eval_every), *VARIANTS[variant], *self.agent]
        return [sys.executable, str(AGENT), *arguments]


@dataclass(frozen=True)
class Table:
    """Prints the table, and draws the curves."""

    folder: Path = Path("runs/learning_study")
    """Folder of the study."""
    to: tuple[float, ...] = (0.6, 0.8, 0.9, 0.95)
    """Held-out success rates to which control steps are counted."""
    against: str | None = None
    """Variant to which the others are compared: the ratio of the median control steps."""
    out: Path = field(default=Path("study.png"))
    """Picture of the curves."""

    def __call__(self) -> None:
        """Prints and draws."""
        cells = read_cells(self.folder)
        if not cells:
            raise SystemExit(f"--folder must hold runs of this script, and {self.folder} has none")
        print(*table(cells, self.to), sep="\n")
        if self.against is not None:
            print("", *ratios(cells, self.to, self.against), sep="\n")
        draw(cells, self.out)


def run_in(cell: Path) -> Path | None:
    """Returns the run of a cell that has an evaluation; None without one."""
    runs = [history.parent for history in sorted(cell.glob("*/history.jsonl"))]
    evaluated = [
        run for run in runs if any("eval/success_rate" in point for point in read_history(run))
    ]
    if len(evaluated) > 1:
        raise SystemExit(f"{cell} must hold one run, and has {len(evaluated)}: remove the others")
    return evaluated[0] if evaluated else None


def num_evaluations(cell: Path) -> int:
    """Returns how often the run of a cell has been evaluated."""
    run = run_in(cell)
    return 0 if run is None else len(read_curve(run).iterations)


def read_cells(folder: Path) -> Cells:
    """Reads all runs that have an evaluation."""
    cells: Cells = {}
    for cell in sorted(folder.glob("*/*/seed_*")):
        start, variant, seed = cell.parts[-3:]
        if (run := run_in(cell)) is not None:
            cells.setdefault((start, variant), {})[int(seed.removeprefix("seed_"))] = read_curve(
                run
            )
    return cells


def interquartile_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean without the lowest and highest quarter, and its 95% bootstrap interval.

    The interval is NaN for fewer than three values, whose spread is unknown.
    """

    def mean(sample: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(sample, 0.25, axis=axis)

    middle = float(mean(np.array(values)))
    if len(values) < 3:
        return middle, float("nan"), float("nan")
    if np.ptp(values) == 0:
        return middle, middle, middle
    # `random_state` and not `rng`, which SciPy has only since 1.15.
    interval = stats.bootstrap(
        (values,), mean, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    return middle, float(interval.low), float(interval.high)


def table(cells: Cells, rates: Sequence[float]) -> list[str]:
    """Returns a Markdown table: one row for each start and variant."""
    head = ["start", "variant", "seeds", "thousands of control steps taken"]
    head += ["first", "lowest", "last, IQM [95%]"]
    head += [f"thousands of control steps to {rate:.0%}" for rate in rates]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for (start, variant), by_seed in cells.items():
        curves = list(by_seed.values())
        last, low, high = interquartile_mean([curve.success_rates[-1] for curve in curves])
        cells_of_row = [start, variant, " ".join(map(str, by_seed))]
        # The last evaluations are comparable only after equal numbers of steps.
        cells_of_row += [", ".join(thousands(curve.control_steps[-1]) for curve in curves)]
        cells_of_row += [f"{np.mean([curve.success_rates[0] for curve in curves]):.0%}"]
        cells_of_row += [f"{min(curve.success_rates.min() for curve in curves):.0%}"]
        cells_of_row += [f"{last:.0%}" + (f" [{low:.0%}, {high:.0%}]" if low == low else "")]
        for rate in rates:
            steps = [steps_to(curve, rate) for curve in curves]
            single = ", ".join(map(thousands, steps))
            cells_of_row.append(f"{thousands(float(np.median(steps)))} ({single})")
        lines.append(f"| {' | '.join(cells_of_row)} |")
    return lines


def ratios(cells: Cells, rates: Sequence[float], against: str) -> list[str]:
    """Returns for each variant the ratio of its median control steps to those of another one.

    The interval is the bootstrap's over the seeds of both. Runs that never reach the rate make the
    ratio unknown.
    """
    lines = [f"control steps as a multiple of those of {against!r}"]
    for (start, variant), by_seed in cells.items():
        other: Mapping[int, Curve] = cells.get((start, against), {})
        if variant == against or not other:
            continue
        for rate in rates:
            mine, theirs = (
                np.array([steps_to(curve, rate) for curve in curves.values()])
                for curves in (by_seed, other)
            )
            text = "unknown, because a run did not reach it"
            if np.isfinite([*mine, *theirs]).all():
                text = f"{np.median(mine) / np.median(theirs):.2f}"
                if min(len(mine), len(theirs)) >= 3:
                    interval = stats.bootstrap(
                        (mine, theirs), ratio_of_medians, method="percentile",
                        random_state=np.random.default_rng(0),
                    ).confidence_interval  # fmt: skip
                    text += f" [{interval.low:.2f}, {interval.high:.2f}]"
            lines.append(f"{start}, {variant}, to {rate:.0%}: {text}")
    return lines


def ratio_of_medians(mine: np.ndarray, theirs: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the ratio of two medians."""
    ratio: np.ndarray = np.median(mine, axis=axis) / np.median(theirs, axis=axis)
    return ratio


def thousands(steps: float) -> str:
    """Returns a number of control steps in thousands."""
    return f"{steps / 1e3:.0f}" if np.isfinite(steps) else "not reached"


def draw(cells: Cells, path: Path) -> None:
    """Draws held-out success against control steps: a panel per start, a colour per variant.

    Each seed is a thin line; the thick one is their mean, interpolated where all of them have been.
    """
    starts = list(dict.fromkeys(start for start, _ in cells))
    colors = {name: f"C{row}" for row, name in enumerate(VARIANTS)}
    figure, panels = plt.subplots(
        1, len(starts), figsize=(5.5 * len(starts), 4), squeeze=False, layout="constrained"
    )
    for start, axes in zip(starts, panels[0], strict=True):
        for (of_start, variant), by_seed in cells.items():
            if of_start != start:
                continue
            curves = list(by_seed.values())
            last = min(curve.control_steps[-1] for curve in curves)
            steps = np.linspace(0, last, 200)
            rates = np.array(
                [np.interp(steps, curve.control_steps, curve.success_rates) for curve in curves]
            )
            color = colors.get(variant, "black")
            label = f"{variant} (seeds {', '.join(map(str, by_seed))})"
            axes.plot(steps / 1e3, 100 * rates.mean(axis=0), color=color, linewidth=2, label=label)
            for curve in curves:
                axes.plot(
                    curve.control_steps / 1e3, 100 * curve.success_rates, color=color,
                    linewidth=0.8, alpha=0.6, marker="o", markersize=2.5,
                )  # fmt: skip
        axes.set(title=start, xlabel="control steps (thousands)", ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0][0].set_ylabel("held-out success (%)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"The picture is in {path}")


if __name__ == "__main__":
    with closed_output_ends_the_program():
        tyro.cli(Run | Table)()
