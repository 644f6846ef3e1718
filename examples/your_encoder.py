"""Write your own encoder, and ask whether its distances mean progress.

    python examples/your_encoder.py

An encoder is any object with a `latent_shape` and an `encode`. This one knows what to look at: it
finds the walker in each picture. For failed episodes the table compares how an encoder ranks them
with how far they really had still to walk, which only the simulator knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from detour import GOAL, WALL_TOP, WALL_X, Detour, draw, stroll
from scipy.stats import spearmanr

from srpo_env import PixelEncoder, RandomProjectionEncoder, TrajectoryEncoder, relabel

Video = npt.NDArray[np.uint8]


class WalkerEncoder:
    """The walker's path: its place in eight evenly spaced pictures."""

    latent_shape = (16,)

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos ``(num_frames, height, width, 3)``, to ``(num_videos, 16)``."""
        return np.array([self._path(video).ravel() for video in videos], dtype=np.float32)

    def _path(self, video: Video) -> npt.NDArray[np.float64]:
        pictures = video[np.linspace(0, len(video) - 1, 8).round().astype(int)]
        red = (pictures[..., 0] > 150) & (pictures[..., 1] < 100)
        return np.array([np.argwhere(mask).mean(axis=0) / len(mask) for mask in red])


def main(num_episodes: int) -> None:
    """Plays episodes and prints the table."""
    rng = np.random.default_rng(0)
    episodes = [play(rng) for _ in range(num_episodes)]
    videos = [video for video, _, _ in episodes]
    successes = np.array([success for _, success, _ in episodes])
    ways = np.array([way for _, _, way in episodes])
    print(f"{successes.sum()} successes, {(~successes).sum()} failures\n")
    print("encoder                  latent  rank correlation of distance and way left")
    encoders: list[TrajectoryEncoder] = [PixelEncoder(), RandomProjectionEncoder(), WalkerEncoder()]
    for encoder in encoders:
        result = relabel(encoder.encode(videos), successes)
        correlation = spearmanr(result.distances[~successes], ways[~successes]).statistic
        print(f"{type(encoder).__name__:23}  {encoder.latent_shape!s:9}  {correlation:.2f}")


def play(rng: np.random.Generator, size: int = 32) -> tuple[Video, bool, float]:
    """One episode: its pictures, whether it succeeded, and the way that was left at its end."""
    env = Detour()
    observation, _ = env.reset()
    pictures, ended = [draw(observation, size)], False
    while not ended:
        observation, _, success, truncated, _ = env.step(stroll(observation, rng))
        pictures.append(draw(observation, size))
        ended = success or truncated
    return np.stack(pictures), success, way_left((observation + 1) / 2)


def way_left(position: npt.NDArray[np.floating]) -> float:
    """Length of the shortest way to the goal, round the wall where it is in between."""
    corner = np.array([WALL_X, WALL_TOP])
    straight = position + (GOAL - position) * (WALL_X - position[0]) / (GOAL[0] - position[0] or 1)
    if position[0] < WALL_X and straight[1] < WALL_TOP:
        return float(np.linalg.norm(position - corner) + np.linalg.norm(corner - GOAL))
    return float(np.linalg.norm(position - GOAL))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-episodes", type=int, default=200, help="default: %(default)s")
    main(parser.parse_args().num_episodes)
