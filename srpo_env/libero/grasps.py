"""Where a parallel gripper should take hold of an object that stands or lies on the floor.

Works on the collision geometry that the simulator uses, so it suits any object of LIBERO, and any
stand-in with the same geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import mujoco

Floats = npt.NDArray[np.float64]

YAWS = np.deg2rad(np.arange(-90, 91, 15))
"""Hand turns that are considered; 0 is the turn in which an episode starts, fingers along y"""

SHIFTS = np.array([0.0, -0.01, 0.01, -0.02, 0.02])
"""Distances in metres off the object's middle, along the axis in which the fingers are thin"""

MAX_WIDTH = 0.07
"""Widest object between the fingers, in metres: they open to 0.078"""

FINGERS = np.array([0.055, 0.015])
"""Half extents of the open fingers seen from above, in metres: along the opening, across it"""

HAND = np.array([0.11, 0.045])
"""Half extents of the hand seen from above, in metres, with a little air"""

HAND_HEIGHT = 0.02
"""Height of the hand's lower side above the grip point in metres"""


@dataclass(frozen=True)
class Grasp:
    """A grip point in the world, in metres, and the hand's turn about the vertical in radians."""

    position: Floats
    yaw: float
    width: float
    """of the object between the fingers, in metres"""


class Shape:
    """The collision geometry of one body: boxes around its geoms, wherever the body is now."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, body: int) -> None:
        """Finds the geoms of ``body`` and of the bodies that hang on it."""
        self._data = data
        bodies = [b for b in range(model.nbody) if _is_within(model, b, body)]
        collides = (model.geom_contype | model.geom_conaffinity) != 0
        self.geoms = np.flatnonzero(np.isin(model.geom_bodyid, bodies) & collides)
        if len(self.geoms) == 0:
            raise ValueError(f"body {model.body(body).name!r} has no collision geometry to grasp")
        center, half = model.geom_aabb[self.geoms, :3], model.geom_aabb[self.geoms, 3:]
        signs = np.array(list(product((-1.0, 1.0), repeat=3)))  # (8, 3)
        self._corners = center[:, None] + signs * half[:, None]  # (num_geoms, 8, 3), local

    def corners(self) -> Floats:
        """Corners of the geoms' boxes in the world, in metres, shape ``(num_geoms, 8, 3)``."""
        rotation = self._data.geom_xmat[self.geoms].reshape(-1, 3, 3)
        position = self._data.geom_xpos[self.geoms][:, None]
        corners: Floats = position + np.einsum("gij,gkj->gki", rotation, self._corners)
        return corners


def plan_grasp(shape: Shape, obstacles: list[Shape]) -> Grasp:
    """The grasp that fits the fingers, keeps clear of ``obstacles`` and turns the hand least."""
    corners = shape.corners()
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    # Low enough for the pads to hold, and no deeper than the fingers reach over a tall object.
    height = max(low.min() + 0.012, high.max() - 0.03)
    at_height = corners[(low < height + 0.008) & (high > height - 0.008), :, :2].reshape(-1, 2)
    around = np.concatenate([np.empty((0, 8, 3)), *(other.corners() for other in obstacles)])

    best, best_cost = None, np.inf
    for yaw in YAWS:
        # Rows: the axis along which the fingers open, the axis across.
        axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
        extent = at_height @ axes.T
        least, most = extent.min(axis=0), extent.max(axis=0)
        width, length = most - least
        for shift in SHIFTS:
            if abs(shift) > max(0.0, length / 2 - FINGERS[1]):
                continue
            center = (least + most) / 2 + (0.0, shift)
            cost = abs(yaw) + 10.0 * abs(shift) + 1e3 * max(0.0, width - MAX_WIDTH)
            cost += 1e2 * _overlap(around, axes, center, FINGERS, height)
            cost += 1e2 * _overlap(around, axes, center, HAND, height + HAND_HEIGHT)
            if cost < best_cost:
                position = np.array([*(center @ axes), height])
                best, best_cost = Grasp(position, float(yaw), float(width)), cost
    assert best is not None  # a shift of 0 is never skipped
    return best


def _overlap(corners: Floats, axes: Floats, center: Floats, half: Floats, above: float) -> float:
    """How deep boxes that reach above a height enter a rectangle, in metres, summed."""
    tall = corners[corners[..., 2].max(axis=1) > above]
    if len(tall) == 0:
        return 0.0
    extent = tall[..., :2] @ axes.T - center  # (boxes, 8, 2)
    gap = np.maximum(extent.min(axis=1) - half, -half - extent.max(axis=1)).max(axis=1)
    return float(np.maximum(-gap, 0.0).sum())


def _is_within(model: mujoco.MjModel, body: int, ancestor: int) -> bool:
    while body not in (0, ancestor):
        body = model.body_parentid[body]
    return bool(body == ancestor)
