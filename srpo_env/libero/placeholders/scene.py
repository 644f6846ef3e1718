"""The room of libero_object: a floor with contacts, visual walls, lights and cameras.

Positions and sizes (metres) are LIBERO's, so that its cameras see the same; the textures of floor
and walls are similar, and drawn by this package. Source: the floor scene of LIBERO's assets, commit
8f1084e.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

from srpo_env.libero.placeholders.drawing import SIZE, smooth_noise

FLOOR_TEXTURE = "light-gray-floor-tile.png"
WALL_TEXTURE = "light-gray-plaster.png"
"""File names that LIBERO loads for its styles light-gray and light-gray-plaster."""

# name: centre, quaternion (w, x, y, z), half sizes
_S, _C = 0.2705981, 0.6532815
_WALLS = {
    "wall_leftcorner_visual": ((-1.25, 2.25, 1.5), (_C, _C, _S, _S), (1.06, 1.5, 0.01)),
    "wall_rightcorner_visual": ((-1.25, -2.25, 1.5), (_C, _C, -_S, -_S), (1.06, 1.5, 0.01)),
    "wall_left_visual": ((1.25, 3.0, 1.5), (0.7071, 0.7071, 0.0, 0.0), (1.75, 1.5, 0.01)),
    "wall_right_visual": ((1.25, -3.0, 1.5), (0.7071, -0.7071, 0.0, 0.0), (1.75, 1.5, 0.01)),
    "wall_rear_visual": ((-2.0, 0.0, 1.5), (0.5, 0.5, 0.5, 0.5), (1.5, 1.5, 0.01)),
    "wall_front_visual": ((3.0, 0.0, 1.5), (0.5, 0.5, -0.5, -0.5), (3.0, 1.5, 0.01)),
}

# LIBERO moves `agentview` and `frontview` when it builds the task.
_CAMERAS = {
    "frontview": ((1.0, 0.0, 1.45), (0.56, 0.43, 0.43, 0.56)),
    "birdview": ((-0.2, 0.0, 3.0), (0.7071, 0.0, 0.0, 0.7071)),
    "agentview": ((0.5, 0.0, 1.35), (0.653, 0.271, 0.271, 0.653)),
    "sideview": (
        (-0.05651774593317116, 1.2761224129427358, 1.4879572214102434),
        (0.009905065491771751, 0.006877963156909582, 0.5912228352893879, 0.806418094001364),
    ),
}

_LIGHTS = {"light1": (1.0, 1.0, 4.0), "light2": (-3.0, -3.0, 4.0)}


def scene_xml(textures: str) -> ET.Element:
    """Returns the scene in MJCF.

    Args:
        textures: Folder of the two textures, relative to the scene's file.
    """
    root = ET.Element("mujoco", model="floor_arena")
    asset = ET.SubElement(root, "asset")
    ET.SubElement(
        asset,
        "texture",
        type="skybox",
        builtin="gradient",
        rgb1="0.9 0.9 1",
        rgb2="0.2 0.3 0.4",
        width="64",
        height="64",
    )
    _surface(
        asset, "texplane", "floorplane", f"{textures}/{FLOOR_TEXTURE}", specular="0", shininess="0"
    )
    _surface(
        asset,
        "tex-wall",
        "walls_mat",
        f"{textures}/{WALL_TEXTURE}",
        specular="0.8",
        shininess="0.1",
    )

    world = ET.SubElement(root, "worldbody")
    floor = ET.SubElement(world, "body", name="floor")
    ET.SubElement(
        floor,
        "geom",
        name="floor",
        type="plane",
        size="3 3 0.125",
        condim="3",
        group="1",
        material="floorplane",
    )
    for name, (position, quaternion, half_sizes) in _WALLS.items():
        ET.SubElement(
            world,
            "geom",
            name=name,
            type="box",
            pos=numbers(position),
            quat=numbers(quaternion),
            size=numbers(half_sizes),
            material="walls_mat",
            group="1",
            contype="0",
            conaffinity="0",
        )
    for name, position in _LIGHTS.items():
        ET.SubElement(
            world,
            "light",
            name=name,
            pos=numbers(position),
            dir="0 -0.15 -1",
            diffuse="0.8 0.8 0.8",
            specular="0.3 0.3 0.3",
            castshadow="false",
        )
    for name, (position, quaternion) in _CAMERAS.items():
        ET.SubElement(
            world,
            "camera",
            name=name,
            mode="fixed",
            pos=numbers(position),
            quat=numbers(quaternion),
        )
    return root


def floor_texture() -> Image.Image:
    """Returns a texture of four rows of grey-brown planks with light joints."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    plank_row = rows * 4 // SIZE
    # Long fibres, displaced by a slow wave, which looks like knots.
    bend = (4.0 * smooth_noise(generator, 8, 4)).astype(int)
    fibres = smooth_noise(generator, 64, 5)[(rows + bend) % SIZE, columns]
    grain = 0.7 * fibres + 0.5 * smooth_noise(generator, SIZE, 12)
    tint = np.array([0.5, -0.7, 0.3, -0.3])[plank_row]
    shade = 1.0 + 0.16 * grain + 0.06 * tint
    ends = (np.array([0.0, 0.24, 0.50, 0.76]) * SIZE).astype(int)[plank_row]
    joint = (rows % (SIZE // 4) == 0) | (columns == ends)
    pixels = np.array([139.0, 125.0, 112.0]) * shade[..., None]
    pixels[joint] = (205.0, 198.0, 190.0)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def wall_texture() -> Image.Image:
    """Returns a texture of nearly even light grey plaster."""
    shade = 3.0 * smooth_noise(np.random.default_rng(2), 32, 32)
    pixels = np.array([222.0, 218.0, 212.0]) + shade[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


def numbers(values: tuple[float, ...]) -> str:
    """Formats numbers for MJCF, without loss of precision."""
    return " ".join(repr(float(value)) for value in values)


def _surface(asset: ET.Element, texture: str, material: str, file: str, **finish: str) -> None:
    ET.SubElement(asset, "texture", name=texture, type="2d", file=file)
    tiling = {"texrepeat": "3 3", "texuniform": "true", "reflectance": "0"}
    ET.SubElement(asset, "material", {"name": material, "texture": texture} | tiling | finish)
