"""Plans where a parallel gripper grasps the rim of a bowl or mug that is wider than its opening."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from srpo_env.libero.grasps import FINGERS, HAND, HAND_HEIGHT, Grasp, Shape, overlap
from srpo_env.types import Floats

DEPTH = 0.014
"""Depth of the grip point below the rim, in metres."""
NUM_DIRECTIONS = 24
"""Number of places on the rim to choose from."""
SECTOR = np.cos(np.deg2rad(12))
"""Parts of the object in a direction from its axis are those within 12 degrees of it."""
LEANS = np.deg2rad([0.0, -25.0, 25.0])
"""Rotations of the hand about the axis along which the fingers open, in radians."""
HAND_HEIGHTS = (0.04, 0.085)
"""Distances from the grip point, in metres, at which a leaning hand must be free."""
MAX_WALL = 0.02
"""Thickness of a wall in metres beyond which a part is not a wall, but a handle."""


def plan_rim_grasp(
    shape: Shape,
    center: Floats,
    obstacles: list[Shape],
    azimuth: float = 0.0,
    obstruction: Callable[[Floats, float, float], float] = lambda *_: 0.0,
) -> Grasp | None:
    """Returns the grasp of the rim with the lowest cost: small rotation, no contact with obstacles.

    None if the object has no rim at its upper end, for example because it has fallen over.

    Args:
        shape: The object to grasp; it stands upright.
        center: A point on its axis in metres; only x and y are used.
        obstacles: Other objects and fixtures.
        azimuth: Rotation of the hand that costs nothing, in radians.
        obstruction: By how much a grasp would fail later, in metres, for its position in metres,
            rotation about the vertical and lean in radians.
    """
    corners = shape.corners()
    top = float(corners[..., 2].max())
    height = top - DEPTH
    around = np.concatenate([np.empty((0, 8, 3)), *(other.corners() for other in obstacles)])
    best, best_cost = None, np.inf
    for angle in np.arange(NUM_DIRECTIONS) * 2 * np.pi / NUM_DIRECTIONS:
        outward = np.array([np.cos(angle), np.sin(angle)])
        wall = _wall(corners, center[:2], outward, height)
        if wall is None:
            continue
        inner, outer = wall
        # The fingers open along the radius; a hand that is rotated by half a turn does the same.
        yaw = float(np.arctan2(-outward[0], outward[1]))
        yaw = azimuth + (yaw - azimuth + np.pi / 2) % np.pi - np.pi / 2
        axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
        position = center[:2] + outward * (inner + outer) / 2
        grip = np.array([*position, height])
        for lean in LEANS:
            cost = abs(yaw - azimuth) + 2.0 * abs(lean) + 50.0 * max(0.0, outer - inner - MAX_WALL)
            cost += 1e2 * overlap(around, axes, axes @ position, FINGERS, height - 0.015)
            for above in HAND_HEIGHTS if lean else (0.0,):
                hand = axes @ position - np.array([0.0, above * np.tan(lean)])
                cost += 1e2 * overlap(around, axes, hand, HAND, height + HAND_HEIGHT)
            cost += 1e2 * obstruction(grip, yaw, float(lean))
            if cost < best_cost:
                best, best_cost = Grasp(grip, yaw, outer - inner, float(lean)), cost
    return best


def _wall(
    corners: Floats, center: Floats, outward: Floats, height: float
) -> tuple[float, float] | None:
    """Returns the inner and outer radius of the wall in a direction, in metres; None if none."""
    at_height = (corners[..., 2].min(axis=1) < height) & (corners[..., 2].max(axis=1) > height)
    boxes = corners[at_height]
    middles = boxes.mean(axis=1)[:, :2] - center
    radii = np.linalg.norm(middles, axis=1)
    boxes = boxes[middles @ outward > SECTOR * radii]
    if len(boxes) == 0:
        return None
    along = (boxes[..., :2] - center) @ outward
    return float(along.min()), float(along.max())
