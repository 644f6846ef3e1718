"""A few episodes of a run: failures beside the successes they are compared with, for its report.

They lie in ``episodes/iteration_0010.npz``, ... in a run's folder, plain arrays without pickles.
What is recorded depends on the iteration alone, so a run that is resumed writes the same files.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence

import numpy as np
import torch

from srpo_env.rewards.progress import ProgressReward
from srpo_env.system.files import errors_name, write_file
from srpo_env.training.credit import potential_of
from srpo_env.training.episode_files import (
    EPISODES,
    FORMAT,
    FORMAT_VERSION,
    META,
    SampledEpisode,
    SampledGroup,
    episode_values,
)
from srpo_env.training.run import TrainingRun
from srpo_env.training.trajectories import Trajectory
from srpo_env.types import Group, Video, even_indices
from srpo_env.vector.frames import reduced

Batch = Sequence[tuple[Group, Sequence[Trajectory]]]

MAX_FILES = 16
"""Number of files, besides the first and the newest, at which every other one is deleted."""

NUM_COMPARED, NUM_FAILED = 2, 1
"""Number of groups in a file with both outcomes, and of groups without a success."""

MAX_FRAMES, MAX_SIZE = 24, 128
"""Largest number of frames of an episode, and largest height and width of a frame in pixels."""

JPEG_QUALITY = 85

CAMERA = "agentview"
"""Name of the third-person image among a policy's inputs; policies without it have no videos."""


def record_episodes(
    run: TrainingRun, batch: Batch, reward: ProgressReward, source: str, every: int
) -> None:
    """Records some episodes of the iteration that a run has just finished, if it is one to record.

    Those are the first one and every ``every``-th; older files are thinned out, so that their
    number is bounded. Of several ranks, only the first one records its own.

    Args:
        run: The run.
        batch: Its closed groups with the rewards that were trained on, and their trajectories.
        reward: Finds the success that is nearest to a failure.
        source: Name of the reward that was trained on, see `credit.rewarded`.
        every: Number of iterations between two recordings, at least 1.
    """
    now = run.iteration
    if not run.ranks.is_first or (now != 1 and now % every != 0):
        return
    groups = sample_groups(batch, reward, source, seed=(run.settings.seed, now))
    folder = run.folder / EPISODES
    with errors_name(folder):
        folder.mkdir(exist_ok=True)
    write_file(folder / _name(now), _packed(now, groups))
    kept = set(map(_name, kept_iterations(now, every)))
    # Also what a process that was killed has not finished, and what a checkpoint does not know of.
    for file in folder.iterdir():
        if re.match(r"\.?iteration_\d+\.npz", file.name) and file.name not in kept:
            file.unlink()


def kept_iterations(now: int, every: int) -> list[int]:
    """Returns the iterations whose recordings are kept: the first, evenly spaced ones, the newest.

    Examples:
        >>> kept_iterations(30, 10)
        [1, 10, 20, 30]
        >>> len(kept_iterations(10_000, 10))
        17
    """
    spacing = every
    while now // spacing > MAX_FILES:
        spacing *= 2
    return sorted({1, *range(spacing, now + 1, spacing), now})


def sample_groups(
    batch: Batch, reward: ProgressReward, source: str, seed: Sequence[int]
) -> list[SampledGroup]:
    """Draws groups with failures, of different tasks if there are several.

    Of each group, the failures with the highest and the lowest reward are taken, and the success
    that is nearest to each.

    Args:
        batch: Closed groups, and the trajectories of their episodes.
        reward: Finds the nearest success.
        source: Name of the reward that was trained on.
        seed: Random seed of the draw.
    """
    order = np.random.default_rng(list(seed)).permutation(len(batch))
    drawn = [batch[row] for row in order]
    failing = [pair for pair in drawn if pair[0].num_successes < len(pair[0].episodes)]
    compared = [pair for pair in failing if pair[0].num_successes]
    failed = [pair for pair in failing if not pair[0].num_successes]
    chosen = [*_of_different_tasks(compared)[:NUM_COMPARED], *failed[:NUM_FAILED]]
    return [_sampled(group, trajectories, reward, source) for group, trajectories in chosen]


def _of_different_tasks(batch: Batch) -> Batch:
    """Returns the first group of each task before all others."""
    seen: set[int] = set()
    ranks = []
    for _, trajectories in batch:
        ranks.append(trajectories[0].task_id in seen)
        seen.add(trajectories[0].task_id)
    return [batch[row] for row in np.argsort(ranks, kind="stable")]


def _sampled(
    group: Group, trajectories: Sequence[Trajectory], reward: ProgressReward, source: str
) -> SampledGroup:
    rewards = group.rewards
    won = np.array([episode.success for episode in group.episodes])
    failures, successes = np.flatnonzero(~won), np.flatnonzero(won)
    ordered = failures[np.argsort(-rewards[failures], kind="stable")]
    rows = ordered[[0, -1]] if np.ptp(rewards[failures]) > 0 else ordered[:1]
    nearest: list[int | None] = [None] * len(rows)
    if len(successes):
        latents = group.latents.astype(np.float64)
        _, places = reward.measure(latents[rows], latents[successes])
        nearest = successes[places].tolist()
    used = sorted({*rows.tolist(), *(row for row in nearest if row is not None)})
    episodes = {row: _episode(group, row, trajectories[row], source) for row in used}
    return SampledGroup(
        task_id=trajectories[0].task_id,
        init_state_id=trajectories[0].init_state_id,
        rewards=rewards,
        successes=won,
        pairs=tuple(zip(rows.tolist(), nearest, strict=True)),
        episodes=episodes,
        perturbation=trajectories[0].perturbation,
    )


def _episode(group: Group, row: int, trajectory: Trajectory, source: str) -> SampledEpisode:
    episode = group.episodes[row]
    before = trajectory.steps_before()
    tokens_per_step = len(trajectory.chunks[0].tokens) // len(trajectory.chunks[0].positions)
    num_steps = trajectory.executed // tokens_per_step
    measured = source == "oracle" or (
        source == "srpo" and len(episode.potential) and not np.isnan(episode.potential).any()
    )
    shown = even_indices(len(before), min(len(before), MAX_FRAMES))
    images = [trajectory.chunks[index].inputs.get(CAMERA) for index in shown]
    frames = [
        reduced(image.numpy(), MAX_SIZE)
        for image in images
        if image is not None and image.dtype == torch.uint8 and image.shape[2:] == (3,)
    ]
    return SampledEpisode(
        num_steps=num_steps,
        steps=np.append(before, num_steps),
        potential=potential_of(episode, trajectory, source) if measured else np.empty(0),
        frame_steps=before[shown] if frames else before[:0],
        strip=_jpeg_strip(np.stack(frames)) if frames else b"",
    )


def _jpeg_strip(frames: Video) -> bytes:
    """Returns frames side by side as one JPEG, which takes a twentieth of their size."""
    # A requirement of matplotlib and of LIBERO.
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.concatenate(frames, axis=1)).save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _packed(iteration: int, groups: Sequence[SampledGroup]) -> bytes:
    meta = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "iteration": iteration,
        "groups": [
            {
                "task_id": group.task_id,
                "init_state_id": group.init_state_id,
                **({"perturbation": group.perturbation} if group.perturbation else {}),
                "rewards": group.rewards.tolist(),
                "successes": group.successes.tolist(),
                "pairs": group.pairs,
                "episodes": {row: episode_values(e) for row, e in group.episodes.items()},
            }
            for group in groups
        ],
    }
    arrays = {META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    for number, group in enumerate(groups):
        for row, episode in group.episodes.items():
            arrays[f"{number}.{row}"] = np.frombuffer(episode.strip, np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _name(iteration: int) -> str:
    return f"iteration_{iteration:04d}.npz"
