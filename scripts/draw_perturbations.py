"""Draws the pictures of docs/perturbations.md: one sheet per dimension, with its five levels.

    python scripts/draw_perturbations.py docs/pictures/perturbations

Needs LIBERO's own assets. Language has no picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from srpo_env.libero.env import LiberoEnv
from srpo_env.libero.perturbations import DIMENSIONS, LEVELS, Noise, Perturbation
from srpo_env.libero.perturbations.noise import KINDS

SIZE = 128
SCENES = {"libero_object": 1, "libero_goal": 0}
"""Suites and tasks that are shown, one row each."""

DRAWS = {"camera": (6, 3), "light": (5, 3), "background": (3, 4), "layout": (6, 4)}
"""Draws of the two rows: orbits, a darker and a brighter light, distractors and a shift."""


def main() -> None:
    """Writes a JPEG for each dimension with images, and one for the five kinds of noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--visuals", choices=("exact", "fast"), default="exact")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    envs = {
        suite: LiberoEnv(suite, image_size=SIZE, cameras=["agentview"], visuals=args.visuals)
        for suite in SCENES
    }
    for name, kind in DIMENSIONS.items():
        if name == "language":
            continue
        draws = DRAWS.get(name, (1, 2))
        rows = [
            [
                image(envs[suite], SCENES[suite], None),
                *(image(envs[suite], SCENES[suite], kind.from_level(k, draw)) for k in LEVELS),
            ]
            for suite, draw in zip(SCENES, draws, strict=True)
        ]
        if name == "noise":
            suite, task = next(iter(SCENES.items()))
            rows = [
                [
                    image(envs[suite], task, None),
                    *(
                        image(envs[suite], task, Noise(severity=2 * k, kind=n, draw=1))
                        for k in LEVELS
                    ),
                ]
                for n in KINDS
            ]
        save(args.folder / f"{name}.jpg", rows)


def image(env: LiberoEnv, task_id: int, perturbation: Perturbation | None) -> np.ndarray:
    """Returns the first image of an episode."""
    options = {"task_id": task_id, "init_state_id": 40, "perturbation": perturbation}
    observation, _ = env.reset(options=options)
    return np.asarray(observation["agentview"])


def save(file: Path, rows: list[list[np.ndarray]]) -> None:
    """Writes images in rows, below a line with the levels."""
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    canvas = Image.new("RGB", (sheet.shape[1], sheet.shape[0] + 14), "white")
    canvas.paste(Image.fromarray(sheet), (0, 14))
    draw = ImageDraw.Draw(canvas)
    for column in range(len(rows[0])):
        text = f"level {column}" if column else "unperturbed"
        draw.text((column * SIZE + 4, 1), text, fill="black")
    canvas.save(file, quality=70, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
