"""Quality of the images of ``visuals="fast"`` against the exact ones, and counts of mesh faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task
from srpo_env.libero.visuals import face_count
from srpo_env.types import Floats

Image = npt.NDArray[np.uint8]

PEAK = 255.0

# Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
# Structural Similarity", IEEE Transactions on Image Processing 13(4), 2004, section III.
SSIM_K1, SSIM_K2 = 0.01, 0.03
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
"""In pixels: a Gaussian window of 11 x 11."""


def psnr(image: Image, reference: Image) -> float:
    """Computes the peak signal-to-noise ratio in dB; infinite for equal images.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(image, reference)
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return math.inf if error == 0 else 10.0 * math.log10(PEAK**2 / error)


def ssim(image: Image, reference: Image) -> float:
    """Computes the structural similarity, averaged over channels and windows; 1 for equal images.

    Args:
        image: Shape ``(height, width, 3)``, at least 11 pixels on a side.
        reference: Image of the same shape; the measure is symmetric.

    Raises:
        ValueError: If the shapes differ, or an image is smaller than the window.

    Source: Wang et al. 2004, Eqs. 13-17.
    """
    _check_shapes(image, reference)
    window = 2 * SSIM_RADIUS + 1
    if min(image.shape[:2]) < window:
        raise ValueError(f"images must be at least {window} pixels on a side, got {image.shape}")
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(np.mean(numerator / denominator))


def compare_visuals(
    tasks: Sequence[Task], *, num_states: int = 3, moving_steps: int = 40, image_size: int = 128
) -> dict[str, Any]:
    """Compares the images of both cameras at stored states, and after random actions from them.

    Args:
        tasks: Tasks to render.
        num_states: Number of initial states per task.
        moving_steps: Control steps of random actions, which move the arm.
        image_size: Height and width in pixels.

    Returns:
        ``tasks``: number of faces, exact and fast; ``num_images`` per camera; and for each camera
        ``psnr`` (dB) and ``ssim``, each with ``mean`` and ``worst``.
    """
    scores: dict[str, list[tuple[float, float]]] = {camera: [] for camera in CAMERAS}
    faces = []
    for task in tasks:
        pair = Simulation(task, image_size, "exact"), Simulation(task, image_size, "fast")
        counts = [face_count(simulation.model) for simulation in pair]
        faces.append({"task_id": task.task_id, "exact": counts[0], "fast": counts[1]})
        rng = np.random.default_rng(task.task_id)
        for state in task.init_states()[:num_states]:
            actions = rng.uniform(-1.0, 1.0, (moving_steps, 7))
            for simulation in pair:
                simulation.reset(state)
            _score(pair, scores)
            for simulation in pair:
                for action in actions:
                    simulation.step(action)
            _score(pair, scores)
        for simulation in pair:
            simulation.close()
    return {
        "tasks": faces,
        "num_images": len(scores["agentview"]),
        **{camera: _summary(found) for camera, found in scores.items()},
    }


def _score(
    pair: tuple[Simulation, Simulation], scores: dict[str, list[tuple[float, float]]]
) -> None:
    exact, fast = pair
    for camera, found in scores.items():
        images = fast.render(camera), exact.render(camera)
        found.append((psnr(*images), ssim(*images)))


def _summary(found: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"mean": float(np.mean(values)), "worst": float(np.min(values))}
        for name, values in zip(("psnr", "ssim"), zip(*found, strict=True), strict=True)
    }


def _windowed(values: Floats) -> Floats:
    """Computes means over the Gaussian windows that lie completely inside the image."""
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    means: Floats = gaussian_filter(
        values, (SSIM_SIGMA, SSIM_SIGMA, 0), radius=(SSIM_RADIUS, SSIM_RADIUS, 0)
    )
    return means[inside, inside]


def _check_shapes(image: Image, reference: Image) -> None:
    if image.shape != reference.shape:
        raise ValueError(
            f"both images must have the same shape, got {image.shape} and {reference.shape}"
        )
