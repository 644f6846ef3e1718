"""Rewards for recorded episodes, from LIBERO's HDF5 files or a LeRobot dataset.

Recorded files are only read. `write_rewards` writes the rewards into new files next to them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import (
    TrajectoryEncoder,
    encode_checked,
    encoder_settings,
    moment_frames,
    reward_for,
)
from srpo_env.readers.hdf5 import are_rows_from_below, check_is_video, open_hdf5
from srpo_env.rewards.progress import ProgressReward, Relabeling, relabel
from srpo_env.system.files import DamagedFileError, check_can_write, write_file
from srpo_env.types import (
    Credit,
    Floats,
    Ints,
    Video,
    checked_count,
    checked_credit,
    even_indices,
    step_shares,
)

LEROBOT_CAMERA = "observation.images.image"
"""Third-person camera of LIBERO in LeRobot's datasets."""


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """What the reward needs of one recorded episode."""

    name: str
    """Its place in the file."""
    task: str
    """Its task; episodes of one task are compared with each other."""
    success: bool
    """Whether the goal was reached."""
    video: Video
    """Evenly spaced frames, the first and the last among them."""
    source: str
    """File or folder that it comes from."""
    frame_steps: Ints | None = None
    """Number of steps before each frame, shape ``(num_frames,)``; None: one step between frames."""
    num_steps: int | None = None
    """Number of steps of the episode; None: up to the last frame."""


@dataclass(frozen=True, eq=False)
class RelabeledEpisodes:
    """Recorded episodes without their frames, and their rewards, in the same order."""

    names: tuple[str, ...]
    tasks: tuple[str, ...]
    sources: tuple[str, ...]
    successes: npt.NDArray[np.bool_]
    latents: npt.NDArray[np.float32]
    """Shape ``(num_episodes, *latent_shape)``."""
    relabeling: Relabeling
    settings: dict[str, Any]
    """Encoder, distance, formula and weight that made the rewards."""
    num_steps: Ints
    """Number of steps of each episode, shape ``(num_episodes,)``."""
    potential_steps: Ints
    """Number of steps before each value of `Relabeling.potentials`, same shape."""

    @property
    def step_rewards(self) -> list[Floats]:
        """Rewards paid along the way: for each episode, one per step, with the reward as their sum.

        Raises:
            ValueError: If they were made with ``credit="episode"``.
        """
        result = self.relabeling
        parts = (result.rewards, result.potentials, self.potential_steps, self.num_steps)
        return [
            float(reward) * step_shares(potential, steps, int(length))
            for reward, potential, steps, length in zip(*parts, strict=True)
        ]


def relabel_episodes(
    episodes: Iterable[RecordedEpisode],
    encoder: TrajectoryEncoder,
    *,
    reward: ProgressReward | None = None,
    credit: Credit = "episode",
    batch_size: int = 8,
) -> RelabeledEpisodes:
    """Rewards recorded episodes by the successes of their task.

    Args:
        episodes: Episodes of any number of tasks and files; at most ``batch_size`` videos are held.
        encoder: Maps their frames to latents.
        reward: How failures are rewarded; ``None`` for the paper's formula and the encoder's own
            distance.
        credit: ``"dense"`` also computes the progress potential of each episode, and rewards per
            step from it (`RelabeledEpisodes.step_rewards`).
        batch_size: Number of videos that are encoded in one call.

    Raises:
        ValueError: If there is no episode, the encoder fails on one, or dense credit does not fit
            the encoder, because its latents are points.
    """
    reward = reward_for(encoder, reward)
    is_dense = checked_credit(credit, encoder.latent_shape) == "dense"
    known: list[RecordedEpisode] = []
    latents: list[npt.NDArray[np.float32]] = []
    batch: list[RecordedEpisode] = []
    moments: list[Ints] = []
    num_steps: list[int] = []

    def encode() -> None:
        labels = [f"{episode.name} of {episode.source}" for episode in batch]
        latents.append(encode_checked(encoder, [episode.video for episode in batch], labels))
        batch.clear()

    for episode in episodes:
        batch.append(episode)
        steps, length = _steps_of(episode)
        shown = moment_frames(encoder, len(episode.video)) if is_dense else np.empty(0, np.int64)
        moments.append(steps[shown])
        num_steps.append(length)
        known.append(replace(episode, video=np.empty((0, 0, 0, 3), np.uint8)))
        if len(batch) == batch_size:
            encode()
    if batch:
        encode()
    if not known:
        raise ValueError("There must be at least one recorded episode, got none")
    successes = np.array([episode.success for episode in known])
    points = np.concatenate(latents)
    tasks = tuple(episode.task for episode in known)
    return RelabeledEpisodes(
        names=tuple(episode.name for episode in known),
        tasks=tasks,
        sources=tuple(episode.source for episode in known),
        successes=successes,
        latents=points,
        relabeling=relabel(points, successes, tasks, reward, credit=credit),
        settings={**encoder_settings(encoder), **reward.settings()},
        num_steps=np.array(num_steps, np.int64),
        potential_steps=np.stack(moments),
    )


def _steps_of(episode: RecordedEpisode) -> tuple[Ints, int]:
    """Returns the number of steps before each frame of an episode, and of all its steps."""
    count = len(episode.video)
    steps = np.arange(count) if episode.frame_steps is None else np.asarray(episode.frame_steps)
    length = max(1, int(steps[-1])) if episode.num_steps is None else episode.num_steps
    if steps.shape != (count,) or (np.diff(steps, prepend=0, append=length) < 0).any():
        raise ValueError(
            f"`frame_steps` of {episode.name} must be {count} ascending numbers in 0..{length}, "
            f"one for each frame, got {steps.tolist()}"
        )
    return steps, length


# --- Reading ---


def read_libero(
    path: str | Path,
    *,
    camera: str = "agentview_rgb",
    successes: Mapping[str, bool] | None = None,
    max_frames: int = 64,
) -> Iterator[RecordedEpisode]:
    """Yields the episodes of a file in LIBERO's layout, ``data/demo_0``, ``data/demo_1``, ...

    An episode succeeded if any of its ``rewards`` is 1. The task is the file's name without
    ``_demo``, so that demonstrations and a policy's own episodes of one task can be in two files of
    one name.

    Args:
        path: The file.
        camera: Name of the images in ``obs``.
        successes: Which episodes succeeded, by their name, such as ``demo_0``; by default those
            with a reward of 1.
        max_frames: Frames to take of each episode, evenly spaced.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not in LIBERO's layout, its rewards are not 0 and 1, or ``successes``
            names other episodes.
    """
    checked_count("max_frames", max_frames, minimum=2)
    path = Path(path)
    with open_hdf5(path) as file:
        data = file.group("data")
        names = [] if data is None else data.names()
        if data is None or not names:
            raise ValueError(
                "A file in LIBERO's layout must hold episodes at data/demo_0, data/demo_1, ..., "
                f"{str(path)!r} has none"
            )
        if successes is not None and set(successes) != set(names):
            wrong = sorted(set(successes) ^ set(names))
            raise ValueError(
                f"`successes` must name the episodes of {str(path)!r}, {wrong[0]} is in one of them"
            )
        from_below = are_rows_from_below(data)
        task = path.stem.removesuffix("_demo")
        for name in sorted(names, key=lambda name: (len(name), name)):
            place = f"data/{name} of {str(path)!r}"
            group = data.group(name)
            if group is None:  # a damaged file can list a name that it does not find
                raise DamagedFileError(f"{place} cannot be read: the file is damaged")
            images, rewards = group.array(f"obs/{camera}"), group.array("rewards")
            if images is None or not len(images):
                obs = group.group("obs")
                raise ValueError(
                    f"{place} must have images at obs/{camera}; in obs it has "
                    f"{[] if obs is None else sorted(obs.names())}"
                )
            if successes is not None:
                success = bool(successes[name])
            elif rewards is not None:
                success = _success_of(rewards.read(), place)
            else:
                raise ValueError(
                    f"{place} must have `rewards`, which say whether it succeeded: add them, or "
                    "name the successes (`successes`, or --successes of `srpo-env relabel`)"
                )
            check_is_video(images, place)
            # An image is recorded before each step; the one after the last step is not.
            rows = even_indices(len(images), min(len(images), max_frames))
            video = images.read(rows)
            yield RecordedEpisode(
                name=f"data/{name}",
                task=task,
                success=success,
                video=np.ascontiguousarray(video[:, ::-1]) if from_below else video,
                source=str(path),
                frame_steps=rows,
                num_steps=len(images),
            )


def read_lerobot(
    dataset: Any,
    *,
    camera: str | None = None,
    successes: Sequence[bool] | None = None,
    max_frames: int = 64,
) -> Iterator[RecordedEpisode]:
    """Yields the episodes of a LeRobot dataset; only the frames that are used are decoded.

    Args:
        dataset: A ``LeRobotDataset``, opened with lerobot's own library.
        camera: Name of the images; by default LIBERO's third-person camera, or the only one.
        successes: Which episodes succeeded; by default those with a true ``next.success``, or a
            ``next.reward`` of 1 in datasets without.
        max_frames: Frames to take of each episode, evenly spaced.

    Raises:
        ValueError: If the camera is not clear, or nothing says which episodes succeeded.
    """
    checked_count("max_frames", max_frames, minimum=2)
    camera = _lerobot_camera(dataset, camera)
    labels = [key for key in ("next.success", "next.reward") if key in dataset.features]
    if successes is None and not labels:
        raise ValueError(
            "A dataset must say which episodes succeeded, in `next.success` or `next.reward`, and "
            f"{dataset.root} has {sorted(dataset.features)}; pass `successes`, a bool for each "
            "episode (--successes of `srpo-env relabel`)"
        )
    # Whole columns, as reading a row would decode its images.
    columns = dataset.hf_dataset
    episode_of_row = np.array([int(value) for value in columns["episode_index"]])
    episodes = list(dict.fromkeys(episode_of_row.tolist()))
    if successes is not None and len(successes) != len(episodes):
        raise ValueError(
            f"`successes` must name the {len(episodes)} episodes of {dataset.root}, got "
            f"{len(successes)}"
        )
    values = None if successes is not None else np.array([float(v) for v in columns[labels[0]]])
    for number, episode in enumerate(episodes):
        rows = np.flatnonzero(episode_of_row == episode)
        name = f"episode_{episode}"
        if successes is not None:
            success = bool(successes[number])
        else:
            assert values is not None
            success = _success_of(values[rows], f"{name} of {dataset.root}")
        steps = even_indices(len(rows), min(len(rows), max_frames))
        chosen = rows[steps]
        items = [dataset[int(row)] for row in chosen]
        yield RecordedEpisode(
            name=name,
            task=str(items[0]["task"]),
            success=success,
            video=np.stack(
                [_image_of(item[camera], f"{name} of {dataset.root}") for item in items]
            ),
            source=str(dataset.root),
            frame_steps=steps,
            num_steps=len(rows),
        )


def _success_of(rewards: npt.NDArray[Any], name: str) -> bool:
    if rewards.ndim != 1 or not len(rewards):
        raise ValueError(
            f"The rewards of {name} must be one number per step, got an array of shape "
            f"{rewards.shape}"
        )
    if not np.isin(rewards, (0, 1)).all():
        raise ValueError(
            f"The rewards of {name} must be 0 or 1, to say whether it succeeded, got values from "
            f"{rewards.min()} to {rewards.max()}"
        )
    return bool(rewards.any())


def _lerobot_camera(dataset: Any, camera: str | None) -> str:
    cameras: Sequence[str] = dataset.meta.camera_keys
    if camera is None and LEROBOT_CAMERA in cameras:
        return LEROBOT_CAMERA
    if camera is None and len(cameras) == 1:
        return cameras[0]
    if camera is None or camera not in cameras:
        raise ValueError(
            f"`camera` must be one of {list(cameras)}, those of {dataset.root}, got {camera!r}"
        )
    return camera


def _image_of(image: Any, name: str) -> Video:
    """Converts LeRobot's float image, ``(3, height, width)`` in [0, 1], to uint8 with RGB last."""
    pixels = np.asarray(image, dtype=np.float32)
    # NaN and values out of range would be cast to arbitrary pixels. The tolerance rounds to none.
    if pixels.ndim != 3 or len(pixels) != 3 or not (np.abs(pixels - 0.5) <= 0.501).all():
        raise ValueError(
            f"An image of {name} must have shape (3, height, width) and values in [0, 1], got "
            f"shape {pixels.shape} and values from {pixels.min()} to {pixels.max()}"
        )
    return np.ascontiguousarray((pixels.transpose(1, 2, 0) * 255.0).round().astype(np.uint8))


# --- Writing ---


def rewards_file(source: str | Path) -> Path:
    """Where the rewards of a recorded file or folder go: beside it, ending in ``.srpo.npz``."""
    source = Path(source)
    if source.name in ("", ".."):  # such as the present folder
        source = source.resolve()
    name = source.name if source.is_dir() else source.stem
    return source.with_name(f"{name}.srpo.npz")


def check_rewards_files(sources: Iterable[str | Path], *, overwrite: bool) -> dict[str, Path]:
    """Returns the new file of each source, after checking that it can be written.

    Raises:
        FileExistsError: If a file is there already and must not be replaced.
        OSError: If a file cannot be written, for example because its folder is read-only.
        ValueError: If two sources have the same new file.
    """
    files = {str(source): rewards_file(source) for source in sources}
    by_file: dict[Path, str] = {}
    for source, file in files.items():
        # Resolved, because one file can be named in several ways.
        other = by_file.setdefault(file.parent.resolve() / file.name, source)
        if other != source:
            raise ValueError(
                f"The rewards of {other!r} and {source!r} would both be written to {str(file)!r}: "
                "they are one recording, or have one name; leave out or rename one of them"
            )
    # `lexists`: writing to a link that leads nowhere would create a file in another place.
    present = [str(file) for file in files.values() if os.path.lexists(file)]
    if present and not overwrite:
        raise FileExistsError(
            f"{', '.join(present)} exists already: move it away, or overwrite it (`--overwrite`)"
        )
    for file in files.values():
        check_can_write(file)
    return files


def write_rewards(result: RelabeledEpisodes, *, overwrite: bool = False) -> dict[str, Path]:
    """Writes the rewards of each source beside it.

    A file holds one row for each episode: ``names``, ``tasks``, ``successes``, ``rewards``,
    ``distances``, ``nearest_centers``, ``latents``; and ``settings``, a JSON text. With dense
    credit also ``potentials``, ``potential_steps`` and ``num_steps``, and ``step_rewards``, those
    of all episodes one after the other: ``np.split(step_rewards, np.cumsum(num_steps)[:-1])``.
    ``np.load`` reads it without pickle. Each file appears when it is complete.

    Args:
        result: From `relabel_episodes`.
        overwrite: Whether rewards written earlier may be replaced.

    Returns:
        The new file of each source.

    Raises:
        FileExistsError: If one is there already; then none is written.
        OSError: If one cannot be written; if that is known before, none is written.
        ValueError: If two sources have the same new file; then none is written.
    """
    files = check_rewards_files(result.sources, overwrite=overwrite)
    sources = np.array(result.sources)
    is_dense = result.potential_steps.shape[1] > 0
    step_rewards = result.step_rewards if is_dense else []
    for source, file in files.items():
        rows = np.flatnonzero(sources == source)
        content = io.BytesIO()
        dense = (
            {
                "potentials": result.relabeling.potentials[rows],
                "potential_steps": result.potential_steps[rows],
                "num_steps": result.num_steps[rows],
                "step_rewards": np.concatenate([step_rewards[row] for row in rows]),
            }
            if is_dense
            else {}
        )
        np.savez(
            content,
            names=np.array(result.names)[rows],
            tasks=np.array(result.tasks)[rows],
            successes=result.successes[rows],
            rewards=result.relabeling.rewards[rows],
            distances=result.relabeling.distances[rows],
            nearest_centers=result.relabeling.nearest_centers[rows],
            latents=result.latents[rows],
            settings=np.array(json.dumps(result.settings)),
            **dense,  # type: ignore[arg-type]
        )
        write_file(file, content.getvalue())  # replaces a link, and not what it leads to
    return files
