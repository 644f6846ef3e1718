"""Compare PPO with a sparse reward, and with three shaped rewards: five seeds each.

    python examples/shaped_against_sparse.py

Writes shaped_against_sparse.png and .json, and prints how many steps each run needed. Takes about
six minutes on two cores. Needs `pip install torch tyro matplotlib`.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from cleanrl_ppo import Args, train
from your_encoder import WalkerEncoder

from srpo_env import PixelEncoder

Curve = list[tuple[int, float]]

REWARDS: dict[str, tuple[dict[str, Any], type[Any], str]] = {
    "sparse": ({"shaped": False}, PixelEncoder, "#7f8c8d"),
    "shaped, PixelEncoder": ({}, PixelEncoder, "#e67e22"),
    "shaped, WalkerEncoder": ({}, WalkerEncoder, "#2e86c1"),
    "dense, WalkerEncoder": ({"credit": "dense"}, WalkerEncoder, "#8e44ad"),
}
"""For each reward: settings of `cleanrl_ppo.py`, the encoder, the colour in the figure."""


@dataclass
class Study:
    """Settings of the comparison."""

    num_seeds: int = 5
    total_timesteps: int = 40_960
    num_workers: int = 2
    folder: Path = Path("runs")


def main(study: Study) -> None:
    """Trains all runs, prints the table and draws the curves."""
    seeds = range(1, study.num_seeds + 1)
    runs = [(name, seed) for name in REWARDS for seed in seeds]
    # Spawned, because a fork of a process that has used torch's threads can hang.
    with ProcessPoolExecutor(study.num_workers, mp_context=get_context("spawn")) as pool:
        curves = pool.map(_run, runs, [study.total_timesteps] * len(runs))
        results = dict(zip(runs, curves, strict=True))

    study.folder.mkdir(parents=True, exist_ok=True)
    by_name = {name: [results[name, seed] for seed in seeds] for name in REWARDS}
    (study.folder / "shaped_against_sparse.json").write_text(json.dumps(by_name) + "\n")
    print(
        f"Steps until 50% and 90% of a rollout's episodes succeed, seeds 1 to {study.num_seeds}:\n"
    )
    print(f"{'reward':24}{'50%: median (all)':40}90%: median (all)")
    for name, group in by_name.items():
        columns = [_describe([_first(curve, share) for curve in group]) for share in (0.5, 0.9)]
        print(f"{name:24}{columns[0]:40}{columns[1]}")
    draw(by_name, study.folder / "shaped_against_sparse.png")


def _run(run: tuple[str, int], total_timesteps: int) -> Curve:
    torch.set_num_threads(1)
    name, seed = run
    settings, encoder, _ = REWARDS[name]
    args = replace(Args(), seed=seed, total_timesteps=total_timesteps, **settings)
    return train(args, encoder(), log=False)


def _first(curve: Curve, share: float) -> float:
    """Returns the steps until a rollout first reached a success rate; infinity if none did."""
    return next((float(steps) for steps, rate in curve if rate >= share), float("inf"))


def _describe(steps: list[float]) -> str:
    thousands = " ".join(f"{value / 1000:.0f}" for value in sorted(steps))
    return f"{np.median(steps) / 1000:.0f}k ({thousands})"


def draw(by_name: dict[str, list[Curve]], path: Path) -> None:
    """Draws a thin line for each seed and a thick one for their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, group in by_name.items():
        color = REWARDS[name][2]
        for curve in group:
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.3, linewidth=0.8)
        steps = [step for step, _ in group[0]]
        mean = np.mean([[rate for _, rate in curve] for curve in group], axis=0)
        axes.plot(steps, mean, color=color, linewidth=2.5, label=name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("success rate of a rollout's episodes")
    axes.set_title(f"PPO on Detour, mean and single runs of {len(group)} seeds", fontsize=11)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Study))
