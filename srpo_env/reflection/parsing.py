"""Splits a response into its blocks: think, answer, reflection, think, answer. Grades nothing.

The format is that of the reinforcement-learning stage of arXiv:2506.01713:

    <think>...</think> <answer>...</answer> <reflection>...</reflection> <think>...</think>
    <answer>...</answer>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

BLOCKS = ("think", "answer", "reflection", "think", "answer")
"""Names of the blocks of a well-formed response, in order."""

_TAG = re.compile(r"<(/?)(think|answer|reflection)>")


@dataclass(frozen=True)
class Trace:
    """The blocks of a response. A block that is missing is None; texts have no outer whitespace.

    In a malformed response, a block is an opening tag whose next tag is the closing one of the same
    name.
    """

    think1: str | None
    """The first think block."""
    answer1: str | None
    """The first answer block."""
    reflection: str | None
    """The first reflection block."""
    think2: str | None
    """The last think block, if there are at least two."""
    answer2: str | None
    """The last answer block, if there are at least two: the answer that counts in the end."""
    reflection_ok: bool
    """Whether there is exactly one reflection, tagged properly, not empty, between two answers."""
    well_formed: bool
    """Whether the response is the five blocks in order, none empty, and nothing else."""

    @property
    def blocks(self) -> tuple[str | None, ...]:
        """The five blocks in order."""
        return self.think1, self.answer1, self.reflection, self.think2, self.answer2


def parse(text: str) -> Trace:
    """Splits a response into its blocks, in one pass over its tags. Accepts every string.

    Examples:
        >>> trace = parse("<think>2+2</think><answer>5</answer><reflection>No, 4</reflection>")
        >>> trace.answer1, trace.reflection, trace.answer2
        ('5', 'No, 4', None)
        >>> trace.well_formed
        False
    """
    tags = list(_TAG.finditer(text))
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in BLOCKS}
    for index, (tag, following) in enumerate(pairwise(tags)):
        name = tag[2]
        if not tag[1] and following[1] and following[2] == name:
            found[name].append((index, text[tag.end() : following.start()].strip()))
    thinks, answers, reflections = (
        [content for _, content in found[name]] for name in ("think", "answer", "reflection")
    )
    trace = {
        "think1": thinks[0] if thinks else None,
        "answer1": answers[0] if answers else None,
        "reflection": reflections[0] if reflections else None,
        "think2": thinks[-1] if len(thinks) > 1 else None,
        "answer2": answers[-1] if len(answers) > 1 else None,
    }
    reflection_ok = (
        sum(tag[2] == "reflection" for tag in tags) == 2
        and bool(trace["reflection"])
        and len(answers) > 1
        and found["answer"][0][0] < found["reflection"][0][0] < found["answer"][-1][0]
    )
    well_formed = _is_sequence(text, tags, BLOCKS) and all(trace.values())
    return Trace(**trace, reflection_ok=reflection_ok, well_formed=well_formed)


def is_first_response(text: str) -> bool:
    """Returns whether a text is one think and one answer block, neither empty, and nothing else."""
    trace, tags = parse(text), list(_TAG.finditer(text))
    return _is_sequence(text, tags, BLOCKS[:2]) and bool(trace.think1 and trace.answer1)


def render(
    think1: str | None,
    answer1: str | None,
    reflection: str | None,
    think2: str | None,
    answer2: str | None,
) -> str:
    """Returns the response with these blocks, the inverse of `parse`; None leaves a block out."""
    contents = (think1, answer1, reflection, think2, answer2)
    pairs = zip(BLOCKS, contents, strict=True)
    return "".join(f"<{name}>{text}</{name}>" for name, text in pairs if text is not None)


def has_tags(text: str) -> bool:
    """Returns whether a text contains a tag of the format, so that it cannot be inside a block."""
    return _TAG.search(text) is not None


def text_of(completion: Any) -> str:
    """Returns the text of a completion: a string, or a list with one message of a chat.

    The content of a message is a string, or a list of parts, of which the texts are joined.

    Raises:
        TypeError: If it is anything else.
    """
    if isinstance(completion, str):
        return completion
    is_one = isinstance(completion, Sequence) and len(completion) == 1
    message = completion[0] if is_one else None
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        return "".join(part.get("text") or "" for part in content)
    raise TypeError(
        f"A completion must be a string, or a list with one message of a chat, got {completion!r}"
    )


def _is_sequence(text: str, tags: list[re.Match[str]], blocks: tuple[str, ...]) -> bool:
    """Returns whether a text is these blocks, in order, and nothing else."""
    if [tag[0] for tag in tags] != [f"<{slash}{name}>" for name in blocks for slash in ("", "/")]:
        return False
    ends = [0, *(tag.end() for tag in tags[1::2])]
    starts = [*(tag.start() for tag in tags[::2]), len(text)]
    return not any(text[end:start].strip() for end, start in zip(ends, starts, strict=True))
