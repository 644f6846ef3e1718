"""Degrades the images of the third-person camera: blur, fog, frosted glass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from srpo_env.libero.perturbations import image_filters
from srpo_env.libero.perturbations.base import Image, Perturbation
from srpo_env.types import check_choice

NoiseKind = Literal["motion", "gaussian", "zoom", "fog", "glass"]

KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
"""In LIBERO-Plus's order: its number K is kind K // 10, severity K % 10."""

MAX_SEVERITY = 10


@dataclass(frozen=True, kw_only=True)
class Noise(Perturbation):
    """Filters the images of a camera.

    What the draw leaves to chance (the angle of a motion, the shape of fog, the structure of glass)
    stays the same during an episode. The wrist camera is not affected, as in LIBERO-Plus.

    The constants of the severities are LIBERO-Plus's, for images of 256 pixels; those of lengths
    are scaled to the image's size.
    """

    severity: int = 0
    """0 (none) to 10; see `srpo_env.libero.perturbations.image_filters` for the constants."""
    kind: NoiseKind | None = None
    """``motion``, ``gaussian``, ``zoom``, ``fog`` or ``glass``; None: drawn."""

    dimension: ClassVar[str] = "noise"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("severity", 0, MAX_SEVERITY, integer=True)
        if self.kind is not None:
            check_choice("kind", self.kind, NoiseKind)

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns severities 2, 4, 6, 8 and 10 of a kind that is drawn."""
        return {"severity": 2 * level}

    @property
    def drawn_kind(self) -> NoiseKind:
        """The kind that the draw selects."""
        if self.kind is not None:
            return self.kind
        return KINDS[int(self.generator().integers(len(KINDS)))]

    def image_filter(self, camera: str, size: int) -> Callable[[Image], Image] | None:
        """Returns the filter of ``agentview``; None for other cameras."""
        if camera != "agentview" or self.severity == 0:
            return None
        make = image_filters.FILTERS[self.drawn_kind]
        return make(self.severity, size, self.generator(1))
