"""The hand's way to a place: up, across, and down inside a funnel."""

from __future__ import annotations

import numpy as np

from srpo_env.libero.experts.hand import FINGER_TIP
from srpo_env.libero.experts.scene import Scene
from srpo_env.types import Floats

FUNNEL_SLOPE = 4.0
"""Metres of height per metre of horizontal error: hand and object descend inside a funnel."""
CLEARANCE = 0.03
"""Vertical distance to what is below the path of the hand or of a carried object, in metres."""
FINGER_RADIUS = 0.05
"""Horizontal distance from the hand's path within which the fingers could touch something."""
NEAR = 0.025
"""Default of that distance in metres."""


def way_to(
    scene: Scene, position: Floats, end: Floats, error: float, *, near: float = NEAR
) -> Floats:
    """Returns where the hand moves next on its way to a place, in metres, shape ``(3,)``.

    Args:
        scene: Positions of objects and fixtures.
        position: Where the hand is, in metres.
        end: Goal position of the hand, in metres.
        error: Error of position or orientation, in metres, that must become 0 before it is down.
        near: Horizontal distance in metres at which a hand that is down already stays down.
    """
    sideways = float(np.linalg.norm((end - position)[:2]))
    above, funnel = position[2] - end[2], FUNNEL_SLOPE * max(0.0, error, sideways - near)
    if sideways < near:
        # A hand that is down already corrects small errors there, without going up again.
        down: Floats = end + np.array([0.0, 0.0, min(funnel, max(above, 0.0))])
        return down
    free = scene.top_along(position, end, FINGER_RADIUS) + FINGER_TIP
    lowest = min(max(free + CLEARANCE, end[2]), end[2] + funnel)
    # Sideways only as far as the hand has risen.
    freedom = np.clip((position[2] - (lowest - CLEARANCE)) / CLEARANCE, 0.0, 1.0)
    goal: Floats = position + freedom * (end - position)
    goal[2] = lowest
    return goal
