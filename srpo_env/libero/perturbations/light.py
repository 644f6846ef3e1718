"""Changes the lights of a scene: brightness, colour, direction, number, shadows."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from srpo_env.libero.perturbations.appearance import Appearance
from srpo_env.libero.perturbations.base import Image, Perturbation
from srpo_env.system.files import regular_file
from srpo_env.types import Floats

if TYPE_CHECKING:
    import mujoco

    from srpo_env.libero.simulation import Simulation

GAINS = (1.25, 1.5, 1.9, 2.4, 3.0)
"""Gains of the levels."""

MAX_TILT = 45.0
"""Beyond it, the cone of a light would not contain the scene any more."""


@dataclass(frozen=True, kw_only=True)
class Light(Perturbation):
    """Changes diffuse and specular light, its colour, its direction, and the number of lights."""

    gain: float = 1.0
    """Factor of the lights' diffuse and specular colours, 1 to 4; the draw decides whether they are
    multiplied or divided by it."""
    tint: float = 0.0
    """Maximum relative change of each colour in addition, 0 to 0.9; drawn."""
    tilt: float = 0.0
    """Angle in degrees by which each light's direction is turned, 0 to 45, towards a side that is
    drawn."""
    lights_off: int = 0
    """Number of lights that are off, which are drawn; at least one stays on."""
    shadows: bool = False
    """Whether the lights cast shadows, which LIBERO's do not. A software renderer needs several
    times as long for an image then."""
    scene: str | None = None
    """File of a scene (MJCF) whose lights are taken instead, by name; nothing is drawn then."""

    dimension: ClassVar[str] = "light"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("gain", 1, 4)
        self._check_number("tint", 0, 0.9)
        self._check_number("tilt", 0, MAX_TILT)
        self._check_number("lights_off", 0, 100, integer=True)
        if not isinstance(self.shadows, bool):
            raise ValueError(f"`shadows` of Light must be a bool, got {self.shadows!r}")
        drawn = (self.gain != 1, self.tint, self.tilt, self.lights_off, self.shadows)
        if self.scene is not None and any(drawn):
            raise ValueError("`scene` of Light has exact lights: leave out the other fields")

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns a gain of 1.25 to 3, a tint of 0.05 to 0.25, a tilt of 5 to 25 degrees.

        From level 4 on, one light is off.
        """
        return {
            "gain": GAINS[level - 1],
            "tint": 0.05 * level,
            "tilt": 5.0 * level,
            "lights_off": int(level >= 4),
        }

    def appearance(self, simulation: Simulation) -> Appearance:
        """Returns the new values of all lights.

        Raises:
            FileNotFoundError: If the scene is missing.
            ValueError: If it is not a scene.
        """
        if self.scene is not None:
            return Appearance(tuple(_lights_of(simulation.model, Path(self.scene))))
        rng = self.generator()
        colour = self._colour(rng)
        directions = simulation.original_field("light_dir")
        num_lights = len(directions)
        turned = np.array([_tilted(direction, self.tilt, rng) for direction in directions])
        values: list[tuple[str, Any, Any]] = [
            ("light_diffuse", ..., simulation.original_field("light_diffuse") * colour),
            ("light_specular", ..., simulation.original_field("light_specular") * colour),
            ("light_dir", ..., turned.reshape(directions.shape)),
        ]
        off = rng.permutation(num_lights)[: min(self.lights_off, num_lights - 1)]
        values.append(("light_active", off, False))
        if self.shadows:
            values.append(("light_castshadow", ..., True))
        return Appearance(tuple(values))

    def recorded_filter(self, size: int) -> Callable[[Image], Image]:
        """Returns a function that changes brightness and colour of recorded images.

        Raises:
            ValueError: If directions, the number of lights, or shadows change.
        """
        if self.tilt or self.lights_off or self.shadows:
            raise ValueError(
                f"of Light, only gain and tint can be applied to recorded images, got {self}"
            )
        colour = self._colour(self.generator())
        return lambda image: np.clip(np.rint(image * colour), 0, 255).astype(np.uint8)

    def _colour(self, rng: np.random.Generator) -> Floats:
        """Returns the factor of each colour, ``(3,)``."""
        gain = self.gain if rng.integers(2) else 1 / self.gain
        colour: Floats = gain * (1 + self.tint * rng.uniform(-1, 1, 3))
        return colour


def _lights_of(model: mujoco.MjModel, file: Path) -> Iterator[tuple[str, Any, Any]]:
    """Yields the values of the lights of a scene that the model has by the same name."""
    try:
        root = ET.parse(regular_file(file)).getroot()
    except ET.ParseError as error:
        raise ValueError(f"{file} must be a scene in MuJoCo's XML: {error}") from error
    own = {model.light(light).name: light for light in range(model.nlight)}
    for element in root.iter("light"):
        light = own.get(element.get("name", ""))
        if light is None:
            continue
        for name, size in (("diffuse", 3), ("specular", 3), ("dir", 3)):
            if name in element.keys():
                numbers = np.array(element.get(name, "").split(), dtype=float)
                if numbers.shape != (size,) or not np.isfinite(numbers).all():
                    raise ValueError(f"`{name}` of a light in {file} must be {size} numbers")
                if name == "dir":
                    numbers /= np.linalg.norm(numbers)
                yield f"light_{name}", light, numbers
        if "castshadow" in element.keys():
            yield "light_castshadow", light, element.get("castshadow") == "true"


def _tilted(direction: Floats, degrees: float, rng: np.random.Generator) -> Floats:
    """Turns a vector by an angle towards a random side."""
    from scipy.spatial.transform import Rotation

    side = np.cross(direction, rng.standard_normal(3))
    axis = side / np.linalg.norm(side)
    turned: Floats = Rotation.from_rotvec(np.radians(degrees) * axis).apply(direction)
    return turned
