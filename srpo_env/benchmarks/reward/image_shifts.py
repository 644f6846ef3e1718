"""Shifts of recorded frames in camera, light and noise, which should not change the reward.

They are perturbations of `srpo_env.libero.perturbations` that need no simulator. Each task has its
own draw. All episodes of a task get the same shift, as all episodes of a batch would in training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from srpo_env.libero.perturbations import Camera, Light, Noise, Perturbation
from srpo_env.types import Video

Shift = Callable[[Video], Video]

SHIFTS: dict[str, Perturbation] = {
    "camera": Camera(turn=6.0),
    "light": Light(gain=1.5, tint=0.15),
    "noise": Noise(severity=4),
}
"""Perturbations by the name of the shift, without their draw."""


def shift_of(name: str, task_id: int) -> Shift:
    """Returns the function that shifts the videos of a task."""
    filter_of = functools.cache(replace(SHIFTS[name], draw=task_id).recorded_filter)

    def shift(frames: Video) -> Video:
        apply = filter_of(frames.shape[1])
        return np.stack([apply(frame) for frame in frames])

    return shift
