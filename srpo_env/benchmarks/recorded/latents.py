"""Latents of recorded episodes, and of growing prefixes of the successes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from srpo_env.benchmarks.reward.metrics import window_ends
from srpo_env.encoders.protocol import TrajectoryEncoder, encode_checked, reward_for
from srpo_env.offline import RecordedEpisode
from srpo_env.rewards.progress import ProgressReward
from srpo_env.types import Bools, Floats

NUM_PREFIXES = 10
"""Number of growing prefixes per success."""

MAX_CURVES = 20
"""Number of successes per task whose prefixes are encoded; limits the cost."""


@dataclass(frozen=True, eq=False)
class EncodedEpisodes:
    """Latents of recorded episodes by one encoder."""

    encoder: str
    reward: ProgressReward
    """Measures distances as the wrapper does with this encoder."""
    tasks: tuple[str, ...]
    successes: Bools
    """Shape ``(num_episodes,)``."""
    latents: Floats
    """Shape ``(num_episodes, *latent_shape)``."""
    prefixes: Mapping[int, Floats]
    """Latents of the prefixes of some successes, by row, each ``(num_prefixes, *latent_shape)``."""
    times: Mapping[int, Floats]
    """Share of the episode in each prefix, in (0, 1], by row, each ``(num_prefixes,)``."""


def encode_episodes(
    episodes: Iterable[RecordedEpisode],
    encoders: Mapping[str, TrajectoryEncoder],
    *,
    num_prefixes: int = NUM_PREFIXES,
    batch_size: int = 8,
    progress: Callable[[], object] | None = None,
) -> list[EncodedEpisodes]:
    """Encodes episodes, and growing prefixes of the first `MAX_CURVES` successes of each task.

    Args:
        episodes: Episodes of any number of tasks; at most ``batch_size`` are held in memory.
        encoders: Encoders by name.
        num_prefixes: Number of prefixes per success; the last is the whole episode.
        batch_size: Number of episodes that are encoded in one call, with their prefixes.
        progress: Called after each episode.

    Returns:
        The latents of each encoder, in the order of ``encoders``.

    Raises:
        ValueError: If there is no episode, or an encoder fails on one.
    """
    tasks: list[str] = []
    successes: list[bool] = []
    latents: dict[str, list[Floats]] = {name: [] for name in encoders}
    prefixes: dict[str, dict[int, Floats]] = {name: {} for name in encoders}
    times: dict[int, Floats] = {}
    batch: list[tuple[int, RecordedEpisode]] = []

    def encode() -> None:
        ends = {row: window_ends(len(e.video), num_prefixes) for row, e in batch if row in times}
        videos, labels = [], []
        for row, episode in batch:
            windows = ends.get(row, [len(episode.video)])
            videos += [episode.video[:end] for end in windows]
            labels += [f"{episode.name} of {episode.source}"] * len(windows)
        for name, encoder in encoders.items():
            encoded = encode_checked(encoder, videos, labels).astype(np.float64)
            first = 0
            for row, _ in batch:
                last = first + len(ends.get(row, [0]))
                latents[name].append(encoded[last - 1])  # the longest prefix is the whole episode
                if row in ends:
                    prefixes[name][row] = encoded[first:last]
                first = last
        batch.clear()

    num_curves: dict[str, int] = {}
    for row, episode in enumerate(episodes):
        tasks.append(episode.task)
        successes.append(episode.success)
        if episode.success and num_curves.get(episode.task, 0) < MAX_CURVES:
            num_curves[episode.task] = num_curves.get(episode.task, 0) + 1
            num_frames = len(episode.video)
            times[row] = window_ends(num_frames, num_prefixes) / num_frames
        batch.append((row, episode))
        if len(batch) == batch_size:
            encode()
        if progress is not None:
            progress()
    if batch:
        encode()
    if not tasks:
        raise ValueError("there must be at least one recorded episode, got none")
    return [
        EncodedEpisodes(
            encoder=name,
            reward=reward_for(encoder, None),
            tasks=tuple(tasks),
            successes=np.array(successes),
            latents=np.stack(latents[name]),
            prefixes=prefixes[name],
            times=times,
        )
        for name, encoder in encoders.items()
    ]
