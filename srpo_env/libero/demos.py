"""Reads and writes demonstrations in LIBERO's own HDF5 layout, one file per task.

`read_demos` handles the differences between LIBERO's files (its `scripts/create_dataset.py`)
and those of this package:

* **Rows.** robosuite returns images as OpenGL stores them, bottom row first, and both kinds of file
  store them in this order. The attribute ``macros_image_convention`` documents it.
* **Time.** In LIBERO's files, row ``t`` of ``obs`` was observed *after* row ``t`` of ``actions``;
  in ours (and in files regenerated for OpenVLA), *before* it. ``states`` always precedes the
  action, so its joint positions show which of the two a file has.
* **Labels.** Ours can be recorded with noise on the executed actions. Then ``actions`` holds the
  expert's actions without noise, which a policy should learn, and ``executed_actions`` those with
  noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srpo_env.libero.hdf5 import find_files, whole_file
from srpo_env.libero.look import Look
from srpo_env.libero.suites import instruction_of
from srpo_env.readers.hdf5 import (
    Hdf5Array,
    Hdf5Group,
    are_rows_from_below,
    check_is_video,
    open_hdf5,
)
from srpo_env.system.files import DamagedFileError, parse_json
from srpo_env.types import Floats

Images = npt.NDArray[np.uint8]

IMAGE_KEYS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
"""Names of the cameras in this package, and of their datasets in the files."""

FILE_ENDING = "_demo.hdf5"
"""End of the file names, after the task's name."""

VIDEOS = {camera: f"obs/{key}" for camera, key in IMAGE_KEYS.items()}
"""Datasets of the images, by the camera's name in this package."""

PROPRIO = ("obs/ee_pos", "obs/ee_ori", "obs/gripper_states")
"""Datasets that make up the proprioception, in its order."""

SHAPES: dict[str, int | None] = {
    "actions": 7, "states": None, "obs/ee_pos": 3, "obs/ee_ori": 3, "obs/gripper_states": 2,
    "obs/joint_states": 7,
}  # fmt: skip
"""Datasets of numbers, and the length of their rows; states have one that depends on the task."""

MAX_ACTION = 1 + 1e-6
"""Largest absolute value of an action, with a tolerance for rounding"""

JOINTS = slice(1, 8)
"""The arm's joints in a flattened simulator state (time, positions, velocities)."""


@dataclass(frozen=True)
class Demo:
    """One demonstration; row ``t`` of each array was observed before action ``t``."""

    instruction: str
    images: dict[str, Images]
    """``agentview`` and ``wrist``: upright, shape ``(num_steps, height, width, 3)``."""
    proprio: npt.NDArray[np.float32]
    """Position (m), axis-angle (rad), two fingers (m), as in ``LiberoEnv``; ``(num_steps, 8)``."""
    actions: npt.NDArray[np.float32]
    """Shape ``(num_steps, 7)``, in [-1, 1]."""
    source: str
    """File and group that it was read from."""


def demo_file(folder: str | Path, task_name: str) -> Path:
    """Returns the path of a task's demonstrations, as LIBERO names it."""
    return Path(folder) / f"{task_name}{FILE_ENDING}"


# --- Reading ------------------------------------------------------------------------------------


def read_demos(
    source: str | Path | Iterable[str | Path],
    *,
    demos_per_task: int | None = None,
    look: Look | None = None,
    only_successes: bool = False,
) -> Iterator[Demo]:
    """Yields demonstrations from LIBERO's files or ours, one in memory at a time.

    Args:
        source: A folder (all its ``*.hdf5`` files, sorted by name), a file, or several of either.
        demos_per_task: Number of demonstrations to read from each file; default: all.
        look: The look that all images must have; default: any. LIBERO's own files have "libero".
        only_successes: Whether an episode that failed is an error, as for imitation. Files without
            ``rewards`` do not say it.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder has no HDF5 file.
        ValueError: If a file is not an HDF5 file, not in LIBERO's layout, or of another look, if
            numbers are not finite or actions not in [-1, 1], or if an episode failed and must not.
    """
    if demos_per_task is not None and demos_per_task < 1:
        raise ValueError(f"`demos_per_task` must be at least 1, got {demos_per_task}")
    files = find_files(source, "srpo-env demos")
    return (
        demo for file in files for demo in _read_file(file, demos_per_task, look, only_successes)
    )


def _read_file(
    path: Path, limit: int | None, look: Look | None, only_successes: bool
) -> Iterator[Demo]:
    with open_hdf5(path) as file:
        data, names = demonstrations_of(file, path)
        recorded = _recording(path, data)
        # Files of this package without a record are older than the option.
        found = "libero" if recorded is None else recorded.get("look", "mujoco")
        if look not in (None, found):
            raise ValueError(
                f"demonstrations must have images with look={look!r}, {str(path)!r} has {found!r}: "
                "record them again, or choose that look"
            )
        instruction = _instruction(path, data)
        is_flipped = are_rows_from_below(data)
        for name in names[:limit]:
            source = f"{path}:data/{name}"
            group = data.group(name)
            if group is None:
                raise DamagedFileError(f"{source} cannot be read: the file is damaged")
            rewards = group.array("rewards") if only_successes else None
            if rewards is not None and not (rewards.read() == 1).any():
                raise ValueError(
                    f"{source} must have reached the goal to be imitated, but none of its "
                    "`rewards` is 1: leave it out"
                )
            yield _read_demo(group, instruction, is_flipped, source)


def _read_demo(group: Hdf5Group, instruction: str, is_flipped: bool, source: str) -> Demo:
    found = {key: group.array(key) for key in (*SHAPES, *VIDEOS.values())}
    arrays = {key: array for key, array in found.items() if array is not None}
    missing = [key for key in found if key not in arrays]
    if missing:
        raise ValueError(f"{source} lacks datasets of LIBERO's layout: {', '.join(missing)}")
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) > 1 or lengths["actions"] == 0:
        raise ValueError(
            f"all datasets of {source} must have the same number of rows, at least 1, got {lengths}"
        )
    for key in VIDEOS.values():
        check_is_video(arrays[key], source)
    numbers = {key: read_numbers(arrays[key], size) for key, size in SHAPES.items()}
    if numbers["states"].shape[1] < JOINTS.stop:
        raise ValueError(
            f"`states` of {source} must have the {JOINTS.stop - JOINTS.start} joint positions of "
            f"the arm after the time, got shape {numbers['states'].shape}"
        )
    largest = float(np.abs(numbers["actions"]).max())
    if largest > MAX_ACTION:
        raise ValueError(
            f"`actions` of {source} must be in [-1, 1], as LIBERO's environment takes them, got "
            f"{largest:g}: are they in other units?"
        )
    observed_after = _is_observed_after(
        numbers["states"][:, JOINTS], numbers["obs/joint_states"], source
    )
    # An observation after action t is the one before action t + 1.
    all_rows = slice(None)
    rows, actions = (slice(None, -1), slice(1, None)) if observed_after else (all_rows, all_rows)
    proprio = np.concatenate([numbers[key][rows] for key in PROPRIO], axis=1)
    images = {camera: arrays[key].read(rows) for camera, key in VIDEOS.items()}
    return Demo(
        instruction=instruction,
        images={name: video[:, ::-1] if is_flipped else video for name, video in images.items()},
        proprio=proprio.astype(np.float32),
        actions=numbers["actions"][actions].astype(np.float32),
        source=source,
    )


def read_numbers(array: Hdf5Array, size: int | None) -> Floats:
    """Reads rows of numbers; ``size`` is their length, None for any."""
    if len(array.shape) != 2 or array.shape[1] != (size or array.shape[1]):
        raise ValueError(
            f"{array.place} must have shape (num_steps, {size or 'n'}), got {array.shape}"
        )
    values: Floats = array.read().astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{array.place} must be finite, and has NaN or infinite values")
    return values


def _is_observed_after(joints_before: Floats, observed: Floats, source: str) -> bool:
    """Returns whether row t was observed after action t, from joint positions in rad."""
    if len(observed) < 2:
        return False
    before = float(np.abs(observed - joints_before).mean())
    after = float(np.abs(observed[:-1] - joints_before[1:]).mean())
    # Small differences are usual in LIBERO's files, which were recorded during a replay.
    if min(before, after) > 0.1:
        raise ValueError(
            f"the joint positions in `states` and in `obs/joint_states` of {source} must agree, "
            f"got a mean difference of {min(before, after):.2f} rad; do they belong together?"
        )
    return after < before


def _instruction(path: Path, data: Hdf5Group) -> str:
    # From the task's name, as in LIBERO's evaluation. `problem_info` has another text ("Pick the
    # milk ..." for "pick up the milk ..."), which the environment does not use.
    task_file = data.text("bddl_file_name")
    if task_file is not None:
        return instruction_of(Path(task_file).stem)
    if path.name.endswith(FILE_ENDING):
        return instruction_of(path.name.removesuffix(FILE_ENDING))
    raise ValueError(
        f"{str(path)!r} must name its task, by the attribute `bddl_file_name` of `data` or as file "
        f"name <task>{FILE_ENDING}"
    )


def demonstrations_of(file: Hdf5Group, path: str | Path) -> tuple[Hdf5Group, list[str]]:
    """Returns the group of a file's demonstrations, and their names in the order of their numbers.

    Raises:
        ValueError: If the file has no demonstrations.
    """
    data = file.group("data")
    names = [] if data is None else sorted(data.names(), key=_number)
    if data is None or not names:
        raise ValueError(
            "a file in LIBERO's layout must hold demonstrations at data/demo_0, data/demo_1, "
            f"..., {str(path)!r} has none"
        )
    return data, names


def _number(name: str) -> tuple[int, str]:
    """Sorts names such as ``demo_10`` by their number."""
    digits = name.removeprefix("demo_")
    return (int(digits) if digits.isdigit() else -1, name)


# --- Writing ------------------------------------------------------------------------------------


class DemoWriter:
    """Appends demonstrations to an open file."""

    def __init__(self, data: h5py.Group, attributes: Mapping[str, Any]) -> None:
        """Writes the attributes of a task.

        Args:
            data: The group ``data`` of a new file.
            attributes: The attributes that LIBERO's files have.
        """
        self._data = data
        for name, value in attributes.items():
            self._data.attrs[name] = value
        self._data.attrs["macros_image_convention"] = "opengl"
        self._data.attrs["num_demos"] = self._data.attrs["total"] = 0

    def add(
        self,
        *,
        actions: Floats,
        executed_actions: Floats,
        states: Floats,
        robot_states: Floats,
        obs: Mapping[str, npt.NDArray[Any]],
        init_state_id: int,
    ) -> None:
        """Writes one successful episode.

        Args:
            actions: The expert's actions without noise, shape ``(num_steps, 7)``.
            executed_actions: The actions with noise, shape ``(num_steps, 7)``.
            states: Flattened simulator states (time, positions, velocities) before the actions,
                shape ``(num_steps, 1 + nq + nv)``.
            robot_states: Fingers (m), position (m) and quaternion (xyzw), shape ``(num_steps, 9)``.
            obs: LIBERO's observations by name, each ``(num_steps, ...)``; images upright.
            init_state_id: The stored initial state at the episode's start.
        """
        index, num_steps = int(self._data.attrs["num_demos"]), len(actions)
        group = self._data.create_group(f"demo_{index}")
        group.attrs["num_samples"] = num_steps
        group.attrs["init_state"] = states[0]
        group.attrs["init_state_id"] = init_state_id
        group["actions"], group["executed_actions"] = actions, executed_actions
        group["states"], group["robot_states"] = states, robot_states
        ended = np.zeros(num_steps, np.uint8)
        ended[-1] = 1
        group["rewards"] = group["dones"] = ended
        for name, values in obs.items():
            if name in IMAGE_KEYS.values():
                # One chunk per image, so that single images can be read.
                group.create_dataset(
                    f"obs/{name}",
                    data=values[:, ::-1],
                    chunks=(1, *values.shape[1:]),
                    compression="gzip",
                    compression_opts=1,
                )
            else:
                group[f"obs/{name}"] = values
        self._data.attrs["num_demos"] = index + 1
        self._data.attrs["total"] = int(self._data.attrs["total"]) + num_steps


@contextmanager
def writing_demos(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[DemoWriter]:
    """Opens a new file that appears at ``path`` if the block ends without an error."""
    with whole_file(path) as file:
        yield DemoWriter(file.create_group("data"), attributes)


def recording_settings(path: str | Path) -> dict[str, Any] | None:
    """Returns the settings that a file was recorded with; None if this package did not record it.

    Raises:
        ValueError: If it is not an HDF5 file, or is damaged.
    """
    with open_hdf5(path) as file:
        data = file.group("data")
        return None if data is None else _recording(Path(path), data)


def _recording(path: Path, data: Hdf5Group) -> dict[str, Any] | None:
    text = data.text("recording")
    if text is None:
        return None
    content = parse_json(text, f"the attribute `recording` of {str(path)!r}")
    if not isinstance(content, dict):
        raise DamagedFileError(f"the attribute `recording` of {str(path)!r} must be an object")
    return content
