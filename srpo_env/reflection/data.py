"""Stage 1: builds training data of reflections from a model's own first answers.

The paper keeps 30% right and 70% wrong first answers, and has a large model that knows the label
write the reflections. Here that teacher is any callable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from srpo_env.reflection.grading import Verify, exact_match, is_right
from srpo_env.reflection.parsing import Trace, has_tags, is_first_response, parse, render

RIGHT_SHARE = 0.3
"""Share of right first answers in the paper's data (appendix B.2)."""


@dataclass(frozen=True)
class FirstResponse:
    """A model's response with one answer, for the teacher."""

    problem: Any
    """What identifies or describes the problem: an index, a question, an image."""
    label: str
    """The right answer."""
    trace: Trace
    """The response; ``think1`` and ``answer1`` are not empty."""
    correct: bool
    """Whether the answer is right."""


@dataclass(frozen=True)
class Reflection:
    """What the teacher writes about a first response."""

    reflection: str
    """What is wrong, missing or too long in the first response, and how to improve it."""
    think: str | None = None
    """The second reasoning. None: the paper's data, which have none, although its reward demands
    one: the first thing that reinforcement learning has to teach is then the second think block."""


@dataclass(frozen=True)
class ReflectionExample:
    """A target for supervised fine-tuning; the loss covers the first answer as well (Eq. 1)."""

    problem: Any
    """The problem of the first response."""
    text: str
    """The response: first think and answer, reflection, second think if there is one, label."""
    first_correct: bool
    """Whether its first answer is right."""


def reflection_data(
    responses: Iterable[tuple[Any, str, str]],
    teacher: Callable[[FirstResponse], Reflection | None],
    num_examples: int,
    rng: np.random.Generator,
    *,
    right_share: float = RIGHT_SHARE,
    verify: Verify = exact_match,
) -> Iterator[ReflectionExample]:
    """Yields examples of reflections, right and wrong first answers in random order.

    An iterator, so that what a teacher was paid for is kept if a later call fails: write each
    example before the next. The teacher is called only for the first answers that are used.

    Args:
        responses: Problem, first response and label of each. Responses without exactly one think
            and one answer block are left out, and those whose label ``verify`` cannot use.
        teacher: Writes the reflection. It may return None for a response that it cannot use:
            another one takes its place, as it does if the reflection contains tags of the format.
        num_examples: Number of examples.
        rng: Chooses among the responses.
        right_share: Share of examples whose first answer is right, in [0, 1].
        verify: Compares an answer with its label.

    Raises:
        TypeError: If ``verify`` returns neither a bool nor None.
        ValueError: If there are too few right or wrong first answers: before the first call of the
            teacher, or when the usable ones have run out.

    Source: arXiv:2506.01713v3, section 3.1 and appendix B.
    """
    if not 0 <= right_share <= 1:
        raise ValueError(f"`right_share` must be in [0, 1], got {right_share!r}")
    pools: dict[bool, list[FirstResponse]] = {True: [], False: []}
    for problem, text, label in responses:
        if not is_first_response(text):
            continue
        trace = parse(text)
        correct = is_right(trace.answer1, label, verify)
        if correct is not None:
            pools[correct].append(FirstResponse(problem, label, trace, correct))
    num_right = round(right_share * num_examples)
    plan = rng.permutation(np.arange(num_examples) < num_right)
    for correct, needed in ((True, num_right), (False, num_examples - num_right)):
        pool = pools[correct]
        if len(pool) < needed:
            raise _too_few(correct, f"{needed} are needed, got {len(pool)}")
        pools[correct] = [pool[index] for index in rng.permutation(len(pool))]
    return _examples(plan.tolist(), pools, teacher)


def _examples(
    plan: list[bool],
    pools: dict[bool, list[FirstResponse]],
    teacher: Callable[[FirstResponse], Reflection | None],
) -> Iterator[ReflectionExample]:
    for correct in plan:
        text = None
        while text is None:
            if not pools[correct]:
                raise _too_few(correct, "the teacher returned no usable reflection for the others")
            first = pools[correct].pop()
            text = _target(first, teacher(first))
        yield ReflectionExample(first.problem, text, correct)


def _target(first: FirstResponse, reply: Reflection | None) -> str | None:
    """Returns the text to train on, or None if the teacher's reply cannot be part of it."""
    if reply is None:
        return None
    blocks = (
        first.trace.think1,
        first.trace.answer1,
        reply.reflection.strip(),
        None if reply.think is None else reply.think.strip(),
        str(first.label),
    )
    if any(text == "" or has_tags(text) for text in blocks if text is not None):
        return None
    return render(*blocks)


def _too_few(correct: bool, reason: str) -> ValueError:
    kind = "right" if correct else "wrong"
    return ValueError(
        f"There are too few {kind} first answers, {reason}: sample more responses, or lower "
        "`num_examples`"
    )
