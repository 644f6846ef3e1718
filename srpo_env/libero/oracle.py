"""How far an episode of "pick up the X and place it in the basket" really is, by the simulator.

The truth that rewards made from videos are judged by, and no part of them; `--reward truth` of the
agent pays by it, to show the most that a video could do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from srpo_env.libero.experts import CLEARANCE, FULL_OPENING, LOW, PickAndPlaceExpert
from srpo_env.libero.grasps import Shape
from srpo_env.libero.simulation import Simulation

Floats = npt.NDArray[np.float64]

STAGES = ("reach", "grasp", "lift", "carry", "lower")
"""In order; progress through each counts alike, and the end of the last is success"""

AT_HAND = 0.01
"""Distance of the grip point from the object's box, in metres, at which it counts as reached"""

CONTACT_MEMORY = 3
"""control steps for which an object still counts as held when no contact is seen"""


class TrueProgress:
    """Measures progress in [0, 1] from positions and contacts: what is so now, not what once was.

    Stages end at 0.2, 0.4, ...:

    * *reach*: the hand nears the object; the share of its first distance that it has covered;
    * *grasp*: it is there and closes its fingers, until both press on the object;
    * *lift*: the share of the way up to where the expert carries it over the basket's rim;
    * *carry*: the share of the way across to above the basket; while the object is not up yet,
      as much less as is missing of that height;
    * *lower*: the share of the way down into the basket, with success as its end.

    An object that is lost falls back to *reach*, unless it lies in the basket's mouth.
    """

    def __init__(self, simulation: Simulation) -> None:
        """Begins an episode of a task of libero_object, in the state that the simulator is in.

        Raises:
            ValueError: If the task is not one of libero_object.
        """
        if simulation.task.suite != "libero_object":
            raise ValueError(
                "true progress is known for the tasks of libero_object, "
                f"got {simulation.task.name} of {simulation.task.suite}"
            )
        self._simulation = simulation
        model, self._data = simulation.model, simulation.data
        bodies = simulation.objects
        target, basket = simulation.objects_of_interest
        self._shape = Shape(model, self._data, bodies[target])
        self._basket = Shape(model, self._data, bodies[basket])
        self._is_held = PickAndPlaceExpert(simulation).is_held
        low, high = self._box(self._shape)
        self._width = float((high - low)[:2].min())
        self._floor = low[2]
        self._first_distance = max(self._distance_of_hand(low, high), 2 * AT_HAND)
        self._first_gap = max(self._gap_to_mouth(low, high), 1e-3)
        self._steps_since_held = CONTACT_MEMORY + 1

    def measure(self) -> float:
        """Progress now; call it once per control step."""
        if self._simulation.is_success():
            return 1.0
        low, high = self._box(self._shape)
        # Contacts blink while fingers give way; a hand that lost its object stays without.
        self._steps_since_held = 0 if self._is_held() else self._steps_since_held + 1
        rim = self._box(self._basket)[1][2]
        top = rim + CLEARANCE
        gap = self._gap_to_mouth(low, high)
        if gap == 0.0 and low[2] < top:
            return 0.8 + 0.2 * _share(top - low[2], top - LOW) * 0.99
        if self._steps_since_held <= CONTACT_MEMORY:
            lifted = _share(low[2] - self._floor, top - self._floor)
            across = 1.0 - _share(gap, self._first_gap)
            return 0.4 + 0.2 * lifted + 0.2 * across * lifted
        distance = self._distance_of_hand(low, high)
        if distance > AT_HAND:
            return 0.2 * (1.0 - _share(distance - AT_HAND, self._first_distance - AT_HAND))
        fingers = self._data.qpos[7:9]
        opening = float(fingers[0] - fingers[1])
        if opening < self._width / 2:
            return 0.2  # closed on nothing
        return 0.2 + 0.2 * _share(FULL_OPENING - opening, FULL_OPENING - self._width) * 0.99

    # --- What the state says ----------------------------------------------------------------------

    @staticmethod
    def _box(shape: Shape) -> tuple[Floats, Floats]:
        """Least and greatest coordinates of a shape, in metres, each of shape ``(3,)``."""
        corners = shape.corners().reshape(-1, 3)
        return corners.min(axis=0), corners.max(axis=0)

    def _distance_of_hand(self, low: Floats, high: Floats) -> float:
        """From the grip point to the object's box, in metres; 0 inside."""
        grip = self._simulation.grip_position
        return float(np.linalg.norm(np.maximum(0.0, np.maximum(low - grip, grip - high))))

    def _gap_to_mouth(self, low: Floats, high: Floats) -> float:
        """How far the object's middle is sideways from above the basket's inside, in metres."""
        basket_low, basket_high = self._box(self._basket)
        middle, mouth = (low + high)[:2] / 2, (basket_low + basket_high)[:2] / 2
        # Half of the basket's outer half width: above its inside, whatever its walls' thickness.
        half = (basket_high - basket_low)[:2] / 4
        return float(np.linalg.norm(np.maximum(0.0, np.abs(middle - mouth) - half)))


def _share(part: float, whole: float) -> float:
    return float(np.clip(part / whole, 0.0, 1.0))
