"""Pushes a flat object, such as a plate, across the table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np

from srpo_env.libero.experts.hand import CLOSE, FINGER_TIP, Hand
from srpo_env.libero.experts.meters import MotionMeter
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import way_to
from srpo_env.types import Floats

MARGIN = 0.012
"""Distance of the fingertips from the rim before they push, in metres."""
AHEAD = 0.03
"""Distance by which the hand's target is ahead of the hand while it pushes, in metres."""

LEAN = np.deg2rad(30)
"""Angle between hand and vertical in radians."""


class Slide:
    """Pushes an object to a region of the table with the closed fingers, around other objects."""

    def __init__(self, scene: Scene, hand: Hand, predicate: Sequence[str]) -> None:
        """Initialises the skill for a predicate such as ``("on", "plate_1", "table_region")``."""
        self.predicate = tuple(predicate)
        self.name, region = self.predicate[1:]
        self._scene, self._hand = scene, hand
        self._site = scene.model.site(region).id
        low, high = scene.box(self.name)
        self._radius = float((high - low)[:2].max()) / 2
        self._way: list[Floats] | None = None

    def done(self) -> bool:
        """Returns whether the object is in the region."""
        return self._scene.simulation.holds(self.predicate)

    def prepared(self) -> bool:
        """Returns whether the predicate holds."""
        return self._scene.simulation.holds(self.predicate)

    def meter(self) -> MotionMeter:
        """Returns a meter of the object's progress that starts in the current state."""

        def remaining() -> float:
            offset = self._scene.origin(self.name) - self._scene.data.site_xpos[self._site]
            beyond = np.abs(offset[:2]) - self._scene.model.site_size[self._site][:2]
            return float(np.linalg.norm(np.maximum(0.0, beyond)))

        return MotionMeter(self._scene, lambda: self._scene.origin(self.name), remaining)

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position = self._hand.sense()[0]
        origin = self._scene.origin(self.name)[:2]
        if self._way is None:
            self._way = self._planned(origin)
        # The second part of the way begins when the object has passed the corner.
        corner, end = self._way
        passed = bool(
            np.linalg.norm(origin - corner) < 0.025 or (origin - corner) @ (end - corner) > 0.0
        )
        direction = (end if passed else corner) - origin
        direction = direction / max(1e-6, float(np.linalg.norm(direction)))
        height = self._scene.ground() + FINGER_TIP + 0.006
        behind = np.array([*(origin - (self._radius + MARGIN) * direction), height])
        # The hand leans over the object, so that it is far from what stands behind it, and so that
        # the fingers press the object down.
        ahead = np.array([*direction, 0.0])
        orientation = self._hand.pointing(
            -np.sin(LEAN) * ahead - [0.0, 0.0, np.cos(LEAN)], np.array([-ahead[1], ahead[0], 0.0])
        )
        offset = (position - behind)[:2]
        along = float(offset @ direction)
        aside = float(np.linalg.norm(offset - along * direction))
        is_down = position[2] < height + 0.015
        if is_down and aside < 0.03 and abs(along) < 0.03:
            step = AHEAD * direction - 1.5 * (offset - along * direction)
            goal = np.array([*(position[:2] + step), height])
        else:
            goal = way_to(self._scene, position, behind, 0.0)
        return self._hand.move_to(goal, CLOSE, orientation=orientation)

    def _planned(self, start: Floats) -> list[Floats]:
        """Returns a corner and an end of the object's way on which it meets little else."""
        center, half = (
            self._scene.data.site_xpos[self._site],
            self._scene.model.site_size[self._site],
        )
        ends = [center[:2] + half[:2] * np.array(s) for s in product((-0.6, 0.0, 0.6), repeat=2)]
        corners = [
            np.array([x, y])
            for x, y in product(np.arange(-0.2, 0.16, 0.03), np.arange(-0.3, 0.31, 0.03))
        ]
        boxes = np.concatenate([s.corners() for s in self._scene.others(self.name)])
        # Only what is as low as the object itself is in its way.
        boxes = boxes[boxes[..., 2].min(axis=1) < self._scene.box(self.name)[1][2] - 0.005]
        low, high = boxes.min(axis=1)[:, :2], boxes.max(axis=1)[:, :2]

        def cost(way: list[Floats]) -> float:
            total = 0.0
            for a, b in pairwise(way):
                points = np.linspace(a, b, 12)[:, None]
                gap = np.maximum(0.0, np.maximum(low - points, points - high))
                near = np.linalg.norm(gap, axis=2).min(axis=1)
                total += float(np.linalg.norm(b - a))
                total += 3.0 * float(np.maximum(0.0, self._radius + 0.01 - near).sum())
                hand = a - (self._radius + MARGIN) * (b - a) / max(
                    1e-6, float(np.linalg.norm(b - a))
                )
                total += 30.0 * max(0.0, float(np.linalg.norm(hand - self._hand.base()[:2])) - 0.76)
            return total

        return min(
            ([corner, end] for corner in corners for end in ends), key=lambda w: cost([start, *w])
        )
