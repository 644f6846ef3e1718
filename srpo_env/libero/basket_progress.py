"""Progress of "pick up the X and place it in the basket", the ten tasks of libero_object."""

from __future__ import annotations

import numpy as np

from srpo_env.libero.experts.basket import CLEARANCE, LOW, PickAndPlaceExpert
from srpo_env.libero.experts.hand import FULL_OPENING
from srpo_env.libero.grasps import Shape
from srpo_env.libero.simulation import Simulation
from srpo_env.types import Floats

STAGES = ("reach", "grasp", "lift", "carry", "lower")
"""Stages of the task, in order; each is a fifth of the progress, and the last ends in success."""

AT_HAND = 0.01
"""Distance of the grip point from the object's bounding box, in metres, that counts as reached."""

CONTACT_MEMORY = 3
"""Number of control steps without contact for which an object still counts as held."""


class BasketProgress:
    """Measures the current progress in [0, 1] from positions and contacts; it can also decrease.

    The stages end at 0.2, 0.4, ...:

    * *reach*: the hand approaches the object; the share of the initial distance that is covered;
    * *grasp*: the hand is at the object and closes its fingers, until both touch the object;
    * *lift*: the share of the height at which the expert carries the object over the basket's rim;
    * *carry*: the share of the horizontal distance to the basket, multiplied by the share of the
      height;
    * *lower*: the share of the way down into the basket; ends in success.

    An object that is dropped returns progress to *reach*, unless it is above the basket's opening.
    """

    def __init__(self, simulation: Simulation) -> None:
        """Starts to measure an episode in the simulator's current state.

        Args:
            simulation: A task of libero_object.

        Raises:
            ValueError: If the task is not one of libero_object.
        """
        if simulation.task.suite != "libero_object":
            raise ValueError(
                f"this progress exists for the tasks of libero_object, got "
                f" {simulation.task.name} of {simulation.task.suite}"
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
        self._initial_distance = max(self._hand_distance(low, high), 2 * AT_HAND)
        self._initial_gap = max(self._opening_gap(low, high), 1e-3)
        self._steps_since_held = CONTACT_MEMORY + 1

    def measure(self) -> float:
        """Returns the current progress; call it once per control step."""
        if self._simulation.is_success():
            return 1.0
        low, high = self._box(self._shape)
        # Contacts can vanish for a moment while the fingers move. A lost object stays lost.
        self._steps_since_held = 0 if self._is_held() else self._steps_since_held + 1
        rim = self._box(self._basket)[1][2]
        top = rim + CLEARANCE
        gap = self._opening_gap(low, high)
        if gap == 0.0 and low[2] < top:
            return 0.8 + 0.2 * _share(top - low[2], top - LOW) * 0.99
        if self._steps_since_held <= CONTACT_MEMORY:
            lifted = _share(low[2] - self._floor, top - self._floor)
            across = 1.0 - _share(gap, self._initial_gap)
            return 0.4 + 0.2 * lifted + 0.2 * across * lifted
        distance = self._hand_distance(low, high)
        if distance > AT_HAND:
            return 0.2 * (1.0 - _share(distance - AT_HAND, self._initial_distance - AT_HAND))
        fingers = self._data.qpos[7:9]
        opening = float(fingers[0] - fingers[1])
        if opening < self._width / 2:
            return 0.2  # the fingers have closed without the object
        return 0.2 + 0.2 * _share(FULL_OPENING - opening, FULL_OPENING - self._width) * 0.99

    # --- Geometry ---------------------------------------------------------------------------------

    @staticmethod
    def _box(shape: Shape) -> tuple[Floats, Floats]:
        """Returns a shape's minimum and maximum coordinates in metres, each of shape ``(3,)``."""
        corners = shape.corners().reshape(-1, 3)
        return corners.min(axis=0), corners.max(axis=0)

    def _hand_distance(self, low: Floats, high: Floats) -> float:
        """Returns the distance of the grip point from the object's box in metres; 0 inside."""
        grip = self._simulation.grip_position
        return float(np.linalg.norm(np.maximum(0.0, np.maximum(low - grip, grip - high))))

    def _opening_gap(self, low: Floats, high: Floats) -> float:
        """Returns the horizontal distance of the object from the basket's inside, in metres.

        The inside is the middle half of the basket's width, whatever the thickness of its walls.
        """
        basket_low, basket_high = self._box(self._basket)
        center, basket_center = (low + high)[:2] / 2, (basket_low + basket_high)[:2] / 2
        half = (basket_high - basket_low)[:2] / 4
        return float(np.linalg.norm(np.maximum(0.0, np.abs(center - basket_center) - half)))


def _share(part: float, whole: float) -> float:
    return float(np.clip(part / whole, 0.0, 1.0))
