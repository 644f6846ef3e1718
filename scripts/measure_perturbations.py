"""Measures how much slower perturbed episodes are simulated than unperturbed ones.

    python scripts/measure_perturbations.py

Two environments of one process take turns, each with its own draw, as in a worker of
`LiberoVectorEnv`. The time is the processor's, so that other load on the machine does not count,
and each perturbation is compared with unperturbed episodes just before it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.perturbations import (
    DIMENSIONS,
    Layout,
    Light,
    Mixture,
    Noise,
    Perturbation,
    as_mixture,
)
from srpo_env.libero.perturbations.noise import KINDS

PERTURBATIONS: dict[str, Perturbation | Sequence[Perturbation]] = {
    **{name: DIMENSIONS[name].from_level(5) for name in ("camera", "robot", "language", "light")},
    "background": DIMENSIONS["background"].from_level(5),
    **{f"noise, {kind}": Noise(severity=10, kind=kind) for kind in KINDS},
    "layout, shift": Layout(shift=0.05),
    "layout, 5 distractors": Layout(distractors=5),
    "light with shadows": Light(shadows=True),
}


def main() -> None:
    """Prints a line per perturbation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_object")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=12)
    args = parser.parse_args()
    envs = [LiberoEnv(args.suite, settle_steps=0) for _ in range(2)]
    seconds_of(envs, (), 0, args.chunks)  # compiles
    for name, perturbation in PERTURBATIONS.items():
        mixture = as_mixture(perturbation)
        seconds_of(envs, mixture, 0, args.chunks)
        pairs = [
            (
                seconds_of(envs, (), draw, args.chunks),
                seconds_of(envs, mixture, draw, args.chunks),
            )
            for draw in range(args.repeats)
        ]
        ratios = [plain / perturbed for plain, perturbed in pairs]
        steps = 2 * args.chunks * envs[0].chunk
        rate = steps / statistics.median(plain for plain, _ in pairs)
        print(
            f"{name:22} {statistics.median(ratios):.2f} of the speed without "
            f"({min(ratios):.2f}-{max(ratios):.2f}; {rate:.0f} control steps per second without)",
            flush=True,
        )


def seconds_of(envs: Sequence[LiberoEnv], mixture: Mixture, draw: int, chunks: int) -> float:
    """Returns the processor's time for some chunks in both environments, without resets."""
    for number, env in enumerate(envs):
        drawn = [type(part)(**{**vars(part), "draw": 2 * draw + number}) for part in mixture]
        options = {"task_id": 1, "init_state_id": 40, "perturbation": drawn}
        env.reset(options=options)
        env.step(np.zeros((env.chunk, 7), np.float32))
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (chunks, envs[0].chunk, 7))
    started = time.process_time()
    for action in actions:
        for env in envs:
            env.step(action)
    return time.process_time() - started


if __name__ == "__main__":
    main()
