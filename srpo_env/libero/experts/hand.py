"""Reads and moves the robot's hand; shared by all skills."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from srpo_env.libero.grasps import Shape
from srpo_env.libero.simulation import Simulation
from srpo_env.types import Floats

Ints = npt.NDArray[np.signedinteger[Any]]

POSITION_SCALE = 0.05
"""Metres per unit of action. Source: robosuite's OSC_POSE defaults."""
ROTATION_SCALE = 0.5
"""Radians per unit of action. Source: robosuite's OSC_POSE defaults."""

GAIN = 2.0
"""Gain of the proportional control; above 1, because the arm covers only part of a requested
motion in one control step."""
FULL_OPENING = 0.076
"""Distance between the pads of the open fingers in metres."""
FINGER_TIP = 0.013
"""How far the fingers reach below the grip point, in metres."""

OPEN, CLOSE = -1.0, 1.0
HALT = 0.0
"""Gripper command that keeps the fingers where they are; robosuite uses only the sign."""

SHOULDER_HEIGHT = 0.333
"""Height of the Panda's shoulder above its base in metres. Source: Franka Emika's DH parameters."""
WRIST_OFFSET = 0.088
"""Horizontal distance between wrist and flange of an upright hand in metres. Source: the same."""
FOREARM = 0.12
"""Distance of a point of the forearm from the wrist, in metres."""
REACH = 0.655
"""Distance between shoulder and wrist in metres up to which the elbow has some play; 0.7 at most.
"""
WRIST_MIDDLE = 0.1
"""Rotation of the upright hand, in radians, that decides between two rotations of the wrist."""
MAX_TILT = np.deg2rad(40)
"""Largest tilt of the hand in radians."""

DOWNWARD = Rotation.from_rotvec([np.pi, 0.0, 0.0])
"""Orientation of a hand that points down and whose fingers open along y."""


class Hand:
    """The gripper: where it is, what it touches, and the actions that move it."""

    def __init__(self, simulation: Simulation) -> None:
        """Finds the fingers; valid for all episodes of the simulation."""
        self._simulation, self._data = simulation, simulation.data
        self.fingers = [
            Shape(simulation.model, simulation.data, simulation.model.body(name).id).geoms
            for name in ("gripper0_leftfinger", "gripper0_rightfinger")
        ]
        """Geom ids of each finger."""
        model, data = simulation.model, simulation.data
        self._base = model.body("robot0_base").id
        wrist = data.xpos[model.body("robot0_link7").id]
        self._length = float(np.linalg.norm(wrist - simulation.grip_position))

    def base(self) -> Floats:
        """Returns the position of the robot's base in metres, shape ``(3,)``."""
        position: Floats = self._data.xpos[self._base].copy()
        return position

    def azimuth(self, point: Floats) -> float:
        """Returns the direction from the base to a point, about the vertical, in radians."""
        x, y = (point - self._data.xpos[self._base])[:2]
        return float(np.arctan2(y, x))

    def tilt_for(self, point: Floats) -> float:
        """Returns by how much the hand must tilt outwards to reach a point, in radians.

        A hand that points straight down reaches points up to 0.75 m from the base. Beyond, the
        elbow is straight, and the arm stops before the point.
        """
        shoulder = self._shoulder()
        away, up = float(np.linalg.norm((point - shoulder)[:2])), float((point - shoulder)[2])
        tilts = np.linspace(0.0, MAX_TILT, 41)
        sin, cos = np.sin(tilts), np.cos(tilts)
        distance = np.hypot(
            away - self._length * sin - WRIST_OFFSET * cos,
            up + self._length * cos - WRIST_OFFSET * sin,
        )
        enough = np.flatnonzero(distance <= REACH)
        return float(tilts[enough[0] if len(enough) else np.argmin(distance)])

    def overreach(self, point: Floats, orientation: Rotation) -> float:
        """Returns how much too short the arm is for a hand at a point, in metres; 0 if it reaches.

        An arm that is stretched further cannot be drawn back on the same way.
        """
        wrist = self.wrist(point, orientation.apply([0.0, 0.0, 1.0]))[1]
        return max(0.0, float(np.linalg.norm(wrist - self._shoulder())) - REACH)

    def _shoulder(self) -> Floats:
        shoulder: Floats = self._data.xpos[self._base] + [0.0, 0.0, SHOULDER_HEIGHT]
        return shoulder

    def outward(self, point: Floats, yaw: float, tilt: float) -> Rotation:
        """Returns the orientation of a hand at a point that is tilted away from the base.

        Args:
            point: Where the hand is, in metres, shape ``(3,)``.
            yaw: Rotation about the vertical, relative to the direction from the base, in radians.
            tilt: Angle between hand and vertical in radians; fingers point away from the base.
        """
        azimuth = self.azimuth(point)
        tilted: Rotation = Rotation.from_euler("ZY", [azimuth, -tilt]) * upright(yaw)
        return tilted

    def wrist(self, point: Floats, forward: Floats) -> list[Floats]:
        """Returns where the wrist of a hand at a point is, in metres.

        Args:
            point: Where the hand is, in metres, shape ``(3,)``.
            forward: Where its fingers point, a unit vector of shape ``(3,)``.

        Returns:
            Three centers of the arm, each of shape ``(3,)``: behind the hand, the wrist towards the
            base, and the forearm above it.
        """
        flange = point - self._length * forward
        inward = (self.base() - flange) * [1.0, 1.0, 0.0]
        wrist = flange + WRIST_OFFSET * inward / np.linalg.norm(inward)
        to_shoulder = self._shoulder() - wrist
        forearm = wrist + FOREARM * to_shoulder / np.linalg.norm(to_shoulder)
        return [flange, wrist, forearm]

    def sense(self) -> tuple[Floats, Rotation, float]:
        """Returns position (m) and orientation of the hand, and the opening of its fingers (m)."""
        proprio = self._simulation.proprio().astype(np.float64)
        return proprio[:3], Rotation.from_rotvec(proprio[3:6]), float(proprio[6] - proprio[7])

    def holds(self, geoms: Ints) -> bool:
        """Returns whether both fingers touch one of the geoms."""
        return all(self._touched(geoms))

    def touches(self, geoms: Ints) -> bool:
        """Returns whether a finger touches one of the geoms."""
        return any(self._touched(geoms))

    def _touched(self, geoms: Ints) -> list[bool]:
        pairs = self._data.contact.geom  # (contacts, 2)
        others = pairs[:, ::-1][np.isin(pairs, geoms)]
        return [bool(np.isin(others, finger).any()) for finger in self.fingers]

    def move_to(
        self,
        goal: Floats,
        gripper: float,
        yaw: float | None = None,
        *,
        orientation: Rotation | None = None,
    ) -> Floats:
        """Returns the action that moves the hand towards a position.

        Args:
            goal: Target position of the grip point in metres, shape ``(3,)``.
            gripper: Positive closes, negative opens.
            yaw: Rotation of the upright hand about the vertical in radians; default: the current
                one.
            orientation: Orientation of the hand, if it is not upright.

        Returns:
            The action, shape ``(7,)``, in [-1, 1].
        """
        position, hand, _ = self.sense()
        if orientation is None:
            yaw = yaw_of(hand) if yaw is None else yaw
            orientation = upright(yaw)
        turn = (orientation * hand.inv()).as_rotvec()
        action = np.empty(7)
        action[:3] = limited(GAIN * (goal - position) / POSITION_SCALE)
        action[3:6] = limited(turn / ROTATION_SCALE, 0.5)
        action[6] = gripper
        return action

    def pointing(self, direction: Floats, opening: Floats) -> Rotation:
        """Returns the orientation of a hand that points in a direction.

        Of the two orientations with this axis of the fingers, it is the one that keeps the wrist
        nearer to the middle of its range.

        Args:
            direction: Where the fingers point, shape ``(3,)``.
            opening: The axis along which they open, shape ``(3,)``; made perpendicular to
                ``direction``.
        """
        z = direction / np.linalg.norm(direction)
        y = opening - (opening @ z) * z
        y = y / np.linalg.norm(y)
        turns = [Rotation.from_matrix(np.stack([np.cross(s * y, z), s * y, z], 1)) for s in (-1, 1)]
        middle = upright(WRIST_MIDDLE)
        return min(turns, key=lambda rotation: (rotation * middle.inv()).magnitude())


def upright(yaw: float) -> Rotation:
    """Returns the orientation of a hand that points down, rotated about the vertical (rad)."""
    rotation: Rotation = Rotation.from_euler("z", yaw) * DOWNWARD
    return rotation


def yaw_of(hand: Rotation) -> float:
    """Returns the rotation of a hand about the vertical in radians; 0 as at an episode's start."""
    x_axis = hand.apply([1.0, 0.0, 0.0])
    return float(np.arctan2(x_axis[1], x_axis[0]))


def limited(vector: Floats, limit: float = 1.0) -> Floats:
    """Scales a vector down so that no entry exceeds ``limit``."""
    return vector / max(1.0, float(np.abs(vector).max()) / limit)
