"""Changes of a compiled model that only its images show, and that are undone exactly."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srpo_env.types import Array


@dataclass(frozen=True)
class Texture:
    """Pixels in place of a texture's own."""

    key: Hashable
    """Equal keys are equal pixels."""
    pixels: Callable[[], Array] = field(compare=False)
    """Returns the pixels in the shape of the model's texture, ``(height, width, channels)``."""


@dataclass(frozen=True, eq=False)
class Appearance:
    """Values of fields of the model, and textures."""

    values: tuple[tuple[str, Any, Any], ...] = ()
    """Name of a field of ``MjModel``, index into it, new value."""
    textures: Mapping[int, Texture] = field(default_factory=dict)
    """New textures by their id."""

    @classmethod
    def merged(cls, parts: Iterable[Appearance | None]) -> Appearance:
        """Returns one appearance of several; of two values for one place, the last one counts."""
        known = [part for part in parts if part is not None]
        textures = {number: texture for part in known for number, texture in part.textures.items()}
        return cls(tuple(value for part in known for value in part.values), textures)


class ModelFields:
    """Fields of a model that were changed, with their original values."""

    def __init__(self, model: Any) -> None:
        """Remembers nothing yet."""
        self._model = model
        self._originals: dict[str, Array] = {}

    def original(self, name: str) -> Array:
        """Returns a copy of a field as it was before all changes."""
        original = self._originals.get(name)
        return np.array(getattr(self._model, name) if original is None else original)

    def set(self, values: Iterable[tuple[str, Any, Any]]) -> None:
        """Restores all fields, and then sets these."""
        for name, original in self._originals.items():
            getattr(self._model, name)[...] = original
        for name, index, value in values:
            array = getattr(self._model, name)
            if name not in self._originals:
                self._originals[name] = np.array(array)
            array[index] = value
