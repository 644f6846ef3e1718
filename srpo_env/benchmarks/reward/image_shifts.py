"""Changed camera, light and noise: what a reward should not care about.

The changes are made to recorded frames. Each task draws its own from a fixed seed, and all of its
episodes get the same one, as all episodes of a batch would in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
Shift = Callable[[Frames], Frames]

MAX_ANGLE = 5.0
"""degrees by which the camera is turned, to either side, and at least half of it"""

ZOOM = (1.16, 1.24)
"""least and greatest magnification; no corner of the turned picture is empty"""

MAX_OFFSET = 0.03
"""of the picture's size, by which it is moved in either direction"""

MAX_DIMMING = 0.4
"""relative change of brightness, darker or lighter, and at least half of it"""

MAX_TINT = 0.15
"""relative change of each colour beside it"""

NOISE = 0.06
"""standard deviation of the noise on every pixel and colour, where white is 1"""


def camera(task_id: int) -> Shift:
    """Turns, magnifies and moves the picture."""
    from PIL import Image

    rng = np.random.default_rng([1, task_id])
    angle = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * MAX_ANGLE)
    zoom, offset = rng.uniform(*ZOOM), rng.uniform(-MAX_OFFSET, MAX_OFFSET, 2)

    def shift(frames: Frames) -> Frames:
        width, height = frames.shape[2], frames.shape[1]
        size = np.array([width, height])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        # Pillow wants to know where a pixel of the new picture comes from in the old one.
        start = size / 2 + offset * size - turn @ (size / 2)
        affine = (*turn[0], start[0], *turn[1], start[1])
        return np.stack(
            [
                np.asarray(
                    Image.fromarray(frame).transform(
                        (width, height),
                        Image.Transform.AFFINE,
                        tuple(float(value) for value in affine),
                        Image.Resampling.BILINEAR,
                    )
                )
                for frame in frames
            ]
        )

    return shift


def light(task_id: int) -> Shift:
    """Makes the picture darker or lighter, and tints it."""
    rng = np.random.default_rng([2, task_id])
    gain = 1 + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * MAX_DIMMING
    gains = gain * (1 + rng.uniform(-MAX_TINT, MAX_TINT, 3))
    return lambda frames: _pixels(frames * gains)


def noise(task_id: int) -> Shift:
    """Adds noise, new in every frame and pixel."""
    rng = np.random.default_rng([3, task_id])

    def shift(frames: Frames) -> Frames:
        # Drawn as one episode after the other comes, which is always in the same order.
        return _pixels(frames + 255 * NOISE * rng.standard_normal(frames.shape, np.float32))

    return shift


SHIFTS: dict[str, Callable[[int], Shift]] = {"camera": camera, "light": light, "noise": noise}
"""What makes a task's shift, by name"""


def _pixels(values: npt.NDArray[np.floating]) -> Frames:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
