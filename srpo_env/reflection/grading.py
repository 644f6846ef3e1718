"""Grades of a response: what compares answers and measures lengths, and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srpo_env.reflection.parsing import Trace

Verify = Callable[[str, Any], bool | None]
"""Whether an answer is right, given the label; None if the label cannot be used."""

COMPONENTS = ("format", "accuracy", "reflection_format", "effectiveness", "brevity")
"""Names of the terms of the reward, in the order of the paper."""

CORRECT = ("first_correct", "final_correct")
"""Names of the shares of right answers in logs."""


def exact_match(answer: str, label: Any) -> bool:
    """Returns whether an answer is the label, as text without outer whitespace."""
    return answer.strip() == str(label).strip()


def is_right(answer: str | None, label: Any, verify: Verify) -> bool | None:
    """Returns whether an answer is right, or None if the label cannot be used.

    Raises:
        TypeError: If ``verify`` returns neither a bool nor None.
    """
    if label is None:
        return None
    # A missing answer is verified too, because the label may be one that cannot be used.
    verdict = verify("" if answer is None else answer, label)
    if verdict is None:
        return None
    if not isinstance(verdict, bool | np.bool_):
        raise TypeError(f"`verify` must return a bool or None, got {verdict!r}")
    return answer is not None and bool(verdict)


def count_words(text: str) -> int:
    """Returns the number of words, separated by whitespace."""
    return len(text.split())


@dataclass(frozen=True)
class Assessment:
    """What a response earned, and for what."""

    components: dict[str, float]
    """The terms of the reward, by the names in `COMPONENTS`."""
    first_correct: bool
    """Whether the first answer is right. A missing answer is wrong."""
    final_correct: bool
    """Whether the second answer is right. A missing answer is wrong."""
    length_ratio: float
    """L / S: length of the response over that of its first think and answer; NaN if malformed."""
    trace: Trace
    """The blocks of the response."""

    @property
    def metrics(self) -> dict[str, float]:
        """The components, and whether the answers are right, as numbers to log."""
        correct = (float(self.first_correct), float(self.final_correct))
        return {**self.components, **dict(zip(CORRECT, correct, strict=True))}

    @property
    def total(self) -> float:
        """The reward: the sum of its components."""
        return sum(self.components.values())


def mean_metrics(assessments: Sequence[Assessment | None]) -> dict[str, float]:
    """Returns the means of `Assessment.metrics` over the responses that have an assessment.

    Without any, they are NaN: the names are always the same, because processes that train together
    exchange their metrics by name.
    """
    rows = [assessment.metrics for assessment in assessments if assessment is not None]
    return {
        name: sum(row[name] for row in rows) / len(rows) if rows else math.nan
        for name in (*COMPONENTS, *CORRECT)
    }
