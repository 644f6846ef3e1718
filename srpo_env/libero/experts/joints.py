"""Drawers, doors and knobs: where their handles are, and which way they move."""

from __future__ import annotations

import mujoco
import numpy as np

from srpo_env.libero.experts.hand import FINGER_TIP
from srpo_env.libero.experts.scene import Scene
from srpo_env.types import Floats


class Joint:
    """The joint of a drawer, a door or a knob, and the handle that it moves."""

    def __init__(self, scene: Scene, name: str) -> None:
        """Finds the joint.

        Args:
            scene: Positions of objects and fixtures.
            name: Name of a region of a cabinet, or of a fixture with one joint.
        """
        self._data = scene.data
        model = scene.model
        self.joint = scene.simulation.joint_of(name)
        self.body = int(model.jnt_bodyid[self.joint])
        self._address = int(model.jnt_qposadr[self.joint])
        self.is_hinge = model.jnt_type[self.joint] == mujoco.mjtJoint.mjJNT_HINGE
        low, high = model.jnt_range[self.joint]
        # Joints of LIBERO's fixtures are at 0 when they are closed.
        self._open_sign = -1.0 if abs(low) > abs(high) else 1.0
        self._limit = float(max(abs(low), abs(high)))
        collides = (model.geom_contype | model.geom_conaffinity) != 0
        self.geoms = np.flatnonzero((model.geom_bodyid == self.body) & collides)
        self._model = model
        self.handle_geoms = self.geoms[[int(np.argmax(self._extents()))]]

    @property
    def position(self) -> float:
        """The joint's position in metres or radians."""
        return float(self._data.qpos[self._address])

    def is_wide_open(self) -> bool:
        """Returns whether the joint is near its end, where it stays beyond LIBERO's threshold."""
        return self._open_sign * self.position > 0.91 * self._limit

    def is_at_end(self) -> bool:
        """Returns whether the joint hardly opens any further."""
        return self._open_sign * self.position > 0.97 * self._limit

    def handle(self) -> Floats:
        """Returns the center of the handle in metres, shape ``(3,)``."""
        point: Floats = self._data.geom_xpos[self.handle_geoms].mean(axis=0)
        return point

    def opening(self) -> Floats:
        """Returns the unit vector in which the handle moves when it opens, shape ``(3,)``."""
        axis = self._open_sign * self._data.xaxis[self.joint]
        if not self.is_hinge:
            slide: Floats = axis
            return slide
        motion = np.cross(axis, self.handle() - self._data.xanchor[self.joint])
        unit: Floats = motion / np.linalg.norm(motion)
        return unit

    def push_point(self) -> Floats:
        """Returns where the fingertips push the handle, in metres, shape ``(3,)``."""
        point = self.handle()
        if self.is_hinge:
            # Near the upper end of an upright handle, because the hand is above the fingers.
            geom = self.handle_geoms[0]
            point[2] += float(self._model.geom_aabb[geom, 3:].max()) - 0.045
        return point

    def ridge(self) -> tuple[Floats, Floats]:
        """Returns where the fingers take a knob, and the axis along which they open.

        A knob has a ridge across its axis: its uppermost geom. Fingers are 2 cm wide.

        Returns:
            The grip point in metres, and a horizontal unit vector, each of shape ``(3,)``.
        """
        top = self._data.geom_xpos[self.geoms][:, 2] + self._heights()
        ridge = self.geoms[int(np.argmax(top))]
        half, matrix = self._model.geom_aabb[ridge, 3:], self._data.geom_xmat[ridge].reshape(3, 3)
        horizontal = [axis for axis in range(3) if abs(matrix[2, axis]) < 0.7]
        narrow = min(horizontal, key=lambda axis: half[axis])
        point = self._data.xanchor[self.joint].copy()
        point[2] = float(top.max()) - FINGER_TIP
        axis: Floats = matrix[:, narrow]
        return point, axis if axis[1] > 0 else -axis

    def _heights(self) -> Floats:
        """Returns half of the height of each geom, in metres."""
        matrices = np.abs(self._data.geom_xmat[self.geoms].reshape(-1, 3, 3))
        heights: Floats = np.einsum(
            "gj,gj->g", matrices[:, 2], self._model.geom_aabb[self.geoms, 3:]
        )
        return heights

    def _extents(self) -> Floats:
        """Returns how far each geom reaches out in the direction of opening, in metres."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        position = self._data.geom_xpos[self.geoms]
        if not self.is_hinge:
            along: Floats = position @ (self._open_sign * self._data.xaxis[self.joint])
            return along
        # The handle of a door is far from the hinge, and does not lie in the door's plane.
        radius = position - self._data.xanchor[self.joint]
        distance: Floats = np.linalg.norm(radius[:, :2], axis=1)
        return distance
