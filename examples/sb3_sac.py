"""SAC of Stable-Baselines3 with the shaped reward and with the sparse one: three seeds each.

    python examples/sb3_sac.py

SAC learns from a replay buffer. `ShapedReplayRewards` adds the progress reward of a failure to the
transition that ended it, as soon as its group is closed. The four lines that end in ``# SRPO`` are
the difference to a script without it.

Writes sb3_sac.png and sb3_sac.json, and prints how many steps each run needed. Takes about three
minutes on two cores. Needs `pip install 'srpo-env[sb3]' matplotlib`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from detour import Detour, draw
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env
from your_encoder import WalkerEncoder

from srpo_env.adapters.sb3_replay import ShapedReplayRewards  # SRPO
from srpo_env.adapters.stable_baselines3 import wrap_vec_env  # SRPO

COLORS = {"sparse": "#7f8c8d", "shaped": "#2e86c1"}
BIN = 1000
"""Environment steps over which a success rate is averaged."""

Curve = list[tuple[int, float]]


class SuccessCurve(BaseCallback):
    """Records the success rate of the episodes that end in each `BIN` steps."""

    def __init__(self) -> None:
        """Initialises an empty curve."""
        super().__init__()
        self.ends: list[tuple[int, bool]] = []

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self.ends.append((self.num_timesteps, info["is_success"]))
        return True

    def curve(self) -> Curve:
        """Returns the steps at the end of each bin, and its success rate."""
        bins: dict[int, list[bool]] = {}
        for step, success in self.ends:
            bins.setdefault(-(-step // BIN) * BIN, []).append(success)
        return [(step, float(np.mean(successes))) for step, successes in bins.items()]


def train(shaped: bool, seed: int, total_timesteps: int, learning_starts: int) -> Curve:
    """Trains, and returns the success rate over the environment steps."""
    venv = make_vec_env(Detour, n_envs=8, seed=seed)
    success_curve = SuccessCurve()
    callbacks: list[BaseCallback] = [success_curve]
    if shaped:
        venv = wrap_vec_env(venv, WalkerEncoder(), frames=draw, group_size=32)  # SRPO
        callbacks.append(ShapedReplayRewards())  # SRPO
    model = SAC(
        "MlpPolicy",
        venv,
        seed=seed,
        device="cpu",
        learning_rate=1e-3,
        learning_starts=learning_starts,
        gradient_steps=4,
        ent_coef="auto_0.1",
        policy_kwargs={"net_arch": [64, 64]},
    )
    model.learn(total_timesteps, callback=CallbackList(callbacks))
    venv.close()
    return success_curve.curve()


def main(seeds: range, total_timesteps: int, learning_starts: int, folder: Path) -> None:
    """Trains all runs, prints the table and draws the curves."""
    folder.mkdir(parents=True, exist_ok=True)
    by_name: dict[str, list[Curve]] = {name: [] for name in COLORS}
    print("reward  seed  steps until 50% and 90% of the episodes succeed")
    for seed in seeds:
        for name, curves in by_name.items():
            curves.append(train(name == "shaped", seed, total_timesteps, learning_starts))
            steps = [_first(curves[-1], share) for share in (0.5, 0.9)]
            print(f"{name:6}  {seed:4}  {steps[0]:>6}  {steps[1]:>6}", flush=True)
    (folder / "sb3_sac.json").write_text(json.dumps(by_name) + "\n")
    draw_curves(by_name, folder / "sb3_sac.png")


def _first(curve: Curve, share: float) -> str:
    """Returns the steps until a bin first reached a success rate."""
    return next((str(step) for step, rate in curve if rate >= share), "never")


def draw_curves(by_name: dict[str, list[Curve]], path: Path) -> None:
    """Draws a thin line for each seed and a thick one for their mean."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, curves in by_name.items():
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=COLORS[name], alpha=0.35, linewidth=0.9)
        steps = [step for step, _ in curves[0]]
        mean = np.mean([[rate for _, rate in curve] for curve in curves], axis=0)
        axes.plot(steps, mean, color=COLORS[name], linewidth=2.5, label=name)
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"success rate of the episodes of {BIN} steps")
    seeds = "one seed" if len(curves) == 1 else f"mean and single runs of {len(curves)} seeds"
    axes.set_title(f"SAC on Detour, {seeds}", fontsize=11)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--total-timesteps", type=int, default=16_000, help="default: %(default)s")
    parser.add_argument("--learning-starts", type=int, default=3_000, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # networks as small as these are slower with more
    seeds = range(args.first_seed, args.first_seed + args.num_seeds)
    main(seeds, args.total_timesteps, args.learning_starts, args.folder)
