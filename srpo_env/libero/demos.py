"""Demonstrations in LIBERO's own HDF5 layout: one file per task, read and written here.

LIBERO's files (`scripts/create_dataset.py` there) and ours differ in three ways that a reader has
to know, and :func:`read_demos` does:

* **Rows.** robosuite hands over images as OpenGL stores them, the lowest row first, and so do both
  kinds of file. ``macros_image_convention`` says so.
* **Time.** In LIBERO's files, row ``t`` of ``obs`` was seen *after* row ``t`` of ``actions``; in
  ours (and in files regenerated for OpenVLA) it was seen *before*. ``states`` always precedes the
  action, so the joint positions in it tell which of the two a file holds.
* **Labels.** Ours may be recorded with noise on the executed actions. ``actions`` is then what the
  expert wanted (a policy should learn that), and ``executed_actions`` what was done.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from srpo_env.libero.suites import instruction_of

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]

IMAGE_KEYS = {"agentview": "agentview_rgb", "wrist": "eye_in_hand_rgb"}
"""Names of the cameras here, and of their datasets in the files"""

FILE_ENDING = "_demo.hdf5"
"""What LIBERO appends to a task's name"""

JOINTS = slice(1, 8)
"""Where a flattened simulator state (time, positions, velocities) has the arm's joints"""


@dataclass(frozen=True)
class Demo:
    """One demonstration, as a policy sees it: row ``t`` of everything comes before action ``t``."""

    instruction: str
    images: dict[str, Images]
    """``agentview`` and ``wrist``: upright, shape ``(num_steps, height, width, 3)``"""
    proprio: npt.NDArray[np.float32]
    """as in ``LiberoEnv``: position (m), axis-angle (rad), two fingers (m); ``(num_steps, 8)``"""
    actions: npt.NDArray[np.float32]
    """shape ``(num_steps, 7)``, in [-1, 1]"""
    source: str
    """file and group that it comes from"""


def demo_file(folder: str | Path, task_name: str) -> Path:
    """Where LIBERO puts the demonstrations of a task."""
    return Path(folder) / f"{task_name}{FILE_ENDING}"


# --- Reading ------------------------------------------------------------------------------------


def read_demos(
    source: str | Path | Iterable[str | Path], *, demos_per_task: int | None = None
) -> Iterator[Demo]:
    """Yields demonstrations from LIBERO's files or ours, one in memory at a time.

    Args:
        source: A folder (all ``*.hdf5`` in it, by name), a file, or several of either.
        demos_per_task: How many to read of each file, the first ones; default: all.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no HDF5 file.
        ValueError: If a file is no HDF5 file or not in LIBERO's layout.
    """
    if demos_per_task is not None and demos_per_task < 1:
        raise ValueError(f"`demos_per_task` must be at least 1, got {demos_per_task}")
    paths = [source] if isinstance(source, str | Path) else list(source)
    files = [file for path in paths for file in _files_at(Path(path))]
    return (demo for file in files for demo in _read_file(file, demos_per_task))


def _files_at(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.hdf5"))
        if not files:
            raise FileNotFoundError(
                f"a folder of demonstrations must hold *.hdf5 files, {str(path)!r} has none; "
                "`srpo-env demos` records some"
            )
        return files
    if not path.is_file():
        raise FileNotFoundError(f"there are no demonstrations at {str(path)!r}: no such file")
    return [path]


def _read_file(path: Path, limit: int | None) -> Iterator[Demo]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is no HDF5 file, or is damaged: {error}") from error
    with file:
        if not isinstance(file.get("data"), h5py.Group) or len(file["data"]) == 0:
            raise ValueError(
                "a file in LIBERO's layout must hold demonstrations at data/demo_0, data/demo_1, "
                f"..., {str(path)!r} has none"
            )
        data = file["data"]
        instruction = _instruction(path, data)
        from_below = _is_stored_from_below(path, data)
        names = sorted(data, key=_number)
        for name in names[:limit]:
            yield _read_demo(data[name], instruction, from_below, f"{path}:data/{name}")


def _read_demo(group: h5py.Group, instruction: str, from_below: bool, source: str) -> Demo:
    needed = ["actions", "states"] + [
        f"obs/{key}"
        for key in ("ee_pos", "ee_ori", "gripper_states", "joint_states", *IMAGE_KEYS.values())
    ]
    missing = [key for key in needed if key not in group]
    if missing:
        raise ValueError(f"{source} lacks what LIBERO's layout has: {', '.join(missing)}")
    lengths = {key: len(group[key]) for key in needed}
    if len(set(lengths.values())) > 1 or lengths["actions"] == 0:
        raise ValueError(
            f"{source} must have equally many rows (1 or more) everywhere, got {lengths}"
        )

    obs = group["obs"]
    seen_after = _is_seen_after(group["states"][:, JOINTS], obs["joint_states"][:], source)
    # What was seen after action t comes before action t + 1.
    rows, actions = (slice(None, -1), slice(1, None)) if seen_after else (slice(None), slice(None))
    proprio = np.concatenate(
        [obs[key][rows] for key in ("ee_pos", "ee_ori", "gripper_states")], axis=1
    )
    return Demo(
        instruction=instruction,
        images={
            camera: obs[key][rows][:, ::-1] if from_below else obs[key][rows]
            for camera, key in IMAGE_KEYS.items()
        },
        proprio=proprio.astype(np.float32),
        actions=group["actions"][actions].astype(np.float32),
        source=source,
    )


def _is_seen_after(joints_before: Floats, joints_seen: Floats, source: str) -> bool:
    """Whether row t of the observations was taken after action t; from joint positions in rad."""
    if len(joints_seen) < 2:
        return False
    before = float(np.abs(joints_seen - joints_before).mean())
    after = float(np.abs(joints_seen[:-1] - joints_before[1:]).mean())
    # A playback that strays a little is usual in LIBERO's files; other episodes' states are not.
    if min(before, after) > 0.1:
        raise ValueError(
            f"the joint positions in `states` and in `obs/joint_states` of {source} must agree, "
            f"got a mean difference of {min(before, after):.2f} rad; do they belong together?"
        )
    return after < before


def _instruction(path: Path, data: h5py.Group) -> str:
    # From the task's name, as LIBERO's evaluation has it. `problem_info` words it otherwise ("Pick
    # the milk ..." for "pick up the milk ..."), and a policy is told what the environment says.
    if "bddl_file_name" in data.attrs:
        return instruction_of(Path(str(data.attrs["bddl_file_name"])).stem)
    if path.name.endswith(FILE_ENDING):
        return instruction_of(path.name.removesuffix(FILE_ENDING))
    raise ValueError(
        f"{str(path)!r} must name its task, by the attribute `bddl_file_name` of `data` or as file "
        f"name <task>{FILE_ENDING}"
    )


def _is_stored_from_below(path: Path, data: h5py.Group) -> bool:
    # Regenerated files leave the attribute out; OpenGL's way is robosuite's default.
    convention = str(data.attrs.get("macros_image_convention", "opengl"))
    if convention not in ("opengl", "opencv"):
        raise ValueError(
            f"`macros_image_convention` must be 'opengl' or 'opencv', "
            f"{str(path)!r} has {convention!r}"
        )
    return convention == "opengl"


def _number(name: str) -> tuple[int, str]:
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
            actions: What the expert wanted, shape ``(num_steps, 7)``.
            executed_actions: What was done, shape ``(num_steps, 7)``.
            states: Flattened simulator states (time, positions, velocities) before the actions,
                shape ``(num_steps, 1 + nq + nv)``.
            robot_states: Fingers (m), position (m) and quaternion (xyzw), shape ``(num_steps, 9)``.
            obs: LIBERO's observations by name, each ``(num_steps, ...)``; images upright.
            init_state_id: The stored initial state that the episode began from.
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
                # One chunk per image, so that a reader can take out a few.
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
    """Opens a new file that appears at ``path`` when the block is left without an error."""
    with whole_file(path) as file:
        yield DemoWriter(file.create_group("data"), attributes)


@contextmanager
def whole_file(path: str | Path) -> Iterator[h5py.File]:
    """Opens a new HDF5 file that appears at ``path`` when the block is left without an error.

    So a file that is there is complete; what is interrupted leaves nothing behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    os.close(descriptor)
    try:
        with h5py.File(unfinished, "w") as file:
            yield file
        # mkstemp lets nobody but the owner read; a data set is to be shared like any new file.
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def recording_settings(path: str | Path) -> dict[str, Any] | None:
    """The settings that one of our files was recorded with; None for another's file.

    Raises:
        ValueError: If it is no HDF5 file.
    """
    try:
        with h5py.File(path, "r") as file:
            data = file.get("data")
            text = None if data is None else data.attrs.get("recording")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is no HDF5 file, or is damaged: {error}") from error
    return None if text is None else dict(json.loads(text))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
