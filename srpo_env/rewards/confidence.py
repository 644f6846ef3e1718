"""How far distances can be trusted: where successes are alike, and whether they rank alike.

For `ProgressReward(fail_safe=True)`. Not from the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from srpo_env.rewards.distances import Nearest
from srpo_env.types import Floats

Measure = Callable[[Floats, Floats], Nearest]

MAX_SUCCESSES = 16
"""Number of successes that are compared with each other, the newest ones; limits the cost."""


def success_spread(successes: Floats, measure: Measure) -> float:
    """Measures the typical distance of a success from its nearest other success.

    Successes are equally good, so failures whose distances differ by less are not ranked by their
    progress.

    Args:
        successes: Latents, shape ``(num_successes, *latent_shape)``.
        measure: Distance to the nearest of several latents (`ProgressReward.measure`).

    Returns:
        The median over the successes; infinity with fewer than two, which show no spread.
    """
    chosen = successes[-MAX_SUCCESSES:]
    if len(chosen) < 2:
        return float("inf")
    rows = range(len(chosen))
    nearest = [measure(chosen[[row]], np.delete(chosen, row, axis=0))[0][0] for row in rows]
    return float(np.median(nearest))


def rank_confidence(failures: Floats, successes: Floats, measure: Measure) -> float:
    """Measures how alike the successes rank the failures: Kendall's tau-b, averaged over pairs.

    Args:
        failures: Latents, shape ``(num_failures, *latent_shape)``.
        successes: Latents, shape ``(num_successes, *latent_shape)``.
        measure: Distance to the nearest of several latents (`ProgressReward.measure`).

    Returns:
        In [0, 1]: 1 if all successes rank the failures in the same order, 0 if their rankings are
        unrelated or reversed. 1 with one success or one failure: nothing disagrees.
    """
    chosen = successes[-MAX_SUCCESSES:]
    if len(failures) < 2 or len(chosen) < 2:
        return 1.0
    table = np.stack([measure(failures, success[None])[0] for success in chosen])
    signs = np.sign(table[:, :, None] - table[:, None, :]).reshape(len(chosen), -1)
    ranked = (signs**2).sum(axis=1)
    # A success to which all failures are equally near ranks nothing, so it agrees with none.
    taus = signs @ signs.T / np.sqrt(np.maximum(ranked[:, None] * ranked, 1.0))
    return float(np.clip(taus[np.triu_indices(len(chosen), k=1)].mean(), 0.0, 1.0))
