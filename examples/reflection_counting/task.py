"""The task: count the symbols of one kind in a noisy image, then add a number.

An image shows 3 x 3 cells, each empty or with a square or a plus in one of three colours. A
question names a colour, a shape and a number. The reasoning counts each row, "2 0 1 = 3"; the
answer is the sum plus the number of the question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GRID, PATCH = 3, 4
"""Cells per side of an image, and pixels per side of a cell."""
COLORS, SHAPES, ADDENDS = ("red", "green", "blue"), ("square", "plus", "any"), range(10)
NOISE = 0.15
"""Standard deviation of the noise of a pixel, which is in [0, 1]."""
EMPTY = 0.1
"""Share of empty cells."""

_PLUS = np.zeros((PATCH, PATCH), bool)
_PLUS[1:3, :] = _PLUS[:, 1:3] = True
_MASKS = np.stack([np.ones((PATCH, PATCH), bool), _PLUS])


@dataclass(frozen=True)
class Problems:
    """A batch of problems."""

    patches: npt.NDArray[np.float32]
    """RGB pixels of each cell, shape ``(num, GRID * GRID, PATCH * PATCH * 3)``."""
    questions: npt.NDArray[np.int64]
    """Index of the colour, of the shape, and the addend, shape ``(num, 3)``."""
    counts: npt.NDArray[np.int64]
    """Number of matching symbols in each row of the image, shape ``(num, GRID)``."""

    def __len__(self) -> int:
        """Returns the number of problems."""
        return len(self.questions)

    @property
    def answers(self) -> list[str]:
        """The right answers."""
        return [str(value) for value in self.counts.sum(axis=1) + self.questions[:, 2]]

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Problems:
        """Returns some of the problems."""
        return Problems(self.patches[rows], self.questions[rows], self.counts[rows])


def draw_problems(num: int, rng: np.random.Generator) -> Problems:
    """Draws random problems."""
    cells = GRID * GRID
    colors, shapes = rng.integers(3, size=(num, cells)), rng.integers(2, size=(num, cells))
    filled = rng.random((num, cells)) >= EMPTY
    pixels = np.zeros((num, cells, PATCH, PATCH, 3), np.float32)
    paint = _MASKS[shapes] & filled[..., None, None]
    for channel in range(3):
        pixels[..., channel] = paint & (colors == channel)[..., None, None]
    pixels += NOISE * rng.standard_normal(pixels.shape, dtype=np.float32)

    questions = np.stack(
        [rng.integers(len(options), size=num) for options in (COLORS, SHAPES, ADDENDS)], axis=1
    )
    color, shape = questions[:, :1], questions[:, 1:2]
    matching = filled & (colors == color) & ((shapes == shape) | (shape == 2))
    counts = matching.reshape(num, GRID, GRID).sum(axis=2)
    return Problems(pixels.reshape(num, cells, -1), questions, counts)


def count_text(counts: npt.NDArray[np.int64]) -> str:
    """Returns the reasoning of one problem, such as "2 0 1 = 3"."""
    return f"{' '.join(map(str, counts))} = {counts.sum()}"


def first_text(counts: npt.NDArray[np.int64], answer: str) -> str:
    """Returns a right response with one answer."""
    return f"<think> {count_text(counts)} </think> <answer> {answer} </answer>"
