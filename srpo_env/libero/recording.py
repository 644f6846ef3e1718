"""Records episodes of LIBERO tasks into HDF5 files, one per task; shared by all recorders.

`demo_recording` and `behaviour_recording` decide which episodes are played and what is stored of
them. This module checks the settings, keeps an existing file with the same settings, and writes
files atomically.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.demos import recording_settings
from srpo_env.libero.hdf5 import whole_file
from srpo_env.libero.look import DEFAULT_LOOK, Look, check_look
from srpo_env.libero.rendering import MAX_SIZE, describe_gl
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import Task
from srpo_env.libero.visuals import Visuals, check_visuals


@dataclass(frozen=True)
class RecordingSettings:
    """Settings that all recorders have."""

    init_states: tuple[int, ...] = tuple(range(40))
    """Stored initial states to start from; 40-49 are reserved for evaluation."""
    image_size: int = 128
    """Height and width of the images in pixels."""
    visuals: Visuals | None = None
    """Kind of the images, ``"exact"`` or ``"fast"``; None: exact if a GPU renders, else fast."""
    look: Look = DEFAULT_LOOK
    """Colours of the images, ``"libero"`` or ``"mujoco"``; see `srpo_env.libero.look`."""
    seed: int = 0
    """Random seed of the initial states and of everything else that is drawn."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If there is no initial state, the image size is out of its range, or there
                is no such look.
        """
        check_look(self.look)
        if not self.init_states:
            raise ValueError("`init_states` must name at least one initial state, got none")
        if not 1 <= self.image_size <= MAX_SIZE:
            raise ValueError(f"`image_size` must be in 1..{MAX_SIZE} pixels, got {self.image_size}")


@dataclass(frozen=True)
class Recorded:
    """The result of recording one task."""

    file: Path
    num_episodes: int
    num_rejected: int = 0
    """Number of episodes that were played but not stored."""
    skipped: bool = False
    """Whether the file existed, recorded with the same settings."""


def record_file(
    path: Path,
    task: Task,
    settings: RecordingSettings,
    *,
    version: int,
    num_episodes: int,
    record: Callable[[Simulation, h5py.Group], int],
    overwrite: bool = False,
) -> Recorded:
    """Records one task, unless the file exists and was recorded with the same settings.

    Args:
        path: The file to write; its folder is created if needed.
        task: The task to record.
        settings: The recorder's settings; stored in the file.
        version: Version of the recorder, which changes when its episodes change.
        num_episodes: Number of episodes that the file will hold.
        record: Plays the episodes in a simulation and writes them into the group ``data`` of the
            file; returns the number of rejected episodes.
        overwrite: Replaces a file that was recorded with other settings.

    Raises:
        FileExistsError: If the file exists, was recorded with other settings, and ``overwrite`` is
            False.
        ValueError: If the task lacks one of the initial states.
    """
    described = _describe(settings, version)
    if path.exists() and not overwrite:
        if recording_settings(path) == described:
            return Recorded(path, num_episodes, skipped=True)
        raise FileExistsError(
            f"{str(path)!r} exists and was recorded with other settings: choose another folder, or "
            "overwrite it (`--overwrite`)"
        )
    num_states = len(task.init_states())
    unknown = [state for state in settings.init_states if not 0 <= state < num_states]
    if unknown:
        raise ValueError(
            f"`init_states` must be in 0..{num_states - 1} for {task.name}, got {unknown[0]}"
        )
    simulation = Simulation(task, settings.image_size, settings.visuals, look=settings.look)
    try:
        with whole_file(path) as file:
            data = file.create_group("data")
            data.attrs["recording"] = json.dumps(described)
            data.attrs["gl"] = describe_gl()
            num_rejected = record(simulation, data)
    finally:
        simulation.close()
    return Recorded(path, num_episodes, num_rejected)


def _describe(settings: RecordingSettings, version: int) -> dict[str, Any]:
    described = {
        **asdict(settings),
        "visuals": check_visuals(settings.visuals),
        "assets": resolve_assets().kind,
        "version": version,
        "mujoco": importlib.metadata.version("mujoco"),
    }
    content: dict[str, Any] = json.loads(json.dumps(described))  # as it is read from a file
    return content
