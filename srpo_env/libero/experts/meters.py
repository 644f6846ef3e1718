"""Progress of single skills: how far an object, a joint or a plate is on its way, in [0, 1).

A meter starts in the simulator's current state, and measures the stages of its skill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from srpo_env.libero.experts.hand import FULL_OPENING, Hand
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import CLEARANCE
from srpo_env.libero.grasps import MAX_WIDTH
from srpo_env.types import Floats

AT_HAND = 0.01
"""Distance of the grip point from the object's bounding box, in metres, that counts as reached."""
CONTACT_MEMORY = 3
"""Number of control steps without contact for which an object still counts as held."""
WALL = 0.02
"""Width between the fingers, in metres, of an object that is grasped by its rim or its handle."""
AT_PLACE = 0.02
"""Horizontal distance from its place, in metres, at which an object is above it."""
REACHED = 0.3
"""Progress of a hand that has reached what it moves without lifting it."""


class Meter(Protocol):
    """Measures one skill's progress."""

    def measure(self) -> float:
        """Returns the current progress in [0, 1); it can also decrease."""
        ...


class PlaceMeter:
    """Progress of an object to its place, in five equal stages: reach, grasp, lift, carry, lower.

    An object that is dropped returns progress to *reach*, unless it is above its place.
    """

    def __init__(self, scene: Scene, hand: Hand, name: str, place: Callable[[], Floats]) -> None:
        """Starts in the current state.

        Args:
            scene: Positions of objects and fixtures.
            hand: The hand.
            name: Name of the object.
            place: Returns x and y of the object's origin and the height of its lower side at its
                place, in metres, shape ``(3,)``.
        """
        self._scene, self._hand, self._name, self._place = scene, hand, name, place
        self._geoms = scene.shapes[name].geoms
        low, high = scene.box(name)
        width = float((high - low)[:2].min())
        self._width = width if width <= MAX_WIDTH else WALL
        self._floor = float(low[2])
        self._initial_distance = max(self._distance(), 2 * AT_HAND)
        self._initial_gap = max(self._gap(), 1e-3)
        self._steps_since_held = CONTACT_MEMORY + 1

    def measure(self) -> float:
        """Returns the current progress; call it once per control step."""
        is_held = self._hand.holds(self._geoms)
        self._steps_since_held = 0 if is_held else self._steps_since_held + 1
        lower, place = float(self._scene.box(self._name)[0][2]), self._place()
        top = max(self._floor, float(place[2])) + CLEARANCE
        gap = self._gap()
        if gap == 0.0 and lower < top:
            return 0.8 + 0.2 * _share(top - lower, top - place[2]) * 0.99
        if self._steps_since_held <= CONTACT_MEMORY:
            lifted = _share(lower - self._floor, top - self._floor)
            return 0.4 + 0.2 * lifted + 0.2 * (1.0 - _share(gap, self._initial_gap)) * lifted
        distance = self._distance()
        if distance > AT_HAND:
            return 0.2 * (1.0 - _share(distance - AT_HAND, self._initial_distance - AT_HAND))
        opening = self._hand.sense()[2]
        if opening < self._width / 2:
            return 0.2  # the fingers have closed without the object
        return 0.2 + 0.2 * _share(FULL_OPENING - opening, FULL_OPENING - self._width) * 0.99

    def _gap(self) -> float:
        offset = (self._scene.origin(self._name) - self._place())[:2]
        return max(0.0, float(np.linalg.norm(offset)) - AT_PLACE)

    def _distance(self) -> float:
        """Returns the distance of the grip point from the object's box in metres; 0 inside."""
        low, high = self._scene.box(self._name)
        grip = self._scene.simulation.grip_position
        return float(np.linalg.norm(np.maximum(0.0, np.maximum(low - grip, grip - high))))


class MotionMeter:
    """Progress of what the hand reaches and then moves: a drawer, a door, a knob, a plate."""

    def __init__(
        self, scene: Scene, point: Callable[[], Floats], remaining: Callable[[], float]
    ) -> None:
        """Starts in the current state.

        Args:
            scene: Positions of objects and fixtures.
            point: Returns where the hand takes or pushes it, in metres, shape ``(3,)``.
            remaining: Returns how far it still has to move, in any unit.
        """
        self._scene, self._point, self._remaining = scene, point, remaining
        self._initial_distance = max(self._distance(), 2 * AT_HAND)
        self._initial = max(remaining(), 1e-6)
        self._reached = 0.0

    def measure(self) -> float:
        """Returns the current progress."""
        moved = 1.0 - _share(self._remaining(), self._initial)
        reached = 1.0 - _share(self._distance(), self._initial_distance)
        if moved > 0.02:
            return REACHED + (1.0 - REACHED) * moved * 0.99
        return REACHED * reached

    def _distance(self) -> float:
        distance = float(np.linalg.norm(self._scene.simulation.grip_position - self._point()))
        return max(0.0, distance - 2 * AT_HAND)


def _share(part: float, whole: float) -> float:
    return float(np.clip(part / max(whole, 1e-9), 0.0, 1.0))
