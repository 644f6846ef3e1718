"""Opens drawers by their handles, and closes drawers and doors by pushing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from srpo_env.libero.experts.hand import CLOSE, OPEN, Hand
from srpo_env.libero.experts.joints import Joint
from srpo_env.libero.experts.meters import MotionMeter
from srpo_env.libero.experts.places import Region
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import way_to
from srpo_env.types import Floats

OPENED = 0.14
"""Distance from the closed position, in metres, at which LIBERO's drawers are open."""
BEFORE = 0.09
"""Distance in front of a handle, in metres, to which the hand moves first."""
INSIDE = 0.035
"""Distance from a drawer's front, in metres, at which the hand moves into it."""
AHEAD = 0.05
"""Distance by which the hand's target is ahead of the hand while it pulls or pushes, in metres."""


class PullOpen:
    """Opens a drawer: takes the handle between the fingers, one above and one below, and pulls.

    A drawer that is open, but in which an object does not fit yet, is pushed on from inside.
    """

    def __init__(
        self,
        scene: Scene,
        hand: Hand,
        predicate: Sequence[str],
        unless: Sequence[str] | None = None,
        region: Region | None = None,
    ) -> None:
        """Initialises the skill.

        Args:
            scene: Positions of objects and fixtures.
            hand: The hand.
            predicate: For example ``("open", "cabinet_1_top_region")``.
            unless: A predicate with which the drawer need not be open, because the object that
                belongs inside is there.
            region: Its inside, if an object goes there.
        """
        self.predicate, self._unless = tuple(predicate), unless
        self._scene, self._hand, self._region = scene, hand, region
        self._joint = Joint(scene, self.predicate[1])
        self._was_wide = region is None

    def done(self) -> bool:
        """Returns whether the drawer is open and the hand has left the handle."""
        if self._unless is not None and self._scene.simulation.holds(self._unless):
            return True
        if not self._scene.simulation.holds(self.predicate) or not self._is_wide():
            return False
        position, orientation, _ = self._hand.sense()
        # A hand that points down is on its way to something else.
        turn = (self._facing() * orientation.inv()).magnitude()
        return bool(np.linalg.norm(position - self._joint.handle()) > BEFORE - 0.02 or turn > 0.3)

    def _is_wide(self) -> bool:
        """Returns whether the open drawer was wide enough once: objects that arrive may move it."""
        if self._region is not None and not self._was_wide:
            self._was_wide = self._region.fits() or self._joint.is_at_end()
        return self._was_wide

    def _facing(self) -> Rotation:
        return self._hand.pointing(-self._joint.opening(), np.array([0.0, 0.0, 1.0]))

    def prepared(self) -> bool:
        """Returns whether the drawer is open, or its object is already inside."""
        holds = self._scene.simulation.holds
        return holds(self.predicate) or (self._unless is not None and holds(self._unless))

    def meter(self) -> MotionMeter:
        """Returns a meter of the drawer's progress that starts in the current state."""
        return MotionMeter(
            self._scene, self._joint.handle, lambda: max(0.0, OPENED - abs(self._joint.position))
        )

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, orientation, opening = self._hand.sense()
        handle, out = self._joint.handle(), self._joint.opening()
        if self._scene.simulation.holds(self.predicate) and not self._is_wide():
            return self._push_from_inside(position, orientation, out)
        facing = self._facing()
        offset = position - handle
        aside = offset - (offset @ out) * out
        turn = (facing * orientation.inv()).magnitude()
        is_held = self._hand.holds(self._joint.handle_geoms)
        is_open = self._scene.simulation.holds(self.predicate)
        if is_open and (self._joint.is_wide_open() or not is_held):
            goal, gripper = handle + aside + (BEFORE + 0.03) * out, OPEN
            if opening < 0.07:
                goal = position
        elif is_held:
            goal, gripper = handle + (offset @ out + AHEAD) * out, CLOSE
        elif np.linalg.norm(aside) < 0.015 and turn < 0.2 and offset @ out > -0.02:
            gripper = CLOSE if offset @ out < 0.014 else OPEN
            goal = handle
        else:
            goal = way_to(self._scene, position, handle + BEFORE * out, 0.1 * max(0, turn - 0.2))
            gripper = OPEN
        return self._hand.move_to(goal, gripper, orientation=facing)

    def _push_from_inside(self, position: Floats, hand: Rotation, out: Floats) -> Floats:
        """Returns the action that pushes the front of the drawer with the closed fingers."""
        assert self._region is not None  # otherwise it is wide enough
        facing = self._hand.pointing(np.array([0.0, 0.0, -1.0]), np.cross(out, [0.0, 0.0, 1.0]))
        behind = self._region.edge(out) - INSIDE * out
        turn = (facing * hand.inv()).magnitude()
        offset = position - behind
        if np.linalg.norm(offset - (offset @ out) * out) < 0.02 and turn < 0.2:
            # Slowly, because something may stand in front of the drawer.
            goal = behind + (offset @ out + AHEAD / 3) * out
        else:
            goal = way_to(self._scene, position, behind, 0.1 * max(0.0, turn - 0.2))
        return self._hand.move_to(goal, CLOSE, orientation=facing)


class PushClosed:
    """Closes a drawer or a door: pushes its handle with the closed fingers."""

    TILTS = np.deg2rad([35, 25, 15])
    """Angles between hand and vertical: the fingers point down and forward, so that the hand stays
    behind the fingertips. The smaller ones are for an arm that would touch what is behind it."""
    WRIST_RADIUS = 0.06
    """Distance from the wrist's center, in metres, at which the arm touches nothing."""

    def __init__(self, scene: Scene, hand: Hand, predicate: Sequence[str]) -> None:
        """Initialises the skill for a predicate such as ``("close", "microwave_1")``."""
        self.predicate = tuple(predicate)
        self._scene, self._hand = scene, hand
        self._joint = Joint(scene, self.predicate[1])
        fixture = scene.simulation.fixture_of(self.predicate[1])
        self._others = scene.others(fixture)

    def done(self) -> bool:
        """Returns whether it is closed."""
        return self._scene.simulation.holds(self.predicate)

    def prepared(self) -> bool:
        """Returns whether the predicate holds."""
        return self._scene.simulation.holds(self.predicate)

    def meter(self) -> MotionMeter:
        """Returns a meter of the joint's progress that starts in the current state."""
        return MotionMeter(self._scene, self._joint.push_point, lambda: abs(self._joint.position))

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, orientation, _ = self._hand.sense()
        out = self._joint.opening()
        handle = self._joint.push_point()
        forward = self._forward(position, out)
        facing = self._hand.pointing(forward, np.cross(out, [0.0, 0.0, 1.0]))
        offset = position - handle
        aside = offset - (offset @ out) * out
        turn = (facing * orientation.inv()).magnitude()
        # A hand that pushes already need not be as near to the middle of the handle.
        play = 0.02 if offset @ out > 0.05 else 0.04
        if np.linalg.norm(aside) < play and turn < 0.3 and offset @ out > 0.0:
            goal = handle - AHEAD * out
        else:
            before = handle + 0.07 * out
            goal = way_to(self._scene, position, before, 0.1 * max(0, turn - 0.2), near=0.045)
        return self._hand.move_to(goal, CLOSE, orientation=facing)

    def _forward(self, position: Floats, out: Floats) -> Floats:
        """Returns where the fingers point: down and forward, as far as the arm is free."""
        corners = np.concatenate([shape.corners() for shape in self._others])
        low, high = corners.min(axis=1), corners.max(axis=1)
        for tilt in self.TILTS:
            forward: Floats = -np.sin(tilt) * out - np.cos(tilt) * np.array([0.0, 0.0, 1.0])
            wrist = np.array(self._hand.wrist(position, forward))[:, None]
            gaps = np.linalg.norm(np.maximum(0.0, np.maximum(low - wrist, wrist - high)), axis=2)
            if gaps.min() > self.WRIST_RADIUS:
                break
        return forward
