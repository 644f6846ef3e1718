"""A scripted expert for "pick up the X and place it in the basket", the ten tasks of libero_object.

It reads the simulator's state and controls in closed loop. It stores no phase, only the planned
grasp, which moves with the object. So its action depends on the current state only, as a policy's
does, and after a missed grasp or a lost object it tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from srpo_env.libero.grasps import Grasp, Shape, plan_grasp
from srpo_env.libero.simulation import SETTLE_ACTION, Simulation
from srpo_env.libero.suites import MAX_STEPS
from srpo_env.types import Floats

POSITION_SCALE = 0.05
"""Metres per unit of action. Source: robosuite's OSC_POSE defaults."""
ROTATION_SCALE = 0.5
"""Radians per unit of action. Source: robosuite's OSC_POSE defaults."""

GAIN = 2.0
"""Gain of the proportional control; above 1, because the arm covers only part of a requested
motion in one control step."""
FULL_OPENING = 0.076
"""Distance between the pads of the open fingers in metres."""

OPEN, CLOSE = -1.0, 1.0

HOVER = 0.14
"""Height above the grasp, in metres, at which the hand moves to the object."""
FUNNEL_SLOPE = 4.0
"""Metres of height per metre of horizontal error: the hand descends inside a funnel."""
CLEARANCE = 0.03
"""Vertical distance between a carried object and the basket's rim, in metres."""
LOW = 0.05
"""Height above the floor, in metres, to which an object is lowered inside the basket."""

DOWNWARD = Rotation.from_rotvec([np.pi, 0.0, 0.0])


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
        self._fingers = [
            Shape(model, self._data, model.body(f"gripper0_{side}finger").id).geoms
            for side in ("left", "right")
        ]
        self._plan: tuple[Floats, Grasp] | None = None

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, hand, opening = self._sense()
        if self._is_placed():
            return self.move_to(position, OPEN)
        if self.is_held():
            return self.move_to(self._carry(position), CLOSE)
        return self.move_to(*self._approach(position, hand, opening))

    def move_to(self, goal: Floats, gripper: float, yaw: float | None = None) -> Floats:
        """Returns the action that moves the upright hand towards a position.

        Args:
            goal: Target position of the grip point in metres, shape ``(3,)``.
            gripper: Positive closes, negative opens.
            yaw: The hand's rotation about the vertical in radians; default: the current one.

        Returns:
            The action, shape ``(7,)``, in [-1, 1].
        """
        position, hand, _ = self._sense()
        yaw = self._yaw_of(hand) if yaw is None else yaw
        turn = (Rotation.from_euler("z", yaw) * DOWNWARD * hand.inv()).as_rotvec()
        action = np.empty(7)
        action[:3] = _limited(GAIN * (goal - position) / POSITION_SCALE)
        action[3:6] = _limited(turn / ROTATION_SCALE, 0.5)
        action[6] = gripper
        return action

    def is_held(self) -> bool:
        """Returns whether both fingers touch the object."""
        pairs = self._data.contact.geom  # (contacts, 2)
        is_object = np.isin(pairs, self.shape.geoms)
        others = pairs[:, ::-1][is_object]
        return all(np.isin(others, finger).any() for finger in self._fingers)

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
        turn = abs(grasp.yaw - self._yaw_of(hand))
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

    def _sense(self) -> tuple[Floats, Rotation, float]:
        """Returns position (m) and orientation of the hand, and the opening of its fingers (m)."""
        proprio = self._simulation.proprio().astype(np.float64)
        return proprio[:3], Rotation.from_rotvec(proprio[3:6]), float(proprio[6] - proprio[7])

    def _is_placed(self) -> bool:
        if self._is_task_object:
            return self._simulation.is_success()
        # LIBERO has no goal predicate for other objects than the task's.
        to_basket = self._data.xpos[self._basket_body][:2] - self._data.xpos[self._body][:2]
        bottom = float(self.shape.corners()[..., 2].min())
        return bool(np.linalg.norm(to_basket) < 0.05 and bottom < LOW + 0.01)

    @staticmethod
    def _yaw_of(hand: Rotation) -> float:
        x_axis = hand.apply([1.0, 0.0, 0.0])
        return float(np.arctan2(x_axis[1], x_axis[0]))


def _limited(vector: Floats, limit: float = 1.0) -> Floats:
    """Scales a vector down so that no entry exceeds ``limit``."""
    return vector / max(1.0, float(np.abs(vector).max()) / limit)


@dataclass(frozen=True)
class Attempt:
    """One episode of the expert."""

    success: bool
    actions: Floats
    """The expert's actions, shape ``(num_steps, 7)``, in [-1, 1]."""
    executed_actions: Floats
    """The same actions with noise, as they were executed."""


def run_expert(
    simulation: Simulation,
    init_state_id: int,
    *,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    settle_steps: int = 10,
    observe: Callable[[], None] | None = None,
) -> Attempt:
    """Plays one episode up to success or the suite's limit of control steps, without rendering.

    Args:
        simulation: A task of libero_object.
        init_state_id: Stored initial state of the task to start from.
        noise: Standard deviation of the Gaussian noise on each entry of the executed actions.
        rng: Random generator of the noise; required if there is noise.
        settle_steps: Control steps without motion before the expert starts.
        observe: Called before each action of the expert is executed.

    Raises:
        ValueError: If the task is not one of libero_object, there is no such initial state,
            ``noise`` is negative, or ``rng`` is missing.
    """
    expert = PickAndPlaceExpert(simulation)
    states = simulation.task.init_states()
    if not 0 <= init_state_id < len(states):
        raise ValueError(f"`init_state_id` must be in 0..{len(states) - 1}, got {init_state_id}")
    if not noise >= 0:
        raise ValueError(f"`noise` must be at least 0, got {noise}")
    if noise > 0 and rng is None:
        raise ValueError(f"`rng` must be given to draw noise (`noise` is {noise}), got None")
    simulation.reset(states[init_state_id])
    for _ in range(settle_steps):
        simulation.step(SETTLE_ACTION)

    actions: list[Floats] = []
    executed: list[Floats] = []
    success = False
    while not success and len(actions) < MAX_STEPS[simulation.task.suite]:
        if observe is not None:
            observe()
        actions.append(expert.act())
        disturbance = noise * rng.standard_normal(7) if rng is not None else np.zeros(7)
        executed.append(np.clip(actions[-1] + disturbance, -1.0, 1.0))
        success = simulation.step(executed[-1])
    return Attempt(success, np.array(actions), np.array(executed))
