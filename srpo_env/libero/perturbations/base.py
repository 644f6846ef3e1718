"""What all perturbations have in common: their draw, their checks, and where they take effect."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from srpo_env.types import Array

if TYPE_CHECKING:
    from srpo_env.libero.perturbations.appearance import Appearance
    from srpo_env.libero.simulation import Simulation
    from srpo_env.libero.suites import Task

LEVELS = range(1, 6)
"""The levels of `Perturbation.from_level`."""

MAX_DRAW = 2**31
"""Draws are below it."""

Image = npt.NDArray[np.uint8]
"""An RGB image, ``(height, width, 3)``."""

AnyPerturbation = TypeVar("AnyPerturbation", bound="Perturbation")


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A change of an episode. Its fields are its size in physical units; ``draw`` decides the rest.

    The default of each method changes nothing.
    """

    draw: int | None = None
    """Seed of everything that the other fields leave open, such as a direction. None: another one
    at each reset, from the environment's generator."""

    dimension: ClassVar[str] = ""
    """Name, as in ``camera``."""

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: If one is out of its range.
        """
        if self.draw is not None:
            self._check_number("draw", 0, MAX_DRAW - 1, integer=True)
        self.check()

    def check(self) -> None:
        """Checks the fields of a subclass."""

    @classmethod
    def from_level(
        cls: type[AnyPerturbation], level: int, draw: int | None = None
    ) -> AnyPerturbation:
        """Returns the perturbation of a level, 1 (weakest) to 5.

        Raises:
            ValueError: If there is no such level.
        """
        return cls(draw=draw, **cls.fields_of_level(check_level(level)))

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns the fields of a level, without the draw."""
        raise NotImplementedError

    def resolved(self: AnyPerturbation, rng: np.random.Generator) -> AnyPerturbation:
        """Returns the perturbation with a draw: its own, or one from ``rng``."""
        if self.draw is not None:
            return self
        return dataclasses.replace(self, draw=int(rng.integers(MAX_DRAW)))

    def generator(self, *more: int) -> np.random.Generator:
        """Returns a generator of random numbers that depends on nothing but the draw and ``more``.

        It differs between dimensions, so that equal draws of two dimensions are independent.
        """
        if self.draw is None:
            raise ValueError("the perturbation has no draw yet: call `resolved` first")
        return np.random.default_rng([zlib.crc32(self.dimension.encode()), self.draw, *more])

    # --- Where it takes effect --------------------------------------------------------------------

    def task(self, task: Task) -> Task:
        """Returns the task to compile."""
        return task

    def instruction(self, task: Task, instruction: str) -> str:
        """Returns the policy's instruction."""
        return instruction

    def start(self, simulation: Simulation) -> None:
        """Changes the initial state, before the objects settle."""

    def appearance(self, simulation: Simulation) -> Appearance | None:
        """Returns what images show in another way."""
        return None

    def image_filter(self, camera: str, size: int) -> Callable[[Image], Image] | None:
        """Returns a function of each image of a camera, ``size`` pixels wide; None: no change."""
        return None

    def recorded_filter(self, size: int) -> Callable[[Image], Image]:
        """Returns a function that changes recorded images of the third-person camera.

        Args:
            size: Width and height of the images in pixels.

        Raises:
            ValueError: If the perturbation needs the simulator.
        """
        image_filter = self.image_filter("agentview", size)
        if image_filter is None:
            raise ValueError(f"{self} cannot be applied to recorded images: it needs the simulator")
        return image_filter

    @property
    def changes_start(self) -> bool:
        """Whether `start` does something, so that the initial state is settled again."""
        return type(self).start is not Perturbation.start

    # --- Checks -----------------------------------------------------------------------------------

    def _check_number(self, name: str, low: float, high: float, *, integer: bool = False) -> None:
        """Checks a field, and makes its type that of its annotation, so that equal values are."""
        value = getattr(self, name)
        kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # NaN is in no range
            kind = "an integer in " if integer else "in "
            raise ValueError(
                f"`{name}` of {type(self).__name__} must be {kind}{low:g}..{high:g}, got {value!r}"
            )
        object.__setattr__(self, name, int(value) if integer else float(value))

    def _check_numbers(self, name: str, count: int) -> None:
        """Checks a field of ``count`` finite numbers, and makes it a tuple of floats."""
        value = getattr(self, name)
        try:
            numbers = tuple(float(number) for number in value)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"`{name}` of {type(self).__name__} must be {count} numbers, got {value!r}"
            )
        object.__setattr__(self, name, numbers)


def check_level(level: Any) -> int:
    """Returns a level if there is such a one.

    Raises:
        ValueError: If there is not.
    """
    if isinstance(level, bool) or not isinstance(level, (int, np.integer)) or level not in LEVELS:
        raise ValueError(f"a level must be an integer in 1..{LEVELS[-1]}, got {level!r}")
    return int(level)


def unit_vector(rng: np.random.Generator, size: int) -> Array:
    """Draws a direction, uniformly on the sphere, shape ``(size,)``."""
    vector = rng.standard_normal(size)
    direction: Array = vector / np.linalg.norm(vector)
    return direction
