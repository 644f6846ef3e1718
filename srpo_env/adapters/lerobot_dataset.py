"""Writes episodes into a LeRobot dataset, format v3, with lerobot's own library.

Names, orientation and units are those of lerobot's LIBERO environment and of the datasets for it:
images are rotated by 180 degrees as OpenGL stores them, which is upright and mirrored; the state is
gripper position (m), axis-angle (rad) and fingers (m); actions are robosuite's. So a policy that is
trained on the dataset can be evaluated with ``lerobot-eval``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srpo_env.types import Floats, Video

FPS = 20
"""Control steps per second"""

CAMERAS = {"agentview": "observation.images.image", "wrist": "observation.images.image2"}
"""Cameras of this package, and their names in lerobot's datasets"""

STATE = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "finger1", "finger2")
ACTION = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper")


def features(image_size: int) -> dict[str, dict[str, Any]]:
    """Returns lerobot's description of a frame."""
    shape, axes = (image_size, image_size, 3), ["height", "width", "channel"]
    images = {name: {"dtype": "image", "shape": shape, "names": axes} for name in CAMERAS.values()}
    return {
        **images,
        "observation.state": {"dtype": "float32", "shape": (8,), "names": list(STATE)},
        "action": {"dtype": "float32", "shape": (7,), "names": list(ACTION)},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }


class DatasetWriter:
    """Adds episodes to a new dataset."""

    def __init__(self, dataset: Any) -> None:
        """Wraps a ``LeRobotDataset`` that was created with `features`."""
        self._dataset = dataset

    def add(
        self, images: Mapping[str, Sequence[Video]], states: Floats, actions: Floats, task: str
    ) -> None:
        """Adds one successful episode; row t of all arrays was observed before action t.

        Args:
            images: Upright frames by the name of the camera, ``agentview`` and ``wrist``, each
                ``(height, width, 3)``.
            states: Proprioception as in ``LiberoEnv``, ``(num_steps, 8)``.
            actions: ``(num_steps, 7)``.
            task: The instruction.
        """
        for step in range(len(actions)):
            reached = step == len(actions) - 1
            frame = {key: images[name][step][:, ::-1].copy() for name, key in CAMERAS.items()}
            self._dataset.add_frame(
                {
                    **frame,
                    "observation.state": states[step].astype(np.float32),
                    "action": actions[step].astype(np.float32),
                    "next.reward": np.array([reached], np.float32),
                    "next.success": np.array([reached]),
                    "task": task,
                }
            )
        self._dataset.save_episode()


def check_new_dataset(folder: str | Path) -> None:
    """Checks that lerobot is installed and that there is nothing at ``folder``.

    Raises:
        ImportError: If lerobot is not installed, or lacks its requirements for datasets.
        FileExistsError: If there is something.
    """
    _lerobot()
    if os.path.lexists(folder):
        raise FileExistsError(f"{str(folder)!r} exists: a LeRobot dataset needs a new folder")


@contextlib.contextmanager
def writing_dataset(folder: str | Path, image_size: int) -> Iterator[DatasetWriter]:
    """Makes a dataset that appears at ``folder`` if the block ends without an error.

    Args:
        folder: A new folder; its name becomes the dataset's ``repo_id``.
        image_size: Height and width of the images in pixels.

    Raises:
        ImportError: If lerobot is not installed.
        FileExistsError: If the folder exists.
    """
    check_new_dataset(folder)
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # lerobot creates the folder itself, inside of the temporary one.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        dataset = _lerobot().create(
            repo_id=folder.name,
            fps=FPS,
            features=features(image_size),
            root=unfinished / "dataset",
            robot_type="panda",
            use_videos=False,  # images without loss, which no version has trouble decoding
        )
        yield DatasetWriter(dataset)
        dataset.finalize()
        (unfinished / "dataset").rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _lerobot() -> Any:
    try:
        return importlib.import_module("lerobot.datasets.lerobot_dataset").LeRobotDataset
    except ImportError as error:
        raise ImportError(
            f"LeRobot datasets are written with lerobot 0.4 or later ({error}): run "
            "`pip install 'lerobot[dataset]'`"
        ) from error
