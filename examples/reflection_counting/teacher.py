"""The teacher of stage 1: an oracle that sees the right counts. A real one would be a large model.

It names rows, counts them, gives a verdict, and thinks again in one of three styles. It also counts
rows that were right already: reflections start longer than they need to be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from task import GRID, Problems, count_text

from srpo_env.reflection.data import FirstResponse, Reflection

RECHECK = 0.7
"""Probability that a row that was right is counted again."""


def oracle(problems: Problems, rng: np.random.Generator) -> Callable[[FirstResponse], Reflection]:
    """Returns a teacher for first responses whose ``problem`` is a row of ``problems``."""

    def reflect(first: FirstResponse) -> Reflection:
        counts = problems.counts[first.problem]
        said = first.trace.think1.partition("=")[0].split()
        lines = []
        for row in range(GRID):
            is_wrong = row >= len(said) or said[row] != str(counts[row])
            if is_wrong or rng.random() < RECHECK:
                lines.append(f"row{row + 1} has {counts[row]}")
        verdict = "OK" if first.correct else "ERR"
        return Reflection(" ".join([*lines, verdict]), _think_again(counts, rng))

    return reflect


def _think_again(counts: np.ndarray, rng: np.random.Generator) -> str:
    total = str(counts.sum())
    running = " then ".join(map(str, counts.cumsum()))
    return (total, count_text(counts), f"{running} = {total}")[rng.integers(3)]
