"""Gives the floor, the walls and the table other textures, LIBERO's own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from srpo_env.libero.perturbations.appearance import Appearance, Texture
from srpo_env.libero.perturbations.base import Perturbation
from srpo_env.types import Array

if TYPE_CHECKING:
    import mujoco

    from srpo_env.libero.simulation import Simulation

STYLES = {
    "floor": (
        "dark_floor_texture",
        "rustic_floor",
        "light-gray-floor-tile",
        "white_marble_floor",
        "seamless_wood_planks_floor",
        "brown_ceramic_tile",
        "gray_ceramic_tile",
    ),
    "walls": (
        "light_blue_wall",
        "dark_blue_wall",
        "dark_gray_plaster",
        "gray_plaster",
        "dark_green_plaster_wall",
        "light-gray-plaster",
        "ceramic",
        "white_wall",
        "yellow_linen_wall_texture",
    ),
    "table": (
        "martin_novak_wood_table",
        "table_light_wood",
        "seamless_wood_planks_floor",
        "white_marble_floor",
        "kona_gotham",
        "brown_ceramic_tile",
    ),
}
"""Files of LIBERO's textures for each surface. Those of floors and walls are all styles that LIBERO
has for them, of which two floors are equal; its tables have no list of styles."""

SURFACES = tuple(STYLES)

MATERIALS = {
    "floor": ("floorplane",),
    "walls": ("walls_mat",),
    "table": ("table_texture", "living_room_table", "desk", "short_coffee_table"),
}
"""Materials of each surface in LIBERO's scenes."""

MIN_DIFFERENCE = 4.0
"""Mean difference of two textures' pixels, of 255, below which they are taken as equal."""

OPACITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Opacities of the levels."""


@dataclass(frozen=True, kw_only=True)
class Background(Perturbation):
    """Covers surfaces with another of LIBERO's textures, drawn for each, never with its own.

    Scenes of libero_object have no table.
    """

    opacity: float = 0.0
    """Share of the new texture, 0 to 1; the rest is the old one."""
    surfaces: tuple[str, ...] = SURFACES
    """Which of ``floor``, ``walls``, ``table``."""

    dimension: ClassVar[str] = "background"

    def check(self) -> None:
        """Checks the ranges."""
        self._check_number("opacity", 0, 1)
        known = isinstance(self.surfaces, (tuple, list)) and set(self.surfaces) <= set(SURFACES)
        if not known or not self.surfaces:
            raise ValueError(
                f"`surfaces` of Background must be some of {', '.join(SURFACES)}, "
                f"got {self.surfaces!r}"
            )
        ordered = tuple(surface for surface in SURFACES if surface in self.surfaces)
        object.__setattr__(self, "surfaces", ordered)

    @classmethod
    def fields_of_level(cls, level: int) -> dict[str, Any]:
        """Returns an opacity of 0.2 to 1, of all surfaces."""
        return {"opacity": OPACITIES[level - 1]}

    def styles(self) -> dict[str, list[str]]:
        """Returns for each surface the files without ending, in the order that is drawn.

        The first one is used that is not the surface's own texture.
        """
        rng = self.generator()
        drawn = {surface: rng.permutation(files).tolist() for surface, files in STYLES.items()}
        return {surface: drawn[surface] for surface in self.surfaces}

    def appearance(self, simulation: Simulation) -> Appearance | None:
        """Returns the new textures.

        Raises:
            FileNotFoundError: If the assets do not have one of them.
        """
        if self.opacity == 0:
            return None
        textures = {}
        model = simulation.model
        for surface, styles in self.styles().items():
            for texture in textures_of(model, surface):
                style = next(name for name in styles if _differs(model, texture, name))
                make = functools.partial(
                    blended, model, texture, _texture_file(style), self.opacity
                )
                textures[texture] = Texture((style, self.opacity), make)
        return Appearance(textures=textures)


def textures_of(model: mujoco.MjModel, surface: str) -> list[int]:
    """Returns the ids of the textures of a surface; none if the scene has no such surface."""
    drawn = model.geom_matid[(model.geom_group == 1) & (model.geom_matid >= 0)]
    shown = [material for material in np.unique(drawn)
             if model.material(material).name in MATERIALS[surface]]  # fmt: skip
    textures = model.mat_texid[shown].reshape(-1)
    return sorted({int(texture) for texture in textures if texture >= 0})


def _texture_file(style: str) -> Path:
    from srpo_env.libero.assets import HOW_TO_GET_ASSETS, resolve_assets

    file = resolve_assets().path / "textures" / f"{style}.png"
    if not file.is_file():
        raise FileNotFoundError(
            f"Background needs LIBERO's texture {file}, which is missing: to get LIBERO's assets, "
            f"{HOW_TO_GET_ASSETS}"
        )
    return file


def blended(model: mujoco.MjModel, texture: int, file: Path, opacity: float) -> Array:
    """Returns a texture's pixels with those of a file laid over them."""
    old, new = _old_and_new(model, texture, file)
    mixed = old.astype(np.float32)
    mixed[..., :3] += np.float32(opacity) * (new - mixed[..., :3])
    pixels: Array = np.round(mixed).clip(0, 255).astype(np.uint8)
    return pixels


def _differs(model: mujoco.MjModel, texture: int, style: str) -> bool:
    old, new = _old_and_new(model, texture, _texture_file(style))
    step = max(1, old.shape[1] // 64)  # some pixels are enough
    difference = old[::step, ::step, :3].astype(np.float32) - new[::step, ::step]
    return bool(np.abs(difference).mean() > MIN_DIFFERENCE)


def _old_and_new(model: mujoco.MjModel, texture: int, file: Path) -> tuple[Array, Array]:
    """Returns a texture's pixels, ``(height, width, channels)``, and a file's in the same size."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels, begin = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    old = model.tex_data[begin : begin + height * width * channels]
    # A cube texture is a column of six squares, or one square for all sides.
    is_column = model.tex_type[texture] != 0 and height == 6 * width
    new = _resized(file, width, height // 6 if is_column else height)
    return old.reshape(height, width, channels), np.tile(new, (6 if is_column else 1, 1, 1))


@functools.lru_cache(maxsize=64)
def _resized(file: Path, width: int, height: int) -> Array:
    from PIL import Image

    with Image.open(file) as image:
        small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)
