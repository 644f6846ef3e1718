"""Puts a mug into a microwave: takes its handle from the side, and moves it in below the roof."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srpo_env.libero.experts.hand import CLOSE, OPEN, Hand
from srpo_env.libero.experts.meters import PlaceMeter
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import way_to
from srpo_env.types import Floats

PITCH = np.deg2rad(60)
"""Angle between the hand and the vertical in radians."""
FINGERTIP_ROOM = 0.01
"""Distance in metres outside the middle of the handle's bar at which the fingers take it."""
BEFORE = 0.08
"""Distance from the handle, in metres, to which the hand moves first."""
EMPTY = 0.01
"""Opening of the fingers in metres below which they hold nothing."""
LIFT = 0.02
"""Height of the mug's lower side above the microwave's floor while it moves in, in metres."""
DEPTH = 0.04
"""Distance from the region's center, in metres, at which the mug is put down: near its front."""


class InsertSideways:
    """Brings an object with a handle into a region that is open on the side of the handle."""

    def __init__(self, scene: Scene, hand: Hand, predicate: Sequence[str]) -> None:
        """Initialises the skill, for example for ``("in", "mug_1", "microwave_1_region")``."""
        self.predicate = tuple(predicate)
        self.name, region = self.predicate[1:]
        self._scene, self._hand = scene, hand
        self._shape = scene.shapes[self.name]
        self._site = scene.model.site(region).id
        self._container = scene.simulation.fixture_of(region)
        # At the beginning, because an object can rotate and tilt between the fingers.
        points, origin = scene.data.geom_xpos[self._shape.geoms], scene.origin(self.name)
        far = np.argmax(np.linalg.norm((points - origin)[:, :2], axis=1))
        self._handle_geom = self._shape.geoms[far]
        self._outward = self._handle()[1]
        self._has_missed = False

    def done(self) -> bool:
        """Returns whether the object is in the region and the hand has left it."""
        if not self._scene.simulation.holds(self.predicate):
            return False
        away = np.linalg.norm(self._hand.sense()[0] - self._handle()[0]) > BEFORE
        return bool(away and not self._hand.touches(self._shape.geoms))

    def prepared(self) -> bool:
        """Returns whether the predicate holds."""
        return self._scene.simulation.holds(self.predicate)

    def meter(self) -> PlaceMeter:
        """Returns a meter of the object's progress that starts in the current state."""
        return PlaceMeter(self._scene, self._hand, self.name, self._place)

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, orientation, opening = self._hand.sense()
        grip, outward = self._handle()[0], self._outward
        pointing = -np.sin(PITCH) * outward - np.cos(PITCH) * np.array([0.0, 0.0, 1.0])
        facing = self._hand.pointing(pointing, np.array([-outward[1], outward[0], 0.0]))
        offset = position - grip
        aside = float(np.linalg.norm(offset - (offset @ pointing) * pointing))
        turn = (facing * orientation.inv()).magnitude()
        is_held, place = self._hand.holds(self._shape.geoms), self._place()
        low, origin = self._scene.box(self.name)[0][2], self._scene.origin(self.name)
        is_in = self._scene.simulation.holds(self.predicate)
        if is_in and (not is_held or self._is_down(low, place)):
            is_loose = opening > 0.07 or not self._hand.touches(self._shape.geoms)
            goal = position - (0.05 if is_loose else 0.0) * pointing
            return self._hand.move_to(goal, OPEN, orientation=facing)
        if is_held:
            across = place[:2] - origin[:2]
            lift = place[2] + LIFT - low
            # In line with the opening and at its height first, then in.
            sideways = across - (across @ outward[:2]) * outward[:2]
            if np.linalg.norm(sideways) > 0.01 or abs(lift) > 0.01:
                across = sideways + 0.2 * (across - sideways) * (abs(lift) < 0.02)
            elif is_in and np.linalg.norm(across) < 0.04:
                lift -= 2 * LIFT
            goal = position + np.array([*across, lift])
            return self._hand.move_to(goal, CLOSE, orientation=facing)
        # Fingers that closed on nothing open in front of the handle, and not around it.
        self._has_missed = opening < (0.07 if self._has_missed else EMPTY)
        if (
            not self._has_missed
            and aside < (0.02 if opening > 0.07 else 0.04)
            and turn < 0.2
            and offset @ pointing > -BEFORE - 0.03
        ):
            gripper = CLOSE if abs(offset @ pointing) < 0.012 or opening < 0.07 else OPEN
            return self._hand.move_to(grip, gripper, orientation=facing)
        goal = way_to(self._scene, position, grip - BEFORE * pointing, 0.1 * max(0.0, turn - 0.2))
        return self._hand.move_to(goal, OPEN, orientation=facing)

    def _is_down(self, low: float, place: Floats) -> bool:
        return bool(low < place[2] + 0.006)

    def _handle(self) -> tuple[Floats, Floats]:
        """Returns the grip point on the handle, in metres, and its horizontal direction."""
        bar = self._scene.data.geom_xpos[self._handle_geom]
        outward = (bar - self._scene.origin(self.name)) * [1.0, 1.0, 0.0]
        outward = outward / np.linalg.norm(outward)
        return bar + FINGERTIP_ROOM * outward, outward

    def _place(self) -> Floats:
        """Returns the place of the object's origin, and the height of the floor, in metres."""
        center = self._scene.data.site_xpos[self._site] + DEPTH * self._outward
        corners = self._scene.shapes[self._container].corners()
        low, high = corners.min(axis=1), corners.max(axis=1)
        below = (low[:, :2] < center[:2]).all(axis=1) & (high[:, :2] > center[:2]).all(axis=1)
        floor = high[below & (high[:, 2] < center[2]), 2].max()
        return np.array([*center[:2], floor])
