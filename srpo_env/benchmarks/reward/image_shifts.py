"""Shifts of recorded frames in camera, light and noise, which should not change the reward.

Each task draws its own shift from a fixed seed. All episodes of a task get the same shift, as all
episodes of a batch would in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from srpo_env.types import Video

Shift = Callable[[Video], Video]

MAX_ANGLE = 5.0
"""Maximum rotation of the camera in degrees, to either side; the minimum is half of it."""

ZOOM = (1.16, 1.24)
"""Minimum and maximum magnification; large enough that no corner of the rotated image is empty."""

MAX_OFFSET = 0.03
"""Maximum translation in either direction, as a share of the image size."""

MAX_DIMMING = 0.4
"""Maximum relative change of brightness, darker or brighter; the minimum is half of it."""

MAX_TINT = 0.15
"""Maximum additional relative change of each colour."""

NOISE = 0.06
"""Standard deviation of the noise on every pixel and colour channel, where white is 1."""


def camera(task_id: int) -> Shift:
    """Returns a shift that rotates, magnifies and translates the image."""
    from PIL import Image

    rng = np.random.default_rng([1, task_id])
    angle = np.deg2rad(rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * MAX_ANGLE)
    zoom, offset = rng.uniform(*ZOOM), rng.uniform(-MAX_OFFSET, MAX_OFFSET, 2)

    def shift(frames: Video) -> Video:
        width, height = frames.shape[2], frames.shape[1]
        size = np.array([width, height])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
        # Pillow's transform maps pixels of the new image to pixels of the old one.
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
    """Returns a shift that darkens or brightens the image and tints it."""
    rng = np.random.default_rng([2, task_id])
    gain = 1 + rng.choice([-1, 1]) * rng.uniform(0.5, 1.0) * MAX_DIMMING
    gains = gain * (1 + rng.uniform(-MAX_TINT, MAX_TINT, 3))
    return lambda frames: _pixels(frames * gains)


def noise(task_id: int) -> Shift:
    """Returns a shift that adds independent noise to every frame and pixel."""
    rng = np.random.default_rng([3, task_id])

    def shift(frames: Video) -> Video:
        # Drawn in the order of the episodes, which is always the same.
        return _pixels(frames + 255 * NOISE * rng.standard_normal(frames.shape, np.float32))

    return shift


SHIFTS: dict[str, Callable[[int], Shift]] = {"camera": camera, "light": light, "noise": noise}
"""Makers of a task's shift, by name."""


def _pixels(values: npt.NDArray[np.floating]) -> Video:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
