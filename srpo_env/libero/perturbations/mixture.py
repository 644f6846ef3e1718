"""Perturbations of one episode, as objects, as plain data, and as text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from srpo_env.libero.perturbations.background import Background
from srpo_env.libero.perturbations.base import Perturbation
from srpo_env.libero.perturbations.camera import Camera
from srpo_env.libero.perturbations.language import Language
from srpo_env.libero.perturbations.layout import Layout
from srpo_env.libero.perturbations.light import Light
from srpo_env.libero.perturbations.noise import Noise
from srpo_env.libero.perturbations.robot_state import RobotState

DIMENSIONS: dict[str, type[Perturbation]] = {
    kind.dimension: kind
    for kind in (Camera, RobotState, Language, Light, Background, Noise, Layout)
}
"""The seven dimensions of LIBERO-Plus, in the order of its tables."""

# The layout first: it starts the episode again from another state, and the arm is moved afterwards.
_ORDER = ["layout", *(name for name in DIMENSIONS if name != "layout")]

Mixture = tuple[Perturbation, ...]
"""At most one perturbation of each dimension."""

AnyMixture = Perturbation | Iterable[Any] | Mapping[str, Any] | str | None
"""What `as_mixture` accepts."""


def as_mixture(value: AnyMixture) -> Mixture:
    """Returns perturbations as a tuple, in a fixed order.

    Args:
        value: One perturbation, several, None, or what `as_data` or `as_text` returned.

    Raises:
        ValueError: If two are of one dimension, or something is no perturbation.
    """
    if value is None or (isinstance(value, str) and not value):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"`perturbation` must be JSON if it is a text: {error}") from None
    if isinstance(value, Perturbation | Mapping) or not isinstance(value, Iterable):
        value = [value]
    found: list[Any] = [_from_data(x) if isinstance(x, Mapping) else x for x in value]
    for part in found:
        if type(part) not in DIMENSIONS.values():
            names = ", ".join(kind.__name__ for kind in DIMENSIONS.values())
            raise ValueError(
                f"`perturbation` must be None, one or several of {names}, got {part!r}"
            )
    dimensions = [part.dimension for part in found]
    for name in dimensions:
        if dimensions.count(name) > 1:
            raise ValueError(
                f"`perturbation` may have only one perturbation of each dimension, got two of "
                f"{name!r}"
            )
    return tuple(sorted(found, key=lambda part: _ORDER.index(part.dimension)))


def resolved(mixture: Mixture, rng: np.random.Generator) -> Mixture:
    """Returns the perturbations, each with a draw."""
    return tuple(part.resolved(rng) for part in mixture)


def as_data(mixture: Mixture) -> list[dict[str, Any]]:
    """Returns perturbations as plain data: their dimension and the fields that are not defaults."""
    data = []
    for part in mixture:
        fields = {
            field.name: getattr(part, field.name)
            for field in dataclasses.fields(part)
            if getattr(part, field.name) != field.default
        }
        values = {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}
        data.append({"dimension": part.dimension, **values})
    return data


def as_text(mixture: Mixture) -> str:
    """Returns perturbations as JSON; equal mixtures have equal texts.

    >>> as_text(as_mixture(RobotState(radius=0.2, draw=3)))
    '[{"dimension": "robot", "draw": 3, "radius": 0.2}]'
    """
    return json.dumps(as_data(mixture))


def _from_data(data: Mapping[str, Any]) -> Perturbation:
    fields = dict(data)
    name = fields.pop("dimension", None)
    if name not in DIMENSIONS:
        known = ", ".join(DIMENSIONS)
        raise ValueError(f"`dimension` of a perturbation must be one of {known}, got {name!r}")
    kind = DIMENSIONS[name]
    known_fields = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(fields) - set(known_fields))
    if unknown:
        raise ValueError(
            f"a perturbation of dimension {name!r} has the fields {', '.join(known_fields)}, got "
            f"{unknown[0]!r}"
        )
    values: dict[str, Any]
    values = {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
    return kind(**values)
