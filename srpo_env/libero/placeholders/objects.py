"""Shapes and labels of the placeholders for the ten groceries and the basket.

Outer sizes are measured on LIBERO's objects, and the colours are similar, so that a policy works on
both. The labels are drawn by this package. Source of the sizes: the meshes of LIBERO's assets,
commit 8f1084e, in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from srpo_env.libero.placeholders.drawing import SIZE, Colour, Panel, sheet, smooth_noise
from srpo_env.libero.placeholders.meshes import Mesh, ellipse, rectangle, stack

# Grey in the texture, because the scene's two lights brighten the objects to white.
WHITE: Colour = (162, 162, 160)
BLACK: Colour = (22, 22, 24)
METAL: Colour = (104, 105, 110)
YELLOW: Colour = (165, 140, 30)
ROUND, FLAT = 0.625, 0.25  # share of the texture's height for the sides


@dataclass(frozen=True)
class Look:
    """Functions that create the mesh and the texture of an object."""

    mesh: Callable[[], Mesh]
    texture: Callable[[], Image.Image]


# --- Shapes -------------------------------------------------------------------------------------


def _can() -> Mesh:
    rim, wall, height = 0.0332, 0.0324, 0.0416
    profile = [
        (-height, rim, rim),
        (-0.0395, wall, wall),
        (0.0395, wall, wall),
        (height, rim, rim),
        (height, 0.0305, 0.0305),
        (0.0392, 0.0300, 0.0300, 1.0),  # the lid is lower than the rim
    ]
    return stack(ellipse(24), profile, "y", ROUND)


def _ketchup_bottle() -> Mesh:
    profile = [
        (-0.0743, 0.0270, 0.0185),
        (-0.0705, 0.0317, 0.0216),
        (-0.0300, 0.0322, 0.0212),
        (0.0000, 0.0296, 0.0211),
        (0.0250, 0.0240, 0.0210),
        (0.0372, 0.0186, 0.0186),
        (0.0720, 0.0183, 0.0186),
        (0.0743, 0.0165, 0.0165),
    ]
    return stack(ellipse(24), profile, "y", ROUND)


def _bbq_bottle() -> Mesh:
    profile = [
        (-0.0571, 0.0205, 0.0140),
        (-0.0540, 0.0244, 0.0167),
        (-0.0240, 0.0249, 0.0163),
        (0.0000, 0.0229, 0.0162),
        (0.0190, 0.0186, 0.0162),
        (0.0290, 0.0143, 0.0143),
        (0.0550, 0.0140, 0.0143),
        (0.0571, 0.0120, 0.0120),
    ]
    return stack(ellipse(24), profile, "z", ROUND)


def _dressing_bottle() -> Mesh:
    profile = [
        (-0.0737, 0.0225, 0.0180),
        (-0.0700, 0.0262, 0.0218),
        (-0.0430, 0.0319, 0.0216),
        (-0.0180, 0.0312, 0.0213),
        (0.0000, 0.0256, 0.0212),
        (0.0185, 0.0196, 0.0193),
        (0.0250, 0.0182, 0.0182),
        (0.0715, 0.0183, 0.0186),
        (0.0737, 0.0165, 0.0165),
    ]
    return stack(ellipse(24), profile, "y", ROUND)


def _carton() -> Mesh:
    half = 0.0270
    profile = [
        (-0.0714, half, half),
        (0.0400, half, half),
        (0.0570, 0.0268, 0.0022),  # the gable's ridge runs along x
        (0.0714, 0.0268, 0.0018),
    ]
    return stack(rectangle(0.04), profile, "y", ROUND)


def _box(half_x: float, half_y: float, half_z: float) -> Callable[[], Mesh]:
    return lambda: stack(
        rectangle(0.05), [(-half_z, half_x, half_y), (half_z, half_x, half_y)], "z", FLAT
    )


def _basket() -> Mesh:
    # Around the five contact boxes: up the outside, over the rim, down the inside to the bottom.
    profile = [
        (0.0000, 0.0744, 0.0724, 0.00),
        (0.1455, 0.0842, 0.0784, 0.48),
        (0.1455, 0.0708, 0.0650, 0.52),
        (0.0219, 0.0624, 0.0600, 1.00),
    ]
    return stack(rectangle(0.06), profile, "z", BASKET_SIDES, turns=2)


# --- Labels -------------------------------------------------------------------------------------


def _alphabet_soup() -> Image.Image:
    side = Panel(64, 80, (56, 80, 138))
    side.band(0.72, 1.0, (140, 82, 22))
    side.oval(0.5, 0.70, 0.30, 0.10, WHITE).oval(0.5, 0.67, 0.24, 0.05, (158, 96, 28))
    for i, letter in enumerate("AKSOTE"):
        side.word(letter, 0.12 + 0.152 * i, 0.87 - 0.03 * (i % 2), 0.09, 0.08, YELLOW)
    side.word("SOUP", 0.5, 0.34, 0.72, 0.26, YELLOW)
    side.band(0.0, 0.06, METAL).band(0.95, 1.0, METAL)
    return sheet([side] * 3, METAL, _lid(), ROUND)  # one whole word from any side


def _tomato_sauce() -> Image.Image:
    red: Colour = (138, 36, 14)
    side = Panel(64, 80, red)
    side.band(0.30, 0.62, (34, 92, 48)).band(0.62, 1.0, (128, 124, 112))
    for x in (0.25, 0.75):
        side.oval(x, 0.80, 0.22, 0.14, (158, 38, 14)).oval(x, 0.68, 0.07, 0.03, (34, 92, 48))
    side.word("TOMATO", 0.5, 0.46, 0.84, 0.20, WHITE)
    side.band(0.0, 0.06, METAL).band(0.95, 1.0, METAL)
    return sheet([side] * 3, METAL, _lid(), ROUND)  # one whole word from any side


def _lid() -> Panel:
    lid = Panel(64, 48, METAL).oval(0.5, 0.5, 0.40, 0.40, (88, 89, 94))
    return lid.oval(0.5, 0.5, 0.34, 0.34, METAL)


def _ketchup() -> Image.Image:
    side = Panel(64, 80, (150, 44, 4))
    side.oval(0.5, 0.66, 0.34, 0.28, WHITE).word("KETCHUP", 0.5, 0.60, 0.56, 0.14, BLACK)
    side.oval(0.5, 0.80, 0.16, 0.09, (156, 26, 8)).oval(0.5, 0.73, 0.05, 0.02, (34, 92, 48))
    side.band(0.0, 0.25, (150, 149, 148)).band(0.23, 0.25, (110, 108, 106))
    return sheet([side, side], (150, 44, 4), (150, 149, 148), ROUND)


def _bbq_sauce() -> Image.Image:
    side = Panel(64, 80, (72, 20, 4))
    side.box(0.2, 0.40, 0.8, 0.92, (136, 40, 6))
    for i in range(4):
        side.box(0.26 + 0.14 * i, 0.40, 0.32 + 0.14 * i, 0.56, YELLOW)
    side.word("BBQ", 0.5, 0.70, 0.48, 0.20, YELLOW)
    side.band(0.0, 0.25, (116, 42, 5)).band(0.23, 0.25, (80, 26, 4))
    return sheet([side, side], (72, 20, 4), (116, 42, 5), ROUND)


def _salad_dressing() -> Image.Image:
    side = Panel(64, 80, (148, 150, 149))
    side.oval(0.5, 0.68, 0.36, 0.28, (52, 120, 30)).oval(0.5, 0.66, 0.29, 0.21, WHITE)
    side.word("RANCH", 0.5, 0.62, 0.46, 0.12, BLACK).oval(0.5, 0.80, 0.18, 0.06, (60, 128, 34))
    side.oval(0.42, 0.79, 0.06, 0.04, (150, 40, 10))
    side.band(0.0, 0.33, (20, 76, 38)).band(0.31, 0.33, (14, 52, 26))
    return sheet([side, side], (148, 150, 149), (20, 76, 38), ROUND)


def _milk() -> Image.Image:
    side = Panel(32, 80, (160, 24, 4))
    side.polygon([(0, 0.66), (1, 0.58), (1, 1), (0, 1)], (140, 146, 152))
    side.band(0.92, 1.0, (36, 92, 42)).word("MILK", 0.5, 0.46, 0.92, 0.24, WHITE)
    side.word("MILK", 0.5, 0.14, 0.70, 0.10, WHITE)
    side.oval(0.46, 0.80, 0.30, 0.09, WHITE).oval(0.34, 0.79, 0.12, 0.06, BLACK)  # a cow
    side.oval(0.62, 0.82, 0.10, 0.05, BLACK).oval(0.80, 0.73, 0.10, 0.05, BLACK)
    side.box(0.26, 0.87, 0.34, 0.94, BLACK).box(0.60, 0.87, 0.68, 0.94, BLACK)
    return sheet([side] * 4, (148, 154, 160), (160, 24, 4), ROUND)


def _orange_juice() -> Image.Image:
    orange: Colour = (160, 76, 8)
    side = Panel(32, 80, (164, 148, 56))
    side.oval(0.5, 0.16, 0.50, 0.17, orange).oval(0.5, 0.78, 0.46, 0.18, orange)
    side.oval(0.5, 0.78, 0.38, 0.145, (172, 122, 34))
    for dx, dy in ((0.36, 0.0), (0.18, 0.12), (0.18, -0.12)):  # the segments of a cut orange
        x, y, half = 0.5, 0.78, 0.02
        side.polygon(
            [
                (x - dx, y - dy - half),
                (x - dx, y - dy + half),
                (x + dx, y + dy + half),
                (x + dx, y + dy - half),
            ],
            orange,
        )
    side.word("ORANGE", 0.5, 0.40, 0.88, 0.11, (24, 62, 30))
    side.word("JUICE", 0.5, 0.53, 0.88, 0.11, (24, 62, 30))
    return sheet([side] * 4, (164, 148, 56), (164, 136, 30), ROUND)


def _cream_cheese() -> Image.Image:
    pale: Colour = (112, 122, 142)
    top = Panel(64, 96, pale)
    top.oval(0.5, 0.5, 0.40, 0.38, (52, 58, 104)).oval(0.5, 0.5, 0.34, 0.30, (74, 84, 132))
    top.word("CREAM", 0.5, 0.40, 0.56, 0.20, WHITE).word("CHEESE", 0.5, 0.62, 0.56, 0.18, WHITE)
    side = Panel(128, 32, pale).band(0.35, 0.65, (74, 84, 132))
    return sheet([side], top, top, FLAT)


def _butter() -> Image.Image:
    red: Colour = (146, 34, 8)
    top = Panel(64, 96, red)
    top.box(0.52, 0.0, 1.0, 1.0, (104, 136, 158)).box(0.62, 0.26, 0.92, 0.74, (170, 156, 90))
    top.box(0.62, 0.62, 0.92, 0.74, (140, 122, 58))
    for i in range(1, 4):  # the knife marks on a stick of butter
        top.box(0.61 + 0.08 * i, 0.26, 0.62 + 0.08 * i, 0.74, (140, 122, 58))
    top.word("BUTTER", 0.27, 0.5, 0.44, 0.44, YELLOW)
    side = Panel(128, 32, red).band(0.3, 0.7, (160, 92, 16))
    return sheet([side], top, top, FLAT)


def _chocolate_pudding() -> Image.Image:
    brown: Colour = (66, 32, 18)
    top = Panel(64, 96, brown)
    top.band(0.0, 0.16, (104, 126, 148)).word("PUDDING", 0.5, 0.42, 0.84, 0.30, (158, 122, 78))
    top.oval(0.5, 0.80, 0.34, 0.13, (104, 62, 36)).oval(0.5, 0.77, 0.20, 0.07, (60, 28, 16))
    side = Panel(128, 32, brown).band(0.0, 0.35, (104, 126, 148))
    return sheet([side], brown, top, FLAT)


BASKET_SIDES = 0.75


def _woven() -> Image.Image:
    """Returns a texture of woven strands, with a plain rim and a darker inside."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    width, height = 8, 6  # of a strand, pixels
    over = (rows // height + columns // width) % 2 == 0
    x, y = columns % width / width, rows % height / height
    along, across = np.where(over, x, y), np.where(over, y, x)
    # A strand is round, and highest in the middle of its visible part.
    shade = 0.60 + 0.22 * np.sin(np.pi * across) + 0.22 * np.sin(np.pi * along)
    from_bottom = 1.0 - rows / (SIZE * BASKET_SIDES)  # negative on the caps
    shade = np.where(np.abs(from_bottom - 0.5) < 0.05, 0.85, shade)
    floor = (from_bottom < 0) & (columns >= SIZE // 2)
    shade = np.where((from_bottom > 0.55) | floor, 0.8 * shade, shade)
    shade += 0.04 * smooth_noise(np.random.default_rng(0), 32, 32)
    pixels = shade[..., None] * np.array([212.0, 163.0, 107.0])
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


LOOKS: dict[str, Look] = {
    "alphabet_soup": Look(_can, _alphabet_soup),
    "bbq_sauce": Look(_bbq_bottle, _bbq_sauce),
    "butter": Look(_box(0.0387, 0.0198, 0.0090), _butter),
    "chocolate_pudding": Look(_box(0.0417, 0.0247, 0.0149), _chocolate_pudding),
    "cream_cheese": Look(_box(0.0415, 0.0213, 0.0097), _cream_cheese),
    "ketchup": Look(_ketchup_bottle, _ketchup),
    "milk": Look(_carton, _milk),
    "orange_juice": Look(_carton, _orange_juice),
    "salad_dressing": Look(_dressing_bottle, _salad_dressing),
    "tomato_sauce": Look(_can, _tomato_sauce),
    "basket": Look(_basket, _woven),
}
