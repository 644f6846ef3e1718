"""A scripted expert for "pick up the X and place it in the basket", the ten tasks of libero_object.

It reads the simulator's state and controls in closed loop. It stores no phase, only the planned
grasp, which moves with the object. So its action depends on the current state only, as a policy's
does, and after a missed grasp or a lost object it tries again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from srpo_env.libero.experts.hand import CLOSE, FULL_OPENING, OPEN, Hand, yaw_of
from srpo_env.libero.grasps import Grasp, Shape, plan_grasp
from srpo_env.libero.simulation import Simulation
from srpo_env.types import Floats

HOVER = 0.14
"""Height above the grasp, in metres, at which the hand moves to the object."""
FUNNEL_SLOPE = 4.0
"""Metres of height per metre of horizontal error: the hand descends inside a funnel."""
CLEARANCE = 0.03
"""Vertical distance between a carried object and the basket's rim, in metres."""
LOW = 0.05
"""Height above the floor, in metres, to which an object is lowered inside the basket."""


class PickAndPlaceExpert:
    """Puts an object into the task's basket; one action per call of `act`."""

    def __init__(
        self, simulation: Simulation, target: str | None = None, clearance: float = CLEARANCE
    ) -> None:
        """Reads names and geometry; valid for all episodes of the simulation.

        Args:
            simulation: A task of libero_object.
            target: Name of the object to take; default: the task's.
            clearance: Distance between the carried object and the basket's rim, in metres.

        Raises:
            ValueError: If the task is not one of libero_object, or has no such object.
        """
        task = simulation.task
        if task.suite != "libero_object":
            raise ValueError(
                f"the expert solves the tasks of libero_object, got {task.name} of {task.suite}"
            )
        self._simulation = simulation
        model, self._data = simulation.model, simulation.data
        bodies = simulation.objects
        task_object, basket = simulation.objects_of_interest
        target = task_object if target is None else target
        if target not in bodies or target == basket:
            raise ValueError(
                f"`target` must be one of {', '.join(sorted(set(bodies) - {basket}))}, "
                f"got {target!r}"
            )
        self._is_task_object, self._clearance = target == task_object, clearance
        self._body, self._basket_body = bodies[target], bodies[basket]
        self.shape = Shape(model, self._data, self._body)
        self._basket = Shape(model, self._data, self._basket_body)
        self._obstacles = [
            Shape(model, self._data, body) for name, body in bodies.items() if name != target
        ]
        self.hand = Hand(simulation)
        self._plan: tuple[Floats, Grasp] | None = None

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, hand, opening = self.hand.sense()
        if self._is_placed():
            return self.move_to(position, OPEN)
        if self.is_held():
            return self.move_to(self._carry(position), CLOSE)
        return self.move_to(*self._approach(position, hand, opening))

    def move_to(self, goal: Floats, gripper: float, yaw: float | None = None) -> Floats:
        """Returns the action that moves the upright hand towards a position; see `Hand.move_to`."""
        return self.hand.move_to(goal, gripper, yaw)

    def is_held(self) -> bool:
        """Returns whether both fingers touch the object."""
        return self.hand.holds(self.shape.geoms)

    def current_grasp(self) -> Grasp:
        """Returns the expert's grasp for the current position of the object."""
        # Planned again only when the object has moved far or has rotated, because plans for nearby
        # positions can differ, and the hand would oscillate. Otherwise the grasp moves along.
        positions = self._data.geom_xpos[self.shape.geoms].copy()
        if self._plan is None or np.abs(positions - self._plan[0]).max() > 0.02:
            self._plan = positions, plan_grasp(self.shape, self._obstacles)
        planned_positions, grasp = self._plan
        shift = (positions - planned_positions).mean(axis=0)
        return replace(grasp, position=grasp.position + shift)

    # --- Approach and carry ---------------------------------------------------------------------

    def _approach(
        self, position: Floats, hand: Rotation, opening: float
    ) -> tuple[Floats, float, float]:
        grasp = self.current_grasp()
        sideways = float(np.linalg.norm(grasp.position[:2] - position[:2]))
        above = position[2] - grasp.position[2]
        turn = abs(grasp.yaw - yaw_of(hand))
        # Closing fingers push the object a little. They should not open again because of that.
        reach = 0.015 if opening > 0.074 else 0.03
        if sideways < reach and abs(above) < reach and turn < 0.3:
            return grasp.position, CLOSE, grasp.yaw
        play = float(np.clip((FULL_OPENING - grasp.width) / 2 - 0.004, 0.004, 0.012))
        funnel = FUNNEL_SLOPE * (max(0.0, sideways - play) + 0.05 * max(0.0, turn - 0.1))
        # A hand that is down already corrects small errors there, without going up again.
        height = min(HOVER, funnel) if sideways > 0.025 else min(funnel, max(above, 0.0))
        return grasp.position + np.array([0.0, 0.0, height]), OPEN, grasp.yaw

    def _carry(self, position: Floats) -> Floats:
        """Returns the hand's target position with the object: up, across, down into the basket."""
        to_basket = self._data.xpos[self._basket_body][:2] - self._data.xpos[self._body][:2]
        distance = float(np.linalg.norm(to_basket))
        bottom = float(self.shape.corners()[..., 2].min())
        rim = float(self._basket.corners()[..., 2].max())
        height = min(rim + self._clearance, LOW + FUNNEL_SLOPE * max(0.0, distance - 0.01))
        # Up first: horizontal motion only as far as the object has risen above its neighbours.
        freedom = np.clip((bottom - 0.05) / 0.1, 0.0, 1.0) if distance > 0.05 else 1.0
        goal: Floats = position + np.array([*(freedom * to_basket), height - bottom])
        return goal

    # --- State ------------------------------------------------------------------------------------

    def _is_placed(self) -> bool:
        if self._is_task_object:
            return self._simulation.is_success()
        # LIBERO has no goal predicate for other objects than the task's.
        to_basket = self._data.xpos[self._basket_body][:2] - self._data.xpos[self._body][:2]
        bottom = float(self.shape.corners()[..., 2].min())
        return bool(np.linalg.norm(to_basket) < 0.05 and bottom < LOW + 0.01)
