"""Print the table of the study, check its criteria, and draw its figure.

    python examples/reflection_counting/report.py

Reads what train.py wrote to --folder, and writes reflection.png there. The criteria were fixed
before the first runs. Needs `pip install matplotlib scipy tyro`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import tyro
from scipy import stats

ROWS = {
    "no_rl": "after reflection SFT, no RL",
    "paper": "paper",
    "no_brevity": "paper without f_len",
    "no_effectiveness": "paper without I_eff",
    "final_only": "final answer only",
    "released": "released weights",
    "plain_grpo": "*control:* base + GRPO, one answer",
    "plain_sft": "*control:* base + SFT on right reasoning",
}
COLORS = {
    "paper": "#2e86c1",
    "no_brevity": "#27ae60",
    "no_effectiveness": "#e67e22",
    "final_only": "#7f8c8d",
    "released": "#c0392b",
}
CASES = {"rr": "right, right", "wr": "wrong, right", "rw": "right, wrong", "ww": "wrong, wrong"}

Results = dict[str, dict[int, dict]]
"""Results by run and seed."""


@dataclass(frozen=True)
class Args:
    """Settings of the report."""

    folder: Path = Path("runs/reflection_counting")
    """Folder that train.py wrote."""
    smoothing: int = 20
    """Steps that one point of a curve averages."""


def read(folder: Path) -> Results:
    """Returns the results that there are, by run and seed."""
    results: Results = {}
    for file in sorted(folder.glob("seed_*/*.json")):
        result = json.loads(file.read_text())
        results.setdefault(result["run"], {})[result["seed"]] = result
    return {name: dict(sorted(results[name].items())) for name in ROWS if name in results}


def values(results: Results, run: str, key: str) -> dict[int, float]:
    """Returns one number per seed: "first", "final", "length", or "ratio", which is L / S."""
    by_seed = {}
    for seed, result in results.get(run, {}).items():
        if key == "length":
            by_seed[seed] = float(np.mean(result["lengths"]))
        elif key == "ratio":
            # NaN if no response has a block.
            first = float(np.mean(result["first_lengths"])) or float("nan")
            by_seed[seed] = float(np.mean(result["lengths"])) / first
        else:
            by_seed[seed] = result[key]
    return by_seed


def table(results: Results) -> list[str]:
    """Returns a Markdown table: the mean, and the value of each seed."""
    lines = [
        "| run | first answer | final answer | length L | L / S |",
        "| --- | --- | --- | --- | --- |",
    ]
    for run in results:
        cells = []
        for key, digits in (("first", 2), ("final", 2), ("length", 1), ("ratio", 2)):
            numbers = list(values(results, run, key).values())
            if run.startswith("plain") and key in ("final", "ratio"):
                cells.append("")  # one answer, which is listed as the first
                continue
            single = " ".join(f"{number:.{digits}f}" for number in numbers)
            cells.append(f"**{np.mean(numbers):.{digits}f}** ({single})")
        lines.append(f"| {ROWS[run]} | {' | '.join(cells)} |")
    return lines


def transitions(results: Results) -> list[str]:
    """Returns a Markdown table: how often each case of two answers occurs, over all seeds."""
    lines = [f"| run | {' | '.join(CASES.values())} |", "| --- | --- | --- | --- | --- |"]
    for run, by_seed in results.items():
        if not run.startswith("plain"):
            counts = np.array(
                [[result["cases"][case] for case in CASES] for result in by_seed.values()]
            )
            shares = counts.sum(axis=0) / counts.sum()
            lines.append(f"| {ROWS[run]} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return lines


def difference(results: Results, left: str, right: str, key: str) -> dict[int, float]:
    """Returns left minus right for each seed that has both."""
    a, b = values(results, left, key), values(results, right, key)
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def criteria(results: Results) -> list[str]:
    """Returns one line for each criterion: whether every seed meets it, and the numbers."""

    def judged(name: str, numbers: dict[int, float], holds: list[bool]) -> str:
        verdict = "met" if holds and all(holds) else f"not met ({sum(holds)} of {len(holds)} seeds)"
        return f"{name}: {verdict}: {_listed(numbers)}"

    effect = difference(results, "paper", "no_effectiveness", "final")
    ratio = values(results, "paper", "ratio")
    free_ratio = values(results, "no_brevity", "ratio")
    released = difference(results, "paper", "released", "first")
    gain = list(difference(results, "paper", "no_brevity", "final").values())
    lines = [
        judged(
            "H1  final answer, I_eff on minus off, > 0.2",
            effect,
            [v > 0.2 for v in effect.values()],
        ),
        judged(
            "H2a L / S with f_len, within 0.2 of 2",
            ratio,
            [abs(v - 2) < 0.2 for v in ratio.values()],
        ),
        judged(
            "H2b L / S without f_len, > 2.2", free_ratio, [v > 2.2 for v in free_ratio.values()]
        ),
        judged(
            "H3  first answer, paper minus released, >= 0.4",
            released,
            [v >= 0.4 for v in released.values()],
        ),
    ]
    if len(gain) > 1:
        half = stats.t.ppf(0.975, len(gain) - 1) * np.std(gain, ddof=1) / np.sqrt(len(gain))
        lines.append(
            f"H4  final answer, f_len on minus off (reported only): {np.mean(gain):+.2f}, "
            f"95% interval [{np.mean(gain) - half:+.2f}, {np.mean(gain) + half:+.2f}]"
        )
    return lines


def draw(results: Results, smoothing: int, path: Path) -> None:
    """Draws how both answers change during training, and the lengths afterwards."""
    figure, (first, final, lengths) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axes, key in ((first, "first_correct"), (final, "final_correct")):
        for run, color in COLORS.items():
            curves = [
                _smooth([step[f"reflection/{key}"] for step in result["history"]], smoothing)
                for result in results.get(run, {}).values()
            ]
            for curve in curves:
                axes.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
            if curves:
                mean = np.mean([accuracy for _, accuracy in curves], axis=0)
                axes.plot(curves[0][0], mean, color=color, linewidth=2.2, label=ROWS[run])
        axes.set_title(f"{key.split('_')[0]} answer right (samples)", fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    for run in ("no_rl", "paper", "no_brevity"):
        words = np.concatenate(
            [result["lengths"] for result in results.get(run, {}).values()] or [[]]
        )
        color = COLORS.get(run, "black")
        lengths.hist(
            words, np.arange(40) - 0.5, density=True, alpha=0.6, color=color, label=ROWS[run]
        )
    lengths.set_title("words of a response", fontsize=10)
    lengths.legend(fontsize=7)
    final.legend(fontsize=7, loc="lower left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _smooth(curve: list[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    size = min(size, len(curve))
    points = np.array(curve[: len(curve) // size * size]).reshape(-1, size).mean(axis=1)
    return size * (np.arange(len(points)) + 1), points


def _listed(numbers: dict[int, float]) -> str:
    return ", ".join(f"{number:.2f} (seed {seed})" for seed, number in numbers.items())


def main(args: Args) -> None:
    """Prints the report and draws the figure."""
    results = read(args.folder)
    if not results:
        raise SystemExit(f"--folder must hold results of train.py, and {args.folder} has none")
    print(*table(results), "", *transitions(results), "", *criteria(results), sep="\n")
    seconds = sum(
        result["cpu_seconds"] for by_seed in results.values() for result in by_seed.values()
    )
    print(f"\nProcessor time: {seconds / 60:.0f} minutes")
    draw(results, args.smoothing, args.folder / "reflection.png")


if __name__ == "__main__":
    main(tyro.cli(Args))
