"""Write your own encoder, and measure whether its distances mean progress.

    python examples/your_encoder.py

An encoder is any object with `latent_shape` and a method `encode`. `WalkerEncoder` finds the walker
in each frame. The table shows, over failed episodes, the rank correlation between the distance to
the successes and the way that was left at the end, which only the simulator knows. Run the same
check on your own data before you train: a reward that does not follow progress does harm.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from detour import Detour, draw, noisy_policy

from srpo_env import (
    PixelEncoder,
    ProgressReward,
    RandomProjectionEncoder,
    TrajectoryEncoder,
    relabel,
)
from srpo_env.rewards.distances import distances_to_centers

Video = npt.NDArray[np.uint8]


class WalkerEncoder:
    """Encodes an episode as the walker's position in eight evenly spaced frames: a path.

    Positions of equal times are compared with each other.
    """

    latent_shape = (8, 2)
    distance = staticmethod(distances_to_centers)

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos ``(num_frames, height, width, 3)`` to ``(num_videos, 8, 2)``."""
        return np.array([self._path(video) for video in videos], dtype=np.float32)

    def _path(self, video: Video) -> npt.NDArray[np.float64]:
        frames = video[np.linspace(0, len(video) - 1, 8).round().astype(int)]
        red = (frames[..., 0] > 150) & (frames[..., 1] < 100)
        return np.array([np.argwhere(mask).mean(axis=0) / len(mask) for mask in red])


def main(num_episodes: int) -> None:
    """Plays episodes and prints the table."""
    rng = np.random.default_rng(0)
    episodes = [play(rng) for _ in range(num_episodes)]
    videos = [video for video, _, _ in episodes]
    successes = np.array([success for _, success, _ in episodes])
    ways_left = np.array([way for _, _, way in episodes])
    print(f"{successes.sum()} successes, {(~successes).sum()} failures\n")
    print("encoder                  latent  rank correlation of distance and way left")
    encoders: list[TrajectoryEncoder] = [PixelEncoder(), RandomProjectionEncoder(), WalkerEncoder()]
    for encoder in encoders:
        reward = ProgressReward(distance=distances_to_centers)
        result = relabel(encoder.encode(videos), successes, reward=reward)
        correlation = rank_correlation(result.distances[~successes], ways_left[~successes])
        size = math.prod(encoder.latent_shape)
        print(f"{type(encoder).__name__:23}  {size:6}  {correlation:.2f}")


def play(rng: np.random.Generator, size: int = 32) -> tuple[Video, bool, float]:
    """Plays one episode; returns its frames, whether it succeeded, and the way left at its end."""
    env = Detour()
    observation, _ = env.reset()
    frames, ended = [draw(observation, size)], False
    while not ended:
        observation, _, success, truncated, info = env.step(noisy_policy(observation, rng))
        frames.append(draw(observation, size))
        ended = success or truncated
    return np.stack(frames), success, info["way_left"]


def rank_correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Returns Spearman's rank correlation of two sequences without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-episodes", type=int, default=200, help="default: %(default)s")
    main(parser.parse_args().num_episodes)
