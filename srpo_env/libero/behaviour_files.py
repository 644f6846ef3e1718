"""Files of episodes of many kinds, one HDF5 file per task and set of assets: made once, read often.

``data/episode_0``, ... each hold ``obs/agentview_rgb`` (upright), ``progress``, and as attributes
what makes the episode again: task, initial state, kind, seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.behaviours import FAILURES, KINDS, SUCCESSES, BehaviourEpisode, play
from srpo_env.libero.demos import IMAGE_KEYS, read_demos, recording_settings, whole_file
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task
from srpo_env.libero.visuals import Visuals, check_visuals

SUITE = "libero_object"

BEHAVIOUR_VERSION = 1
"""counts changes of the behaviours, the expert or the progress that alter the episodes"""

MAX_TRIES = 20
"""seeds that are tried for one episode until it ends as its kind means to"""

VIDEO = f"obs/{IMAGE_KEYS['agentview']}"


@dataclass(frozen=True)
class BehaviourRecording:
    """What to record of each task."""

    successes: int = 32
    """episodes, spread evenly over the kinds that succeed"""
    failures: int = 36
    """episodes, spread evenly over the kinds that fail"""
    init_states: tuple[int, ...] = tuple(range(40))
    """stored initial states, taken in turn; evaluation of policies keeps 40-49 for itself"""
    chunk: int = 8
    """control steps between two frames"""
    image_size: int = 128
    visuals: Visuals | None = None
    """``"exact"`` or ``"fast"`` images; None for what suits this machine"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        for name, least in (("successes", 0), ("failures", 0), ("chunk", 1), ("image_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if self.successes + self.failures == 0:
            raise ValueError("`successes` and `failures` must not both be 0: nothing to record")
        if not self.init_states:
            raise ValueError("`init_states` must name at least one initial state, got none")

    def plan(self, task_id: int) -> list[tuple[str, int, int]]:
        """Kind, initial state and first seed of each episode of a task.

        Successes and failures each go through the initial states in turn, so that every state gets
        both: a group to compare.
        """
        rng = np.random.default_rng([self.seed, task_id])
        episodes = []
        for names, count in ((SUCCESSES, self.successes), (FAILURES, self.failures)):
            kinds = rng.permutation([names[i % len(names)] for i in range(count)])
            starts = rng.permutation(self.init_states)
            for i, kind in enumerate(kinds):
                seed = int(rng.integers(2**31 - MAX_TRIES))
                episodes.append((str(kind), int(starts[i % len(starts)]), seed))
        return episodes


@dataclass(frozen=True)
class RecordedBehaviours:
    """What came of a task."""

    file: Path
    num_episodes: int
    rejected: int = 0
    """episodes that ended otherwise than their kind means to; they are not stored"""
    skipped: bool = False
    """the file was there already, recorded with the same settings"""


def record_behaviours(
    task_id: int,
    folder: str | Path,
    recording: BehaviourRecording,
    *,
    overwrite: bool = False,
    progress: Callable[[BehaviourEpisode], object] | None = None,
) -> RecordedBehaviours:
    """Records one task of libero_object with the assets in use; a file that is there is kept.

    Args:
        task_id: The task, in LIBERO's order.
        folder: Where the file goes; made if need be.
        recording: What to record.
        overwrite: Whether to replace a file recorded otherwise.
        progress: Called with each episode that is stored.

    Raises:
        FileExistsError: If the file is there, was recorded otherwise, and is not to be overwritten.
        ValueError: If a setting is wrong for the task, or a kind keeps ending otherwise than meant.
    """
    task, assets = get_task(SUITE, task_id), resolve_assets().kind
    path = Path(folder) / f"{task.name}_{assets}.hdf5"
    settings = {
        **asdict(recording),
        "init_states": list(recording.init_states),  # as JSON gives them back
        "visuals": check_visuals(recording.visuals),
        "assets": assets,
        "version": BEHAVIOUR_VERSION,
    }
    plan = recording.plan(task_id)
    if path.exists() and not overwrite:
        if recording_settings(path) == settings:
            return RecordedBehaviours(path, len(plan), skipped=True)
        raise FileExistsError(
            f"{str(path)!r} exists and was recorded with other settings: choose another folder, or "
            "overwrite it (`--overwrite`)"
        )
    rejected = 0
    simulation = Simulation(task, recording.image_size, recording.visuals)
    try:
        with whole_file(path) as file:
            data = file.create_group("data")
            data.attrs["recording"] = json.dumps(settings)
            data.attrs["format"] = "srpo-env behaviours"
            data.attrs["macros_image_convention"] = "opencv"  # upright
            for number, (kind, init_state_id, first_seed) in enumerate(plan):
                episode, tries = _play_as_meant(
                    simulation, kind, init_state_id, first_seed, recording.chunk
                )
                _write(data.create_group(f"episode_{number}"), episode)
                rejected += tries - 1
                if progress is not None:
                    progress(episode)
    finally:
        simulation.close()
    return RecordedBehaviours(path, len(plan), rejected)


def _play_as_meant(
    simulation: Simulation, kind: str, init_state_id: int, first_seed: int, chunk: int
) -> tuple[BehaviourEpisode, int]:
    for tries in range(1, MAX_TRIES + 1):
        seed = first_seed + tries - 1
        episode = play(simulation, kind, init_state_id, seed, chunk=chunk)
        if episode.success == KINDS[kind].succeeds:
            return episode, tries
    meant = "succeed" if KINDS[kind].succeeds else "fail"
    raise ValueError(
        f"episodes of kind {kind!r} must {meant}, and {MAX_TRIES} in a row of "
        f"{simulation.task.name} from initial state {init_state_id} did not"
    )


def _write(group: h5py.Group, episode: BehaviourEpisode) -> None:
    for name in ("task_id", "init_state_id", "kind", "seed", "success", "num_steps"):
        group.attrs[name] = getattr(episode, name)
    group["progress"] = episode.progress
    frames = episode.frames
    group.create_dataset(
        VIDEO, data=frames, chunks=(1, *frames.shape[1:]), compression="gzip", compression_opts=1
    )


def read_behaviours(source: str | Path | Iterable[str | Path]) -> Iterator[BehaviourEpisode]:
    """Yields the episodes of files, one in memory at a time.

    Args:
        source: A folder (all ``*.hdf5`` in it, by name), a file, or several of either.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no HDF5 file.
        ValueError: If a file is no HDF5 file, or holds something else.
    """
    for path in _files(source):
        if not _is_ours(path):
            raise ValueError(
                f"{str(path)!r} holds no episodes that `srpo-env episodes` has recorded"
            )
        yield from _read(path)


def read_videos(
    source: str | Path | Iterable[str | Path], chunk: int = 8
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields agent-view videos: of our episodes, and of demonstrations in LIBERO's layout.

    Args:
        source: A folder (all ``*.hdf5`` in it, by name), a file, or several of either.
        chunk: Of demonstrations, which have an image per control step, every so many are taken,
            and the last.

    Yields:
        Upright frames, each video ``(num_frames, height, width, 3)``.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no HDF5 file.
        ValueError: If a file is no HDF5 file, or holds something else.
    """
    for path in _files(source):
        if _is_ours(path):
            yield from (episode.frames for episode in _read(path))
        else:
            for demo in read_demos(path):
                frames = demo.images["agentview"]
                times = np.append(np.arange(0, len(frames) - 1, chunk), len(frames) - 1)
                yield frames[times]


def _files(source: str | Path | Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, [source] if isinstance(source, str | Path) else source):
        found = sorted(path.glob("*.hdf5")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise FileNotFoundError(
                f"there must be *.hdf5 files at {str(path)!r}, and there is none; "
                "`srpo-env episodes` records some"
            )
        files += found
    return files


def _is_ours(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            return data is not None and data.attrs.get("format") == "srpo-env behaviours"
    except OSError as error:
        raise ValueError(f"{str(path)!r} is no HDF5 file, or is damaged: {error}") from error


def _read(path: Path) -> Iterator[BehaviourEpisode]:
    with h5py.File(path, "r") as file:
        data = file["data"]
        for number in range(len(data)):
            group = data[f"episode_{number}"]
            attributes: dict[str, Any] = {
                "kind": str(group.attrs["kind"]),
                "success": bool(group.attrs["success"]),
            }
            for name in ("task_id", "init_state_id", "seed", "num_steps"):
                attributes[name] = int(group.attrs[name])
            yield BehaviourEpisode(
                frames=group[VIDEO][:], progress=group["progress"][:], **attributes
            )
