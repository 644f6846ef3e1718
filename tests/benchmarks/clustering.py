"""Measures how often the clustering finds the strategies of few successes in many dimensions.

    python tests/benchmarks/clustering.py

Successes of one strategy are drawn from a Gaussian. Its spectrum sets the standard deviation of
each dimension: equal in 1, 2, 4 or 1408 dimensions, or falling, as in latents of encoders. The
distance of two strategies is `separation` times the typical distance of two successes of one.
Prints shares of 100 draws and asserts nothing.
"""

from __future__ import annotations

import numpy as np

from srpo_env.rewards.clustering import success_centers

DRAWS = 100
SPECTRA = {
    "1 dimension": np.ones(1),
    "2 dimensions": np.ones(2),
    "4 dimensions": np.ones(4),
    "1408 dim., as 1/k": 1 / np.arange(1, 1409),
    "1408 dim., as 1/sqrt(k)": 1 / np.sqrt(np.arange(1, 1409)),
    "1408 dimensions": np.ones(1408),
}


def draw(rng, sizes, separation, spectrum):
    """Draws latents of several strategies, each at `separation` from the previous one."""
    typical = np.sqrt(2 * (spectrum**2).sum())
    parts = []
    for number, size in enumerate(sizes):
        direction = rng.standard_normal(len(spectrum))
        offset = number * separation * typical * direction / np.linalg.norm(direction)
        parts.append(offset + spectrum * rng.standard_normal((size, len(spectrum))))
    return np.concatenate(parts)


def found(latents, sizes):
    """Returns whether clusters equal strategies; a single success is a separate cluster."""
    result = success_centers(latents)
    strategies = np.repeat(np.arange(len(sizes)), sizes)
    pairs = set(zip(strategies.tolist(), result.labels.tolist(), strict=True))
    return len(pairs) == len(sizes) == len(result.centers)


def share(sizes, separation, spectrum):
    rng = np.random.default_rng(0)
    hits = sum(found(draw(rng, sizes, separation, spectrum), sizes) for _ in range(DRAWS))
    return f"{hits / DRAWS:6.2f}"


def table(title, cases, separation=0.0):
    print(f"\n{title}")
    print(" " * 28, *(f"{'+'.join(map(str, sizes)):>6}" for sizes in cases))
    for name, spectrum in SPECTRA.items():
        print(f"{name:28}", *(share(sizes, separation, spectrum) for sizes in cases))


def main():
    table("one strategy, one cluster", [(n,) for n in (2, 3, 5, 7, 16, 64)])
    for separation in (2, 3, 5):
        cases = [(2, 2), (3, 4), (6, 1), (8, 8), (40, 24)]
        table(f"two strategies, {separation} times the distance within one", cases, separation)


if __name__ == "__main__":
    main()
