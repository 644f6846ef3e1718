"""Responses of known cases and lengths."""

from __future__ import annotations

RIGHT, WRONG = "7", "8"
LABEL = RIGHT


def response(first: str = RIGHT, final: str = RIGHT, ratio: float = 2.0) -> str:
    """Returns a well-formed response of ``20 * ratio`` words, 20 of them in its first part."""
    rest = round(20 * ratio) - 20
    think1, reflection = " ".join(["a"] * 19), " ".join(["b"] * (rest - 2))
    return (
        f"<think>{think1}</think><answer>{first}</answer><reflection>{reflection}</reflection>"
        f"<think>c</think><answer>{final}</answer>"
    )


CASES = {"rr": (RIGHT, RIGHT), "wr": (WRONG, RIGHT), "rw": (RIGHT, WRONG), "ww": (WRONG, WRONG)}
"""First and second answer of each case."""
