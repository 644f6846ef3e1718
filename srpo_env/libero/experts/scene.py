"""Positions and sizes of what stands on a task's table or floor, from the simulator's state."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from srpo_env.libero.grasps import Shape
from srpo_env.libero.simulation import Simulation
from srpo_env.types import Floats


class Scene:
    """The objects and fixtures of a task."""

    def __init__(self, simulation: Simulation) -> None:
        """Finds the collision geometry; valid for all episodes of the simulation."""
        self.simulation = simulation
        self.model, self.data = simulation.model, simulation.data
        self.bodies = simulation.objects | simulation.fixture_bodies
        """Body ids of objects and fixtures by name, without tables and floors."""
        self.shapes = {
            name: Shape(self.model, self.data, body) for name, body in self.bodies.items()
        }
        robot = self.model.body("robot0_base").id
        root = self.model.body_rootid
        self._robot_geoms = np.flatnonzero(root[self.model.geom_bodyid] == root[robot])

    def origin(self, name: str) -> Floats:
        """Returns the position of an object's or fixture's origin in metres, shape ``(3,)``."""
        position: Floats = self.data.xpos[self.bodies[name]].copy()
        return position

    def box(self, name: str) -> tuple[Floats, Floats]:
        """Returns the minimum and maximum coordinates in metres, each of shape ``(3,)``."""
        corners = self.shapes[name].corners().reshape(-1, 3)
        return corners.min(axis=0), corners.max(axis=0)

    def height(self, name: str) -> float:
        """Returns the vertical extent of an object or fixture in metres."""
        low, high = self.box(name)
        return float(high[2] - low[2])

    def others(self, *names: str) -> list[Shape]:
        """Returns the shapes of all objects and fixtures except some."""
        return [shape for name, shape in self.shapes.items() if name not in names]

    def top_along(
        self, start: Floats, end: Floats, radius: float, *, without: Collection[str] = ()
    ) -> float:
        """Returns the height of what stands near a horizontal path, in metres; -inf if nothing.

        Args:
            start: One end of the path; only x and y are used.
            end: The other end.
            radius: Horizontal distance from the path in metres.
            without: Names of objects and fixtures that do not count.
        """
        corners = np.concatenate([shape.corners() for shape in self.others(*without)])
        low, high = corners.min(axis=1), corners.max(axis=1)  # (num_geoms, 3)
        count = 2 + int(np.linalg.norm(end[:2] - start[:2]) / 0.015)
        points = np.linspace(start[:2], end[:2], count)[:, None]  # (count, 1, 2)
        gap = np.maximum(0.0, np.maximum(low[:, :2] - points, points - high[:, :2]))
        near = (np.linalg.norm(gap, axis=2) < radius).any(axis=0)
        return float(high[near, 2].max(initial=-np.inf))

    def surface(self, name: str, point: Floats) -> float:
        """Returns the height of an object's upper side at a point, in metres.

        Args:
            name: The object or fixture; it must have geometry at the point.
            point: The point in metres; only x and y are used.
        """
        corners = self.shapes[name].corners()
        low, high = corners.min(axis=1), corners.max(axis=1)
        inside = ((low[:, :2] <= point[:2]) & (point[:2] <= high[:, :2])).all(axis=1)
        return float(high[inside, 2].max())

    def ground(self) -> float:
        """Returns the height of the table or floor in metres: where the lowest object stands."""
        return float(min(self.box(name)[0][2] for name in self.simulation.objects))

    def is_supported(self, name: str) -> bool:
        """Returns whether an object touches anything else than the robot."""
        geoms = self.shapes[name].geoms
        pairs = self.data.contact.geom
        others = pairs[:, ::-1][np.isin(pairs, geoms)]
        return bool((~np.isin(others, self._robot_geoms)).any())
