"""Plans where a parallel gripper grasps an object on the floor.

Uses the collision geometry of the simulator, so it works for all of LIBERO's objects, and for
placeholders with the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from srpo_env.types import Floats

if TYPE_CHECKING:
    import mujoco


YAWS = np.deg2rad(np.arange(-90, 91, 15))
"""Rotations of the hand to choose from, in radians; at 0, as at an episode's start, the fingers
open along y."""

SHIFTS = np.array([0.0, -0.01, 0.01, -0.02, 0.02])
"""Offsets from the object's center in metres, along the axis across the opening."""

SHARES = np.array([0.0, -0.5, 0.5, -1.0, 1.0])
"""Offsets along the opening, relative to the room between the object and the fingers."""

MAX_WIDTH = 0.07
"""Maximum width between the fingers in metres; they open to 0.078."""

FINGERS = np.array([0.055, 0.015])
"""Half extents of the open fingers seen from above in metres: along the opening, across it."""

HAND = np.array([0.11, 0.045])
"""Half extents of the hand seen from above in metres, with a margin."""

HAND_HEIGHT = 0.02
"""Height of the hand's lower side above the grip point in metres."""


@dataclass(frozen=True)
class Grasp:
    """A position and rotation of the hand."""

    position: Floats
    """Grip point in world coordinates, in metres, shape ``(3,)``."""
    yaw: float
    """Rotation about the vertical, in radians."""
    width: float
    """Width of the object between the fingers, in metres."""
    lean: float = 0.0
    """Rotation of the hand about the axis along which the fingers open, in radians."""


class Shape:
    """The collision geometry of one body: bounding boxes of its geoms at their current position."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, body: int) -> None:
        """Finds the geoms of ``body`` and of its descendants.

        Raises:
            ValueError: If the body has no collision geometry.
        """
        self._data = data
        bodies = [b for b in range(model.nbody) if _is_within(model, b, body)]
        collides = (model.geom_contype | model.geom_conaffinity) != 0
        self.geoms = np.flatnonzero(np.isin(model.geom_bodyid, bodies) & collides)
        if len(self.geoms) == 0:
            raise ValueError(f"body {model.body(body).name!r} has no collision geometry")
        center, half = model.geom_aabb[self.geoms, :3], model.geom_aabb[self.geoms, 3:]
        signs = np.array(list(product((-1.0, 1.0), repeat=3)))  # (8, 3)
        self._corners = center[:, None] + signs * half[:, None]  # (num_geoms, 8, 3), local

    def corners(self) -> Floats:
        """Returns the corners of the boxes in world coordinates (m), ``(num_geoms, 8, 3)``."""
        rotation = self._data.geom_xmat[self.geoms].reshape(-1, 3, 3)
        position = self._data.geom_xpos[self.geoms][:, None]
        corners: Floats = position + np.einsum("gij,gkj->gki", rotation, self._corners)
        return corners


def plan_grasp(
    shape: Shape,
    obstacles: list[Shape],
    azimuth: float = 0.0,
    *,
    on_knob: bool = False,
    beside: bool = False,
) -> Grasp:
    """Returns the grasp with the lowest cost: small rotation and offset, no contact with obstacles.

    Args:
        shape: The object to grasp.
        obstacles: Other objects.
        azimuth: Rotation of the hand that costs nothing, in radians.
        on_knob: Grasps only the uppermost part, such as the knob of a lid.
        beside: Prefers not to open wider than `MAX_WIDTH` to not touching obstacles, and also
            chooses grasps with the object nearer to one finger; their width is twice the distance
            from the hand's middle to the other side of the object.
    """
    corners = shape.corners()
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    # Low enough for the pads, and no deeper than the fingers reach below the top of a tall object.
    height = high.max() - 0.006 if on_knob else max(low.min() + 0.012, high.max() - 0.03)
    at_height = corners[(low < height + 0.008) & (high > height - 0.008), :, :2].reshape(-1, 2)
    around = np.concatenate([np.empty((0, 8, 3)), *(other.corners() for other in obstacles)])

    best, best_cost = None, np.inf
    for yaw in YAWS:
        # Rows: the axis along which the fingers open, the axis across it.
        axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
        extent = at_height @ axes.T
        minimum, maximum = extent.min(axis=0), extent.max(axis=0)
        width, length = maximum - minimum
        play = max(0.0, MAX_WIDTH - width) / 2 if beside else 0.0
        for shift, share in product(SHIFTS, SHARES if play else [0.0]):
            if abs(shift) > max(0.0, length / 2 - FINGERS[1]):
                continue
            center = (minimum + maximum) / 2 + (share * play, shift)
            opening = width + 2 * abs(share) * play
            cost = abs(yaw - azimuth) + 10.0 * abs(shift) + 10.0 * abs(share) * play
            cost += (1e4 if beside else 1e3) * max(0.0, opening - MAX_WIDTH)
            cost += 1e2 * overlap(around, axes, center, FINGERS, height)
            cost += 1e2 * overlap(around, axes, center, HAND, height + HAND_HEIGHT)
            if cost < best_cost:
                position = np.array([*(center @ axes), height])
                best, best_cost = Grasp(position, float(yaw), float(opening)), cost
    assert best is not None  # a shift of 0 is never skipped
    return best


def overlap(corners: Floats, axes: Floats, center: Floats, half: Floats, above: float) -> float:
    """Returns by how much boxes that reach above a height enter a rectangle, summed, in metres."""
    tall = corners[corners[..., 2].max(axis=1) > above]
    return float(np.maximum(0.0, _depths(tall, axes, center, half)).sum())


def top_within(corners: Floats, axes: Floats, center: Floats, half: Floats) -> float:
    """Returns the height of the tallest box that enters a rectangle, in metres; -inf if none."""
    inside = _depths(corners, axes, center, half) > 0.0
    return float(corners[inside, :, 2].max(initial=-np.inf))


def _depths(corners: Floats, axes: Floats, center: Floats, half: Floats) -> Floats:
    """Returns by how much each box enters a rectangle, in metres; negative outside of it."""
    extent = corners[..., :2] @ axes.T - center  # (boxes, 8, 2)
    gaps = np.maximum(extent.min(axis=1) - half, -half - extent.max(axis=1))
    depths: Floats = -gaps.max(axis=1)
    return depths


def _is_within(model: mujoco.MjModel, body: int, ancestor: int) -> bool:
    while body not in (0, ancestor):
        body = model.body_parentid[body]
    return bool(body == ancestor)
