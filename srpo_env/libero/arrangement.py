"""Where the things of a task stand, what they touch, and where they can be put."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mujoco
import numpy as np

from srpo_env.types import Floats

RAY_HEIGHT = 0.15
"""Height in metres above the table from which the ground is searched: below the robot's hand."""

CLEARANCE = 0.002
"""Distance in metres above the ground at which an object is put down."""


class Arrangement:
    """The things of a task in the simulator's current state."""

    def __init__(self, env: Any, model: mujoco.MjModel, data: mujoco.MjData, hand: int) -> None:
        """Stores what the methods read.

        Args:
            env: LIBERO's environment.
            model: Its compiled model.
            data: The model's data.
            hand: Body of the robot's hand.
        """
        self._env, self._model, self._data, self._hand = env, model, data, hand

    @property
    def arm_touches(self) -> bool:
        """Whether the robot touches something other than itself."""
        robot = int(self._model.body_rootid[self._hand])
        roots = self._model.body_rootid[self._model.geom_bodyid[self._data.contact.geom]]
        is_robot = roots.reshape(-1, 2) == robot
        touches = is_robot.any(axis=1) & ~is_robot.all(axis=1) & (self._data.contact.dist < 0)
        return bool(touches.any())

    def overlaps(
        self, bodies: Iterable[int], depth: float, groups: Mapping[int, str] | None = None
    ) -> bool:
        """Returns whether things penetrate others, apart from the table or floor they stand on.

        Args:
            bodies: Bodies of things, whose contacts count.
            depth: Depth in metres that is none yet.
            groups: Names of groups by body: contacts within a group do not count.
        """
        model, moved, groups = self._model, set(bodies), groups or {}
        roots = model.body_rootid[model.geom_bodyid[self._data.contact.geom]].reshape(-1, 2)
        ground = self._ground_roots()
        for pair, distance in zip(roots.tolist(), self._data.contact.dist, strict=True):
            first, second = pair
            if distance >= -depth or first == second or not moved & set(pair):
                continue
            if ground & set(pair) or groups.get(first, first) == groups.get(second, second):
                continue
            return True
        return False

    def _ground_roots(self) -> set[int]:
        """Returns the bodies of the world that belong to no object, fixture or robot."""
        things = {*self._env.obj_body_id.values(), int(self._model.body_rootid[self._hand])}
        workspace = self._env.obj_body_id.get(self._env.workspace_name)
        return {*map(int, self._model.body_rootid)} - things | ({workspace} - {None})

    @property
    def supports(self) -> dict[str, str | None]:
        """The thing on or in which each thing is at the start; None: the table or the floor."""
        problem, env = self._env.parsed_problem, self._env
        things = {**env.objects_dict, **env.fixtures_dict}
        things.pop(env.workspace_name, None)
        supports: dict[str, str | None] = {}
        for predicate, *arguments in problem["initial_state"]:
            if predicate in ("on", "in"):
                thing, place = arguments
                below = problem["regions"].get(place, {}).get("target", place)
                supports[thing] = below if below in things else None
        return supports

    @property
    def workspace_centre(self) -> Floats:
        """Centre of the top of the table, or of the floor, in metres, shape ``(3,)``."""
        return np.array(self._env.workspace_offset, dtype=float)

    def radius_of(self, name: str) -> float:
        """Returns the radius of an object or fixture, seen from above, in metres."""
        return float(self._env.get_object(name).horizontal_radius)

    def height_above_ground(self, name: str, position: Floats) -> float:
        """Returns the height of an object's origin at which it lies on what is below it.

        Args:
            name: A movable object, in the orientation that it has now.
            position: Where it will be, in x and y, in metres.

        Raises:
            ValueError: If there is nothing below.
        """
        model, data, body = self._model, self._data, self._env.obj_body_id[name]
        own = np.flatnonzero(model.body_rootid[model.geom_bodyid] == model.body_rootid[body])
        # The lowest corner of the boxes around its geoms, relative to its origin.
        rotations = data.geom_xmat[own].reshape(-1, 3, 3)
        centres, halves = model.geom_aabb[own, :3], model.geom_aabb[own, 3:]
        middle = data.geom_xpos[own, 2] + np.einsum("gi,gi->g", rotations[:, 2], centres)
        lowest = (middle - np.einsum("gi,gi->g", np.abs(rotations[:, 2]), halves)).min()
        start = np.array([*position[:2], self.workspace_centre[2] + RAY_HEIGHT])
        down, hit = np.array([0.0, 0.0, -1.0]), np.zeros(1, np.int32)
        distance = mujoco.mj_ray(model, data, start, down, None, 1, body, hit)
        if distance < 0:
            raise ValueError(f"there must be a table or floor below {name!r}, got {position}")
        return float(start[2] - distance + data.xpos[body, 2] - lowest + CLEARANCE)
