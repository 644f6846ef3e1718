"""Draws the picture of the README: a success, a failure that came near, and one that did not.

    python scripts/draw_idea.py docs/pictures/idea.png

Runs the bundled policy for one group of eight episodes of LIBERO-Object (task 9, initial state 40,
sampled with seed 0), computes their rewards with the default encoder, and renders the same episodes
again in a higher resolution. The text is readable on white and on dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode
from PIL import Image

from srpo_env import Episode, SelfReferentialProgressWrapper
from srpo_env.encoders.named import default_encoder
from srpo_env.encoders.protocol import reward_for
from srpo_env.policy import load_policy

TASK, INIT_STATE, SEED, NUM_ENVS = 9, 40, 0, 8
MAX_STEPS = 160
START = {"task_id": TASK, "init_state_id": INIT_STATE}
NUM_FRAMES = 6
CROP = slice(0, 208), slice(48, 256)
"""Rows and columns of the 256-pixel image that show the arm, the objects and the basket."""

BLUE, ORANGE, RED, GRAY = "#3b8eea", "#d9822b", "#e5534b", "#7d8590"

Video = npt.NDArray[np.uint8]


def main(path: Path) -> None:
    """Collects the group, renders it and draws the picture."""
    actions, episodes = collect()
    videos = render(actions)
    failures = sorted((e for e in episodes if not e.success), key=lambda e: e.distance)
    successes = [e for e in episodes if e.success]
    reward = reward_for(default_encoder(), None)
    latents = np.stack([e.latent for e in successes])
    nearest = reward.measure(failures[0].latent[None], latents)[1][0]
    rows = [
        (successes[nearest], BLUE, "success"),
        (failures[0], ORANGE, "failure that\ncame near"),
        (failures[-1], RED, "failure that\ndid not"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    draw([(e, videos[e.env_index], color, text) for e, color, text in rows], path)
    for episode, _, text in rows:
        name = text.replace("\n", " ")
        print(f"{name}: {episode.distance:.2f} -> {episode.progress_reward:.2f}")


def make_envs(**settings: Any) -> Any:
    """Makes the vector environment."""
    return gymnasium.make_vec(
        "srpo_env/libero-object",
        num_envs=NUM_ENVS,
        autoreset_mode=AutoresetMode.DISABLED,
        max_steps=MAX_STEPS,
        visuals="exact",
        **settings,
    )


def collect() -> tuple[list[npt.NDArray[np.float32]], tuple[Episode, ...]]:
    """Runs the policy; returns the actions of each step and the scored episodes."""
    policy, generator = load_policy("libero-object"), torch.Generator().manual_seed(SEED)
    envs = SelfReferentialProgressWrapper(make_envs(), group_size=NUM_ENVS)
    observations, infos = envs.reset(options=dict(START))
    instructions, actions = list(infos["task"]), []
    ended = np.zeros(NUM_ENVS, dtype=bool)
    while not ended.all():
        inputs = policy.prepare(observations, instructions)
        tokens, _ = policy.sample(inputs, generator=generator)
        actions.append(policy.actions(tokens))
        observations, _, terminations, truncations, _ = envs.step(actions[-1])
        ended |= terminations | truncations
    (group,) = envs.pop_groups()
    envs.close()
    return actions, group.episodes


def render(actions: list[npt.NDArray[np.float32]]) -> list[Video]:
    """Repeats the episodes, which are deterministic, and returns their videos."""
    envs = make_envs(image_size=256)
    observations, _ = envs.reset(options=dict(START))
    frames = [[image.copy()] for image in observations["agentview"]]
    ended = np.zeros(NUM_ENVS, dtype=bool)
    for action in actions:
        observations, _, terminations, truncations, _ = envs.step(action)
        for index in np.flatnonzero(~ended):
            frames[index].append(observations["agentview"][index].copy())
        ended |= terminations | truncations
    envs.close()
    return [np.stack(images) for images in frames]


def draw(rows: list[tuple[Episode, Video, str, str]], path: Path) -> None:
    """Draws one row for each episode: frames, distance and reward."""
    size, gap, left, right, top = 132, 6, 130, 186, 30
    width = left + NUM_FRAMES * (size + gap) + right
    height = top + len(rows) * (size + gap)
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    figure.patch.set_alpha(0.0)

    def text(x: float, y: float, content: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, content, va="center", **style)

    text(left, 13, "time  \N{RIGHTWARDS ARROW}", color=GRAY, fontsize=13)
    bar_left = width - right + 12
    text(bar_left, 13, "reward", color=GRAY, fontsize=13)
    for row, (episode, video, color, label) in enumerate(rows):
        y = top + row * (size + gap)
        moments = np.linspace(0, len(video) - 1, NUM_FRAMES).round().astype(int)
        for column, frame in enumerate(video[moments]):
            x = left + column * (size + gap)
            box = (x / width, 1 - (y + size) / height, size / width, size / height)
            axes = figure.add_axes(box)
            axes.imshow(frame[CROP], interpolation="lanczos", aspect="auto")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(edgecolor=color, linewidth=1.5)
        middle = y + size / 2
        text(left - 12, middle, label, color=color, fontsize=14, ha="right")
        text(bar_left, middle - 20, f"{episode.progress_reward:.2f}", color=color, fontsize=24)
        length = 160 * episode.progress_reward
        for extent, alpha in ((160, 0.2), (length, 1.0)):
            box = (bar_left / width, 1 - (middle + 16) / height, extent / width, 11 / height)
            figure.add_axes(box, frameon=False, xticks=[], yticks=[]).axhspan(
                0, 1, color=color, alpha=alpha, linewidth=0
            )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    # A palette instead of true colours: half of the bytes, and no visible difference.
    with Image.open(path) as image:
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
