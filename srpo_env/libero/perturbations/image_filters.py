"""Blur, fog and frosted glass for images, at ten severities.

Each function prepares a filter for images of one size and one severity, and returns it. A filter
takes and returns an RGB image, ``(size, size, 3)``, uint8, and does not depend on earlier images.

The constants are LIBERO-Plus's (`libero/envs/env_wrapper.py`), which are for images of 256 pixels:
lengths are scaled to the image's size. The kinds of blur are those of ImageNet-C
(arXiv:1903.12261). LIBERO-Plus draws angles, fog and glass for each image, here they are drawn
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage, sparse

from srpo_env.libero.perturbations.base import Image
from srpo_env.types import Array

Filter = Callable[[Image], Image]

REFERENCE_SIZE = 256
"""Size in pixels of the images that lengths are given for."""

MOTION = (
    (5, 2),
    (8, 3),
    (10, 4),
    (12, 5),
    (15, 6),
    (18, 8),
    (20, 10),
    (25, 12),
    (30, 15),
    (35, 20),
)
"""Radius and standard deviation of a motion blur, in pixels."""

MOTION_ANGLE = 45.0
"""Maximum angle of a motion to the horizontal, in degrees."""

GAUSSIAN = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
"""Standard deviation of a Gaussian blur, in pixels."""

ZOOM = (1.10, 1.15, 1.20, 1.25, 1.30, 1.35, 1.40, 1.45, 1.50, 1.55)
"""Largest magnification of a zoom blur."""

NUM_ZOOMS = 12
"""Number of magnifications whose mean a zoom blur is."""

FOG = ((0.5, 3), (1.0, 2.8), (1.5, 2.5), (2.0, 2.2), (2.5, 2.0), (3.0, 1.8), (3.5, 1.6), (4.0, 1.5),
       (4.5, 1.4), (5.0, 1.3))  # fmt: skip
"""Density of the fog relative to white, and how fast its structure gets weaker towards details."""

GLASS = ((0.5, 1, 3), (0.7, 1, 3), (0.9, 2, 3), (1.0, 2, 2), (1.1, 3, 2), (1.3, 3, 2), (1.5, 4, 2),
         (1.8, 4, 2), (2.2, 5, 1), (2.5, 5, 1))  # fmt: skip
"""Standard deviation of the blur in pixels, largest displacement in pixels, number of repetitions.
"""


def motion_blur(severity: int, size: int, rng: np.random.Generator) -> Filter:
    """Blurs along a line: the weighted mean of shifted images."""
    radius, sigma = (size / REFERENCE_SIZE * length for length in MOTION[severity - 1])
    angle = math.radians(rng.uniform(-MOTION_ANGLE, MOTION_ANGLE))
    # As in ImageMagick, on one side only: the motion comes from one direction.
    lengths = np.arange(math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (lengths / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    rows = np.rint(-lengths * math.sin(angle)).astype(int)
    columns = np.rint(lengths * math.cos(angle)).astype(int)
    margin = int(lengths[-1])

    def apply(image: Image) -> Image:
        padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        padded = padded.astype(np.float32)
        total = np.zeros(image.shape, np.float32)
        for weight, row, column in zip(weights, rows, columns, strict=True):
            top, left = margin + row, margin + column
            total += weight * padded[top : top + size, left : left + size]
        return _pixels(total)

    return apply


def gaussian_blur(severity: int, size: int, rng: np.random.Generator) -> Filter:
    """Blurs in all directions."""
    blur = _gaussian(size / REFERENCE_SIZE * GAUSSIAN[severity - 1], size)
    return lambda image: _pixels(blur(image.astype(np.float32)))


def zoom_blur(severity: int, size: int, rng: np.random.Generator) -> Filter:
    """Averages magnifications of the image."""
    # One linear map of all pixels: most of its entries are 0.
    zooms = np.linspace(1.0, ZOOM[severity - 1], NUM_ZOOMS)
    total = sparse.csr_matrix((size * size, size * size), dtype=np.float32)
    for zoom in zooms:
        line = _magnifying(size, zoom)
        total = total + sparse.kron(line, line, format="csr") / np.float32(NUM_ZOOMS)

    def apply(image: Image) -> Image:
        flat = image.reshape(size * size, 3).astype(np.float32)
        return _pixels((total @ flat).reshape(image.shape))

    return apply


def fog(severity: int, size: int, rng: np.random.Generator) -> Filter:
    """Lays bright fog over the image."""
    density, decay = FOG[severity - 1]
    cloud = (density * plasma(size, decay, rng)).astype(np.float32)[..., None]

    def apply(image: Image) -> Image:
        values = image.astype(np.float32) / 255
        brightest = values.max()
        return _pixels(255 * np.clip((values + cloud) * brightest / (brightest + density), 0, 1))

    return apply


def frosted_glass(severity: int, size: int, rng: np.random.Generator) -> Filter:
    """Displaces pixels at random between two Gaussian blurs."""
    sigma, reach, repetitions = GLASS[severity - 1]
    blur = _gaussian(size / REFERENCE_SIZE * sigma, size)
    reach = max(1, round(size / REFERENCE_SIZE * reach))
    source = np.arange(size * size).reshape(size, size)
    rows, columns = np.indices((size, size))
    for _ in range(repetitions):
        shifts = rng.integers(-reach, reach + 1, (2, size, size))
        source = source[
            np.clip(rows + shifts[0], 0, size - 1), np.clip(columns + shifts[1], 0, size - 1)
        ]
    flat = source.reshape(-1)

    def apply(image: Image) -> Image:
        displaced = blur(image.astype(np.float32)).reshape(size * size, 3)[flat]
        return _pixels(blur(displaced.reshape(image.shape)))

    return apply


FILTERS: dict[str, Callable[[int, int, np.random.Generator], Filter]] = {
    "motion": motion_blur,
    "gaussian": gaussian_blur,
    "zoom": zoom_blur,
    "fog": fog,
    "glass": frosted_glass,
}
"""Functions by the kind of noise."""


def plasma(size: int, decay: float, rng: np.random.Generator) -> Array:
    """Draws a cloud: noise of all scales, whose amplitude falls by ``decay`` with each halving.

    Args:
        size: Height and width.
        decay: At least 1; the smaller, the finer is the structure.
        rng: Random numbers.

    Returns:
        Shape ``(size, size)``, from 0 to 1.
    """
    total = np.zeros((size, size))
    cells, amplitude = 2, 1.0
    while cells <= size:
        # The midpoint displacement of ImageNet-C adds noise of uniform distribution at each scale,
        # and interpolates linearly between its points.
        grid = rng.uniform(-amplitude, amplitude, (cells + 1, cells + 1))
        at = np.linspace(0, cells, size)
        total += ndimage.map_coordinates(grid, np.meshgrid(at, at, indexing="ij"), order=1)
        cells, amplitude = 2 * cells, amplitude / decay
    total -= total.min()
    cloud: Array = total / total.max()
    return cloud


def _gaussian(sigma: float, size: int) -> Callable[[Array], Array]:
    """Returns a Gaussian blur of float32 images, which repeats the pixels at the edges."""
    # As a band matrix: two products of matrices are several times faster than SciPy's filter.
    matrix = ndimage.gaussian_filter1d(
        np.eye(size), sigma, axis=0, mode="nearest", truncate=4.0
    ).astype(np.float32)

    def blur(image: Array) -> Array:
        rows = matrix @ image.reshape(size, size * 3)
        blurred: Array = np.einsum(
            "jx,ixc->ijc", matrix, rows.reshape(size, size, 3), optimize=True
        )
        return blurred

    return blur


def _magnifying(size: int, zoom: float) -> sparse.csr_matrix:
    """Returns the matrix that magnifies a line of pixels about its middle, by interpolation."""
    centre = (size - 1) / 2
    at = centre + (np.arange(size) - centre) / zoom
    low = np.floor(at).astype(int).clip(0, size - 2)
    share = at - low
    rows = np.arange(size)
    values = np.concatenate([1 - share, share]).astype(np.float32)
    places = (np.concatenate([rows, rows]), np.concatenate([low, low + 1]))
    return sparse.csr_matrix((values, places), shape=(size, size))


def _pixels(values: Array) -> Image:
    pixels: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels
