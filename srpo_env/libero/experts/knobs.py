"""Turns knobs, such as that of a stove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srpo_env.libero.experts.hand import CLOSE, OPEN, Hand
from srpo_env.libero.experts.joints import Joint
from srpo_env.libero.experts.meters import MotionMeter
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import way_to
from srpo_env.types import Floats

ON = 0.5
"""Angle of the knob in radians at which LIBERO's stoves are on."""
TURN = 0.5
"""Angle in radians by which the hand's target is ahead of the knob."""
TILT = -0.3
"""Tilt of the hand in radians: it leans away from the base, which stoves are near to."""


class TurnOn:
    """Turns a stove on: takes the knob between the fingers and turns it."""

    def __init__(self, scene: Scene, hand: Hand, predicate: Sequence[str]) -> None:
        """Initialises the skill for a predicate such as ``("turnon", "flat_stove_1")``."""
        self.predicate = tuple(predicate)
        self._scene, self._hand = scene, hand
        self._joint = Joint(scene, self.predicate[1])

    def done(self) -> bool:
        """Returns whether the stove is on and the hand has left the knob."""
        if not self._scene.simulation.holds(self.predicate):
            return False
        offset = self._hand.sense()[0] - self._joint.ridge()[0]
        return bool(np.linalg.norm(offset[:2]) > 0.06 or offset[2] > 0.04)

    def prepared(self) -> bool:
        """Returns whether the predicate holds."""
        return self._scene.simulation.holds(self.predicate)

    def meter(self) -> MotionMeter:
        """Returns a meter of the knob's progress that starts in the current state."""
        return MotionMeter(
            self._scene, lambda: self._joint.ridge()[0], lambda: max(0.0, ON - self._joint.position)
        )

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, orientation, opening = self._hand.sense()
        grip, across = self._joint.ridge()
        is_held = self._hand.holds(self._joint.geoms)
        angle = float(np.arctan2(-across[0], across[1])) + (TURN if is_held else 0.0)
        tilt = TILT if np.linalg.norm((grip - self._hand.base())[:2]) < 0.4 else 0.0
        turned = self._hand.outward(grip, angle - self._hand.azimuth(grip), tilt)
        turn = (turned * orientation.inv()).magnitude()
        offset = grip - position
        if self._scene.simulation.holds(self.predicate):
            up = 0.0 if opening < 0.07 and self._hand.touches(self._joint.geoms) else 0.05
            return self._hand.move_to(
                position + np.array([0.0, 0.0, up]), OPEN, orientation=orientation
            )
        if is_held or (np.linalg.norm(offset) < 0.025 and turn < 0.3):
            return self._hand.move_to(grip, CLOSE, orientation=turned)
        error = max(0.0, float(np.linalg.norm(offset[:2])) - 0.012) + 0.05 * max(0.0, turn - 0.1)
        goal = way_to(self._scene, position, grip, error)
        return self._hand.move_to(goal, OPEN, orientation=turned)
