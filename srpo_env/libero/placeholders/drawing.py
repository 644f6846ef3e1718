"""Draws small textures from simple shapes and words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

SIZE = 128
"""Width and height of a texture, pixels."""

_OVERSAMPLING = 4  # drawn larger and shrunk, since PIL draws shapes without smoothing


class Panel:
    """A rectangle to draw on; coordinates run from (0, 0) top left to (1, 1) bottom right."""

    def __init__(self, width: int, height: int, background: Colour) -> None:
        """Creates a panel of ``width`` x ``height`` pixels filled with ``background``."""
        self._size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
        self._image = Image.new("RGB", self._size, background)
        self._draw = ImageDraw.Draw(self._image)

    def band(self, top: float, bottom: float, colour: Colour) -> Panel:
        """Fills the rows from ``top`` to ``bottom``."""
        return self.box(0.0, top, 1.0, bottom, colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> Panel:
        """Fills a rectangle."""
        self._draw.rectangle(self._pixels([(left, top), (right, bottom)]), fill=colour)
        return self

    def oval(
        self, x: float, y: float, half_width: float, half_height: float, colour: Colour
    ) -> Panel:
        """Fills an ellipse around (x, y)."""
        corners = [(x - half_width, y - half_height), (x + half_width, y + half_height)]
        self._draw.ellipse(self._pixels(corners), fill=colour)
        return self

    def polygon(self, points: Iterable[tuple[float, float]], colour: Colour) -> Panel:
        """Fills a polygon."""
        self._draw.polygon(self._pixels(points), fill=colour)
        return self

    def word(
        self, text: str, x: float, y: float, width: float, height: float, colour: Colour
    ) -> Panel:
        """Writes ``text`` centred at (x, y), stretched to the given size."""
        font = ImageFont.load_default(64)
        left, top, right, bottom = font.getbbox(text)
        mask = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), text, font=font, fill=255, stroke_width=2)
        box_width, box_height = int(width * self._size[0]), int(height * self._size[1])
        mask = mask.resize((max(box_width, 1), max(box_height, 1)))
        corner = (int(x * self._size[0] - box_width / 2), int(y * self._size[1] - box_height / 2))
        self._image.paste(Image.new("RGB", mask.size, colour), corner, mask)
        return self

    def image(self) -> Image.Image:
        """Returns the panel at its final size."""
        return self._image.resize(
            (self._size[0] // _OVERSAMPLING, self._size[1] // _OVERSAMPLING), Image.Resampling.BOX
        )

    def _pixels(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._size[0], y * self._size[1]) for x, y in points]


def sheet(
    sides: Iterable[Panel], first_cap: Panel | Colour, last_cap: Panel | Colour, side_share: float
) -> Image.Image:
    """Arranges the panels of an object for the texture coordinates of `meshes.stack`.

    Args:
        sides: Panels around the object, all of one width, in order from left to right.
        first_cap: Panel or colour of the first (lowest) outline; for a basket, its underside.
        last_cap: Panel or colour of the last (highest or innermost) outline.
        side_share: Part of the image's height that the sides take.
    """
    image = Image.new("RGB", (SIZE, SIZE))
    panels = list(sides)
    rows = round(SIZE * side_share)
    for i, panel in enumerate(panels):
        left, right = i * SIZE // len(panels), (i + 1) * SIZE // len(panels)
        image.paste(panel.image().resize((right - left, rows)), (left, 0))
    for i, cap in enumerate((first_cap, last_cap)):
        if not isinstance(cap, Panel):
            cap = Panel(1, 1, cap)
        image.paste(cap.image().resize((SIZE // 2, SIZE - rows)), (i * SIZE // 2, rows))
    return image


def smooth_noise(
    generator: np.random.Generator, rows: int, columns: int
) -> npt.NDArray[np.float64]:
    """Returns noise in [-1, 1] that tiles seamlessly, shape ``(SIZE, SIZE)``.

    Args:
        generator: Draws the values.
        rows: Number of random values along the height; they are interpolated.
        columns: Number of random values along the width.
    """
    coarse = generator.uniform(-1.0, 1.0, (rows, columns))
    # Linear interpolation with wrap-around, one axis after the other.
    for axis, num in ((0, rows), (1, columns)):
        positions = np.arange(SIZE) * num / SIZE
        low = positions.astype(int)
        share = (positions - low)[:, None] if axis == 0 else (positions - low)[None]
        following = np.take(coarse, (low + 1) % num, axis)
        coarse = np.take(coarse, low, axis) * (1 - share) + following * share
    return coarse
