"""Picks up an object from above, by its body or by its rim, and puts it somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from srpo_env.libero.experts.hand import CLOSE, FINGER_TIP, FULL_OPENING, OPEN, Hand, yaw_of
from srpo_env.libero.experts.meters import CONTACT_MEMORY, PlaceMeter
from srpo_env.libero.experts.places import Place
from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.experts.travel import CLEARANCE, FUNNEL_SLOPE, way_to
from srpo_env.libero.grasps import (
    HAND,
    HAND_HEIGHT,
    MAX_WIDTH,
    Grasp,
    overlap,
    plan_grasp,
    top_within,
)
from srpo_env.libero.rim_grasps import plan_rim_grasp
from srpo_env.types import Floats


class PickPlace:
    """Brings an object to a place and lets go of it."""

    def __init__(self, scene: Scene, hand: Hand, predicate: Sequence[str], place: Place) -> None:
        """Initialises the skill; valid for all episodes of the simulation.

        Args:
            scene: Positions of objects and fixtures.
            hand: The hand.
            predicate: The goal predicate; its first argument is the object.
            place: Where the object goes.
        """
        self.predicate = tuple(predicate)
        self.name = self.predicate[1]
        self._scene, self._hand, self._place = scene, hand, place
        self._shape = scene.shapes[self.name]
        self._plan: tuple[Floats, Grasp] | None = None
        self._yaw = self._tilt = self._lean = 0.0
        self._steps_since_held = CONTACT_MEMORY + 1
        self._anchor = np.zeros(3)

    def done(self) -> bool:
        """Returns whether the object is at its place and the hand has left it."""
        return self._scene.simulation.holds(self.predicate) and self._is_clear()

    def prepared(self) -> bool:
        """Returns whether the predicate holds."""
        return self._scene.simulation.holds(self.predicate)

    def meter(self) -> PlaceMeter:
        """Returns a meter of the object's progress that starts in the current state."""
        return PlaceMeter(self._scene, self._hand, self.name, self._place.position)

    def act(self) -> Floats:
        """Returns the action for the simulator's current state, shape ``(7,)``, in [-1, 1]."""
        position, orientation, opening = self._hand.sense()
        was_held = self._steps_since_held <= CONTACT_MEMORY
        held = self._is_held()
        place = self._destination(position, orientation) if held else self._place.position()
        falls = held and self._would_fall(place)
        if self._scene.simulation.holds(self.predicate) and not falls:
            up = 0.0 if self._hand.touches(self._shape.geoms) and opening < 0.07 else 0.05
            return self._hand.move_to(
                position + np.array([0.0, 0.0, up]), OPEN, orientation=orientation
            )
        if held and self._rests_at(place):
            return self._hand.move_to(position, OPEN, orientation=orientation)
        if held and not was_held:
            # The fingers press for one step before they lift. From then on, the hand stays above
            # this point: an arm with its own position as its goal would drift.
            self._anchor = position
            turned = self._orientation(position)
            return self._hand.move_to(position, CLOSE, orientation=turned)
        if held:
            turned = self._carried(position, orientation)
            return self._hand.move_to(self._carry(position, place), CLOSE, orientation=turned)
        goal, gripper = self._approach(position, orientation, opening)
        turned = self._orientation(position)
        return self._hand.move_to(goal, gripper, orientation=turned)

    def _is_held(self) -> bool:
        # Contacts can vanish for a moment while the hand moves.
        touched = self._plan is not None and self._hand.holds(self._shape.geoms)
        self._steps_since_held = 0 if touched else self._steps_since_held + 1
        return self._steps_since_held <= CONTACT_MEMORY

    def _orientation(self, position: Floats) -> Rotation:
        outward = self._hand.outward(position, self._yaw, self._tilt)
        leaning: Rotation = outward * Rotation.from_euler("y", self._lean)
        return leaning

    def _destination(self, position: Floats, hand: Rotation) -> Floats:
        """Returns the place, raised as far as the hand must stay above a container's rim."""
        place, headroom = self._place.position(), self._place.headroom()
        if headroom > 0.0:
            yaw, offset = yaw_of(hand), position - self._scene.origin(self.name)
            axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
            corners = np.concatenate([s.corners() for s in self._scene.others(self.name)])
            rim = top_within(corners, axes, axes @ (place + offset)[:2], HAND)
            grip = position[2] - self._scene.box(self.name)[0][2]
            place[2] = np.clip(rim - HAND_HEIGHT - grip, place[2], place[2] + headroom)
        return place

    def _rests_at(self, place: Floats) -> bool:
        """Returns whether the object is at its goal, and only has to settle."""
        near = np.linalg.norm((self._scene.origin(self.name) - place)[:2]) < 0.02
        low = self._scene.box(self.name)[0][2] - place[2] < 0.05
        return bool(near and low and self._scene.is_supported(self.name))

    def _would_fall(self, place: Floats) -> bool:
        """Returns whether the object would fall from above its place if the hand opened."""
        above = self._scene.box(self.name)[0][2] - place[2]
        return bool(above > 0.03 and not self._scene.is_supported(self.name))

    def _is_clear(self) -> bool:
        """Returns whether the fingers are above the object, or beside it."""
        low, high = self._scene.box(self.name)
        position, _, opening = self._hand.sense()
        # Closed fingers that do not touch it are on their way to push something.
        if opening < 0.02 and not self._hand.touches(self._shape.geoms):
            return True
        beside = np.maximum(low - position, position - high)[:2].max() > 0.06
        return bool(beside or position[2] - FINGER_TIP > high[2] + 0.01)

    def current_grasp(self) -> Grasp:
        """Returns the grasp for the current position of the object."""
        # Planned again only when the object or anything else in the scene has moved far or has
        # rotated, because plans for nearby positions can differ, and the hand would oscillate.
        # Otherwise the grasp moves along.
        around = np.concatenate([shape.geoms for shape in self._scene.others(self.name)])
        positions = self._scene.data.geom_xpos[[*self._shape.geoms, *around]]
        if self._plan is None or np.abs(positions - self._plan[0]).max() > 0.02:
            self._plan = positions, self._planned()
        planned_positions, grasp = self._plan
        shift = (positions - planned_positions)[: len(self._shape.geoms)].mean(axis=0)
        return replace(grasp, position=grasp.position + shift)

    def _planned(self) -> Grasp:
        obstacles, origin = self._scene.others(self.name), self._scene.origin(self.name)
        low = self._scene.box(self.name)[0]
        azimuth = self._hand.azimuth(origin)
        opening = self._place.opening()
        if opening is not None:
            yaw = float(np.arctan2(-opening[0], opening[1]))
            azimuth = (yaw - azimuth + np.pi / 2) % np.pi - np.pi / 2 + azimuth
        grasp = plan_grasp(self._shape, obstacles, azimuth)
        if grasp.width > MAX_WIDTH:
            on_knob = plan_grasp(self._shape, obstacles, azimuth, on_knob=True)
            beside = plan_grasp(self._shape, obstacles, azimuth, beside=True)
            rim = plan_rim_grasp(self._shape, origin, obstacles, azimuth, self._obstruction)
            narrow = [other for other in (on_knob, beside) if other.width <= MAX_WIDTH]
            grasp = narrow[0] if narrow else rim or grasp
        # The arm keeps its tilt and its rotation relative to the direction from the base, so that
        # the object stays upright.
        self._lean = grasp.lean
        self._yaw = grasp.yaw - self._hand.azimuth(grasp.position)
        place = self._place.position() + np.array([0.0, 0.0, grasp.position[2] - low[2]])
        place[:2] += grasp.position[:2] - origin[:2]
        self._tilt = max(self._hand.tilt_for(grasp.position), self._hand.tilt_for(place))
        return grasp

    def _obstruction(self, grip: Floats, yaw: float, lean: float) -> float:
        """Returns by how much the arm is too short, or things are in the hand's way at the place.

        Args:
            grip: Position of the hand in metres, shape ``(3,)``.
            yaw: Its rotation about the vertical in radians.
            lean: Its rotation about the axis along which the fingers open, in radians.

        Returns:
            A sum of distances in metres.
        """
        hand, scene = self._hand, self._scene
        total = 0.0
        if lean:  # an upright hand can tilt outwards instead
            upright = hand.outward(grip, yaw - hand.azimuth(grip), 0.0)
            total += hand.overreach(grip, upright * Rotation.from_euler("y", lean))
        place = self._place.position() + grip - scene.origin(self.name)
        place[2] = self._place.position()[2] + grip[2] - scene.box(self.name)[0][2]
        yaw += hand.azimuth(place) - hand.azimuth(grip)
        axes = np.array([[-np.sin(yaw), np.cos(yaw)], [np.cos(yaw), np.sin(yaw)]])
        corners = np.concatenate([shape.corners() for shape in scene.others(self.name)])
        height = place[2] + HAND_HEIGHT
        return total + overlap(corners, axes, axes @ place[:2], HAND, height)

    # --- Approach and carry ---------------------------------------------------------------------

    def _approach(self, position: Floats, hand: Rotation, opening: float) -> tuple[Floats, float]:
        grasp = self.current_grasp()
        offset = grasp.position - position
        sideways = float(np.linalg.norm(offset[:2]))
        turn = (self._orientation(position) * hand.inv()).magnitude()
        # Closing fingers push the object a little. They should not open again because of that.
        reach, play_of_turn = (0.012, 0.22) if opening > 0.074 else (0.03, 0.3)
        if sideways < reach and abs(offset[2]) < reach and turn < play_of_turn:
            return grasp.position, CLOSE
        play = float(np.clip((FULL_OPENING - grasp.width) / 2 - 0.004, 0.004, 0.012))
        error = max(0.0, sideways - play) + 0.07 * max(0.0, turn - 0.1)
        return way_to(self._scene, position, grasp.position, error), OPEN

    def _carry(self, position: Floats, place: Floats) -> Floats:
        """Returns the hand's target position with the object: up, across, down."""
        low, high = self._scene.box(self.name)
        origin = self._scene.origin(self.name)
        offset = place[:2] - origin[:2]
        distance = float(np.linalg.norm(offset))
        radius = float(np.abs(np.concatenate([high - origin, origin - low])[[0, 1, 3, 4]]).max())
        top = self._scene.top_along(origin, place, radius + 0.015, without=[self.name])
        travel = max(top + CLEARANCE, place[2])
        funnel = place[2] + FUNNEL_SLOPE * max(0.0, distance - 0.008)
        freedom = np.clip((low[2] - top) / CLEARANCE, 0.0, 1.0) if distance > 0.03 else 1.0
        if freedom > 0.0:
            self._anchor = position
        rise = min(travel, funnel) - low[2]
        goal: Floats = np.array([*(self._anchor[:2] + freedom * offset), position[2] + rise])
        return goal

    def _carried(self, position: Floats, hand: Rotation) -> Rotation:
        """Returns the hand's orientation with the object."""
        now = Rotation.from_matrix(
            self._scene.data.xmat[self._scene.bodies[self.name]].reshape(3, 3)
        )
        wanted = self._place.orientation(now)
        if wanted is None:
            return self._orientation(position)
        turned: Rotation = wanted * now.inv() * hand
        return turned
