"""Where objects go: the places of the goal predicates ``on`` and ``in``."""

from __future__ import annotations

from itertools import product
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from srpo_env.libero.experts.scene import Scene
from srpo_env.libero.grasps import overlap
from srpo_env.types import Floats

PRESS = 0.003
"""Depth below a surface to which an object is lowered, in metres, so that it touches it."""
DROP = 0.05
"""Height above a container's floor, in metres, from which an object falls into it."""
BELOW_TOP = 0.005
"""Distance of an object's origin from a region's top, in metres, at which it is in the region."""
SPILL = 0.01
"""Distance in metres by which an object may be beyond a region's edge while it falls into it."""
SHARES = [0.0, *(sign * share for share in np.linspace(0.05, 1.0, 20) for sign in (-1.0, 1.0))]
"""Shifts along an axis of a region to choose from, relative to the room that the object has."""
GAP = 0.002
"""Horizontal distance from what hangs over a region, in metres."""

NARROW = 0.04
"""Half of the width of a compartment, in metres, up to which a book must be parallel to it."""


class Place(Protocol):
    """Where an object goes."""

    def position(self) -> Floats:
        """Returns x, y of the object's origin and the height of its lower side in m, ``(3,)``."""
        ...

    def headroom(self) -> float:
        """Returns how far above `position` the hand may let go of the object, in metres."""
        ...

    def orientation(self, current: Rotation) -> Rotation | None:
        """Returns the object's orientation there; None if it is free, as for a bowl."""
        ...

    def opening(self) -> Floats | None:
        """Returns the axis along which the fingers should open in the grasp; None for any."""
        ...


class OnObject:
    """On another object: with the same origin, seen from above."""

    def __init__(self, scene: Scene, support: str) -> None:
        """Stores the name of the support."""
        self._scene, self._support = scene, support

    def position(self) -> Floats:
        """See `Place`."""
        origin = self._scene.origin(self._support)
        return np.array([*origin[:2], self._scene.surface(self._support, origin) - PRESS])

    def headroom(self) -> float:
        """See `Place`."""
        return 0.0

    def orientation(self, current: Rotation) -> Rotation | None:
        """See `Place`."""
        return None

    def opening(self) -> Floats | None:
        """See `Place`."""
        return None


class Region:
    """On or in a region of a fixture, of a container, or of the table."""

    def __init__(
        self, scene: Scene, region: str, name: str, *, inside: bool, slot: float = 0.0
    ) -> None:
        """Stores the region.

        Args:
            scene: Positions of objects and fixtures.
            region: Name of the region.
            name: Name of the object that goes there.
            inside: Whether the object goes into the region, not only onto it.
            slot: Distance from the region's center along x in metres, for one of several objects.
        """
        self._scene, self._name, self._inside, self._slot = scene, name, inside, slot
        self._owner = scene.simulation.fixture_of(region)
        self._site = scene.model.site(region).id

    def position(self) -> Floats:
        """See `Place`."""
        half, center = self._half_extents(), self._center()
        if self._is_inclined():
            # Beside the middle, where a rack has a post, and above the lip at its lower end.
            center = center + [0.5 * half[0], 0.0, 0.0] + 0.04 * self._matrix()[:, 2]
            return np.array(center - [0.0, 0.0, 0.02])
        if self._inside:
            aside = self._aside()[0]
            return np.array([*(center[:2] + aside), center[2] - half[2] + DROP])
        if self._owner in self._scene.shapes:
            return np.array([*center[:2], self._scene.surface(self._owner, center) - PRESS])
        return np.array([*center[:2], self._scene.ground() - PRESS])

    def headroom(self) -> float:
        """See `Place`; the object is in the region already when the hand lets go of it."""
        if not self._inside:
            return 0.0
        top = self._scene.data.site_xpos[self._site][2] + self._half_extents()[2]
        low = self._scene.box(self._name)[0][2]
        rise = self._scene.origin(self._name)[2] - low
        return max(0.0, float(top - BELOW_TOP - rise - self.position()[2]))

    def fits(self) -> bool:
        """Returns whether the object passes by what hangs over the region and by its edge."""
        return self._aside()[1] == 0.0

    def edge(self, direction: Floats) -> Floats:
        """Returns the middle of the region's edge in a horizontal direction, in metres, ``(3,)``.

        Args:
            direction: A unit vector along x or y, shape ``(3,)``.
        """
        center = self._scene.data.site_xpos[self._site]
        edge: Floats = center + np.abs(direction) @ self._half_extents() * direction
        return edge

    def _aside(self) -> tuple[Floats, float]:
        """Returns a shift of the object, along x and y, and the room that it lacks even so (m).

        With the shift, the object passes by what hangs over the region. For example, the handles
        of the drawers above hang over the rear of an open drawer.
        """
        center, half = self._center(), self._half_extents()
        corners = np.concatenate([shape.corners() for shape in self._scene.others(self._name)])
        above = corners[corners[..., 2].min(axis=1) > center[2] + half[2]]
        low, high = self._scene.box(self._name)
        size = (high - low)[:2] / 2
        middle = center[:2] + (low + high)[:2] / 2 - self._scene.origin(self._name)[:2]
        room = np.maximum(0.0, half[:2] - size)
        best, least = np.zeros(2), np.inf
        for share, axis in product(SHARES, np.eye(2)):  # small shifts first
            shift = share * (room + SPILL) * axis
            missing = float(np.maximum(0.0, np.abs(shift) - room).sum())
            missing += 10.0 * overlap(above, np.eye(2), middle + shift, size + GAP, -np.inf)
            if missing < least:
                best, least = shift, missing
            if least == 0.0:
                break
        return best, least

    def orientation(self, current: Rotation) -> Rotation | None:
        """See `Place`; objects lie on inclined regions, their upper end up the slope."""
        if self._inside:
            return self._parallel(current)
        if not self._is_inclined():
            return None
        # Not as flat as it will lie, so that the hand stays above what is beside the region.
        upper_end = self._matrix()[:, 2] + [0.0, 0.0, 0.4]
        return _aligned(current, current.apply([0.0, 0.0, 1.0]), upper_end)

    def opening(self) -> Floats | None:
        """See `Place`; with this axis, the fingers are beside an object that lies down."""
        axis: Floats = self._matrix()[:, 0]
        return axis if self._is_inclined() else None

    def _center(self) -> Floats:
        """Returns the middle of the region, or of the object's part of it, in metres."""
        half, slot = self._half_extents(), self._slot
        if self._inside:
            low, high = self._scene.box(self._name)
            room = max(0.0, float(half[0] - (high - low)[:2].max() / 2))
            slot = float(np.clip(slot, -room, room))
        center: Floats = self._scene.data.site_xpos[self._site] + [slot, 0.0, 0.0]
        return center

    def _is_inclined(self) -> bool:
        return bool(not self._inside and abs(self._matrix()[2, 2]) < 0.9)

    def _matrix(self) -> Floats:
        matrix: Floats = self._scene.data.site_xmat[self._site].reshape(3, 3)
        return matrix

    def _parallel(self, current: Rotation) -> Rotation | None:
        """Returns the orientation of a book that is parallel to a narrow compartment."""
        half = self._half_extents()[:2]
        corners = self._scene.shapes[self._name].corners()[..., :2].reshape(-1, 2)
        variances, axes = np.linalg.eigh(np.cov(corners.T))
        if half.min() > NARROW or variances[1] < 4 * variances[0]:
            return None
        length = np.array([*axes[:, 1], 0.0])
        wanted = np.eye(3)[int(np.argmax(half))]
        return _aligned(current, length if length @ wanted > 0 else -length, wanted)

    def _half_extents(self) -> Floats:
        half: Floats = np.abs(self._matrix() @ self._scene.model.site_size[self._site])
        return half


def _aligned(current: Rotation, axis: Floats, wanted: Floats) -> Rotation:
    """Returns the orientation that is turned so that an axis points where it is wanted."""
    wanted = wanted / np.linalg.norm(wanted)
    normal, cosine = np.cross(axis, wanted), float(np.clip(axis @ wanted, -1.0, 1.0))
    length = float(np.linalg.norm(normal))
    turn = np.arccos(cosine) * normal / length if length > 1e-9 else np.zeros(3)
    aligned: Rotation = Rotation.from_rotvec(turn) * current
    return aligned
