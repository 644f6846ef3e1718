"""Rewards for recorded episodes, from LIBERO's HDF5 files or a LeRobot dataset.

Recorded files are only read. `write_rewards` writes the rewards into new files next to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.encoders.protocol import (
    TrajectoryEncoder,
    encode_checked,
    encoder_settings,
    reward_for,
)
from srpo_env.rewards.progress import ProgressReward, Relabeling, relabel
from srpo_env.types import Ints, Video, even_indices

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


def relabel_episodes(
    episodes: Iterable[RecordedEpisode],
    encoder: TrajectoryEncoder,
    *,
    reward: ProgressReward | None = None,
    batch_size: int = 8,
) -> RelabeledEpisodes:
    """Rewards recorded episodes by the successes of their task.

    Args:
        episodes: Episodes of any number of tasks and files; at most ``batch_size`` videos are held.
        encoder: Maps their frames to latents.
        reward: How failures are rewarded; ``None`` for the paper's formula and the encoder's own
            distance.
        batch_size: Number of videos that are encoded in one call.

    Raises:
        ValueError: If there is no episode, or the encoder fails on one.
    """
    reward = reward_for(encoder, reward)
    known: list[RecordedEpisode] = []
    latents: list[npt.NDArray[np.float32]] = []
    batch: list[RecordedEpisode] = []

    def encode() -> None:
        labels = [f"{episode.name} of {episode.source}" for episode in batch]
        latents.append(encode_checked(encoder, [episode.video for episode in batch], labels))
        batch.clear()

    for episode in episodes:
        batch.append(episode)
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
        relabeling=relabel(points, successes, tasks, reward),
        settings={**encoder_settings(encoder), **reward.settings()},
    )


# --- Reading ---


def read_libero(
    path: str | Path, *, camera: str = "agentview_rgb", max_frames: int = 64
) -> Iterator[RecordedEpisode]:
    """Yields the episodes of a file in LIBERO's layout, ``data/demo_0``, ``data/demo_1``, ...

    An episode succeeded if any of its ``rewards`` is 1. The task is the file's name without
    ``_demo``, so that demonstrations and a policy's own episodes of one task can be in two files of
    one name.

    Args:
        path: The file.
        camera: Name of the images in ``obs``.
        max_frames: Frames to take of each episode, evenly spaced.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not in LIBERO's layout, or its rewards are not 0 and 1.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HDF5 files are read with h5py: run `pip install h5py`", name="h5py"
        ) from error

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no recorded episodes at {str(path)!r}: no such file")
    with h5py.File(path, "r") as file:
        data = file.get("data")
        if data is None or not len(data):
            raise ValueError(
                "A file in LIBERO's layout must hold episodes at data/demo_0, data/demo_1, ..., "
                f"{str(path)!r} has none"
            )
        # OpenGL stores the lowest row first, and files that do not say are of that kind.
        from_below = str(data.attrs.get("macros_image_convention", "opengl")) == "opengl"
        task = path.stem.removesuffix("_demo")
        for name in sorted(data, key=lambda name: (len(name), name)):
            group = data[name]
            images, rewards = group.get(f"obs/{camera}"), group.get("rewards")
            if images is None or rewards is None or not len(images):
                raise ValueError(
                    f"data/{name} of {str(path)!r} must have `rewards` and images at "
                    f"obs/{camera}; in obs it has {sorted(group.get('obs', ()))}"
                )
            video = images[_evenly_spaced(len(images), max_frames)]
            yield RecordedEpisode(
                name=f"data/{name}",
                task=task,
                success=_success_of(np.asarray(rewards), f"data/{name} of {str(path)!r}"),
                video=np.ascontiguousarray(video[:, ::-1]) if from_below else video,
                source=str(path),
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
    camera = _lerobot_camera(dataset.meta.camera_keys, camera)
    labels = [key for key in ("next.success", "next.reward") if key in dataset.features]
    if successes is None and not labels:
        raise ValueError(
            "A dataset must say which episodes succeeded, in `next.success` or `next.reward`, and "
            f"this one has {sorted(dataset.features)}; pass `successes`, a bool for each episode"
        )
    # Whole columns, as reading a row would decode its images.
    columns = dataset.hf_dataset
    episode_of_row = np.array([int(value) for value in columns["episode_index"]])
    episodes = list(dict.fromkeys(episode_of_row.tolist()))
    if successes is not None and len(successes) != len(episodes):
        raise ValueError(f"`successes` must name {len(episodes)} episodes, got {len(successes)}")
    values = None if successes is not None else np.array([float(v) for v in columns[labels[0]]])
    for number, episode in enumerate(episodes):
        rows = np.flatnonzero(episode_of_row == episode)
        name = f"episode_{episode}"
        if successes is not None:
            success = bool(successes[number])
        else:
            assert values is not None
            success = _success_of(values[rows], f"{name} of {dataset.root}")
        items = [dataset[int(row)] for row in rows[_evenly_spaced(len(rows), max_frames)]]
        yield RecordedEpisode(
            name=name,
            task=str(items[0]["task"]),
            success=success,
            video=np.stack([_image_of(item[camera]) for item in items]),
            source=str(dataset.root),
        )


def _evenly_spaced(num_frames: int, max_frames: int) -> Ints:
    if max_frames < 2:
        raise ValueError(f"`max_frames` must be at least 2, got {max_frames}")
    return even_indices(num_frames, min(num_frames, max_frames))


def _success_of(rewards: npt.NDArray[Any], name: str) -> bool:
    if not np.isin(rewards, (0, 1)).all():
        raise ValueError(
            f"The rewards of {name} must be 0 or 1, to say whether it succeeded, got values from "
            f"{rewards.min()} to {rewards.max()}"
        )
    return bool(rewards.any())


def _lerobot_camera(cameras: Sequence[str], camera: str | None) -> str:
    if camera is None and LEROBOT_CAMERA in cameras:
        return LEROBOT_CAMERA
    if camera is None and len(cameras) == 1:
        return cameras[0]
    if camera is None or camera not in cameras:
        raise ValueError(f"`camera` must be one of {list(cameras)}, got {camera!r}")
    return camera


def _image_of(image: Any) -> Video:
    """LeRobot's float image, ``(3, height, width)`` in [0, 1], as ours."""
    pixels = np.asarray(image, dtype=np.float32)
    return np.ascontiguousarray((pixels.transpose(1, 2, 0) * 255.0).round().astype(np.uint8))


# --- Writing ---


def rewards_file(source: str | Path) -> Path:
    """Where the rewards of a recorded file or folder go: beside it, ending in ``.srpo.npz``."""
    source = Path(source)
    name = source.name if source.is_dir() else source.stem
    return source.with_name(f"{name}.srpo.npz")


def write_rewards(result: RelabeledEpisodes, *, overwrite: bool = False) -> dict[str, Path]:
    """Writes the rewards of each source beside it.

    A file holds one row for each episode: ``names``, ``tasks``, ``successes``, ``rewards``,
    ``distances``, ``nearest_centers``, ``latents``; and ``settings``, a JSON text. ``np.load``
    reads it without pickle.

    Args:
        result: From `relabel_episodes`.
        overwrite: Whether rewards written earlier may be replaced.

    Returns:
        The new file of each source.

    Raises:
        FileExistsError: If one is there already; then none is written.
    """
    files = {source: rewards_file(source) for source in dict.fromkeys(result.sources)}
    present = [str(file) for file in files.values() if file.exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{', '.join(present)} exists already: move it away, or overwrite it (`--overwrite`)"
        )
    sources = np.array(result.sources)
    for source, file in files.items():
        rows = np.flatnonzero(sources == source)
        np.savez(
            file,
            names=np.array(result.names)[rows],
            tasks=np.array(result.tasks)[rows],
            successes=result.successes[rows],
            rewards=result.relabeling.rewards[rows],
            distances=result.relabeling.distances[rows],
            nearest_centers=result.relabeling.nearest_centers[rows],
            latents=result.latents[rows],
            settings=np.array(json.dumps(result.settings)),
        )
    return files
