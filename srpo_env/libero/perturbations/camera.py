"""Moves the third-person camera: around the scene, away from it, or in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from srpo_env.libero.perturbations.appearance import Appearance
from srpo_env.libero.perturbations.base import Image, Perturbation
from srpo_env.types import Floats

if TYPE_CHECKING:
    from srpo_env.libero.simulation import Simulation

View = tuple[float, float, float, float, float]
"""Azimuth and elevation (degrees), distance (factor), yaw and pitch (degrees)."""

PIVOT = np.array([0.0, 0.0, 0.8])
"""Point that distances and elevations refer to, in metres."""

ELEVATION = 15.0
"""Elevation in degrees of half of the orbits."""

SHARES = {"azimuth": 992, "distance": 313, "turn": 294}
"""Number of LIBERO-Plus's camera tasks of each kind."""

MAX_AZIMUTH, MAX_DISTANCE, MAX_TURN = 75.0, 2.0, 10.0

ORIENTATION = np.array([0.6182, 0.3432, 0.3432, 0.6182])
"""Orientation of libero_object's camera, w first."""

FIELD_OF_VIEW = 45.0
"""Vertical field of view of LIBERO's cameras in degrees."""

DISTANCES = (1.15, 1.35, 1.55, 1.8, 2.0)
"""Distances of the levels."""


@dataclass(frozen=True, kw_only=True)
class Camera(Perturbation):
    """Moves the camera of ``agentview``; the wrist camera and the field of view stay the same.

    If several of ``azimuth``, ``distance`` and ``turn`` are set, the draw selects one of them, as
    often as LIBERO-Plus does (62%, 20% and 18% of its camera tasks).

    >>> Camera(azimuth=30, draw=4).drawn_view()
    (-30.0, 0.0, 1.0, 0.0, 0.0)
    """

    azimuth: float = 0.0
    """Orbit about the vertical axis through the origin, in degrees, 0 to 75; the draw decides the
    side, and whether the camera also rises by 15 degrees."""
    distance: float = 1.0
    """Distance from the pivot (0, 0, 0.8), as a multiple of LIBERO's, 1 to 2."""
    turn: float = 0.0
    """Turn in place, in degrees, 0 to 10; the draw decides the direction, yaw or pitch or both."""
    view: View | None = None
    """An exact view instead; nothing is drawn then."""

    dimension: ClassVar[str] = "camera"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("azimuth", 0, MAX_AZIMUTH)
        self._check_number("distance", 1, MAX_DISTANCE)
        self._check_number("turn", 0, MAX_TURN)
        if self.view is not None:
            self._check_numbers("view", 5)
            if self._kinds():
                raise ValueError(
                    "`view` of Camera is an exact view: leave out azimuth, distance and turn"
                )

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns 15 to 75 degrees of orbit, 1.15 to 2 times the distance, 2 to 10 degrees."""
        return {"azimuth": 15.0 * level, "distance": DISTANCES[level - 1], "turn": 2.0 * level}

    def drawn_view(self) -> View:
        """Returns the view that the draw selects."""
        if self.view is not None:
            return self.view
        kinds = self._kinds()
        if not kinds:
            return (0.0, 0.0, 1.0, 0.0, 0.0)
        rng = self.generator()
        shares = np.array([SHARES[kind] for kind in kinds], dtype=float)
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        if kind == "azimuth":
            side, elevation = rng.choice([-1.0, 1.0]), rng.choice([0.0, ELEVATION])
            return (float(side) * self.azimuth, float(elevation), 1.0, 0.0, 0.0)
        if kind == "distance":
            return (0.0, 0.0, self.distance, 0.0, 0.0)
        # One of the eight neighbours of (0, 0).
        yaw, pitch = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y][rng.integers(8)]
        return (0.0, 0.0, 1.0, yaw * self.turn, pitch * self.turn)

    def appearance(self, simulation: Simulation) -> Appearance:
        """Returns the camera's new pose."""
        model = simulation.model
        camera = model.camera("agentview").id
        position, quaternion = moved(
            simulation.original_field("cam_pos")[camera],
            simulation.original_field("cam_quat")[camera],
            self.drawn_view(),
        )
        return Appearance((("cam_pos", camera, position), ("cam_quat", camera, quaternion)))

    def recorded_filter(self, size: int) -> Callable[[Image], Image]:
        """Returns a function that turns the camera of recorded images of libero_object.

        A camera that turns in place sees the same rays at other pixels. Where the image has none,
        the pixels at its edge are repeated.

        Raises:
            ValueError: If the camera would have to be elsewhere.
        """
        view = self.drawn_view()
        if view[:3] != (0.0, 0.0, 1.0):
            raise ValueError(f"of Camera, only turns can be applied to recorded images, got {self}")
        return turned_images(size, view)

    def _kinds(self) -> list[str]:
        sizes = {
            "azimuth": self.azimuth > 0,
            "distance": self.distance > 1,
            "turn": self.turn > 0,
        }
        return [kind for kind, is_set in sizes.items() if is_set]


def moved(position: Floats, quaternion: Floats, view: View) -> tuple[Floats, Floats]:
    """Moves a camera of the world.

    The order is LIBERO-Plus's: elevation about the axis y through the pivot, azimuth about the
    world's axis z, distance from the pivot, then yaw and pitch of the orientation alone, about the
    world's axes z and y. LIBERO-Plus rounds to four decimals after each; this does not.

    Args:
        position: Position in metres, ``(3,)``.
        quaternion: Orientation, w first, ``(4,)``.
        view: What to do.

    Returns:
        The new position and orientation.
    """
    from scipy.spatial.transform import Rotation

    azimuth, elevation, distance, yaw, pitch = view
    rise = Rotation.from_euler("y", -elevation, degrees=True)
    orbit = Rotation.from_euler("z", azimuth, degrees=True)
    place = orbit.apply(PIVOT + rise.apply(position - PIVOT))
    place = PIVOT + distance * (place - PIVOT)
    turn = Rotation.from_euler("y", -pitch, degrees=True) * Rotation.from_euler(
        "z", yaw, degrees=True
    )
    before = Rotation.from_quat(np.roll(quaternion, -1))
    orientation = np.roll((turn * orbit * rise * before).as_quat(), 1)
    return place, orientation


def turned_images(size: int, view: View) -> Callable[[Image], Image]:
    """Returns a function of the images of a camera at `ORIENTATION` that turns it in place.

    Args:
        size: Width and height of the images in pixels.
        view: Yaw and pitch, as of `moved`; the rest must be unchanged.
    """
    from scipy.ndimage import map_coordinates
    from scipy.spatial.transform import Rotation

    _, turned = moved(np.zeros(3), ORIENTATION, view)
    before, after = (Rotation.from_quat(np.roll(q, -1)) for q in (ORIENTATION, turned))
    # Rays of the new image's pixels, in the frame of the new camera, which looks along -z.
    half = np.tan(np.radians(FIELD_OF_VIEW / 2))
    at = (2 * (np.arange(size) + 0.5) / size - 1) * half
    rows, columns = np.meshgrid(-at, at, indexing="ij")
    rays = np.stack([columns, rows, -np.ones_like(rows)], axis=-1).reshape(-1, 3)
    rays = (before.inv() * after).apply(rays)
    places = np.stack([-rays[:, 1], rays[:, 0]]) / -rays[:, 2] / half
    pixels = (places.reshape(2, size, size) + 1) * size / 2 - 0.5

    def apply(image: Image) -> Image:
        channels = [
            map_coordinates(image[..., channel].astype(float), pixels, order=1, mode="nearest")
            for channel in range(3)
        ]
        turned: Image = np.rint(np.stack(channels, axis=-1)).clip(0, 255).astype(np.uint8)
        return turned

    return apply
