"""Where an environment keeps what the reward needs: the frames, the success flag, the task.

Environments differ, and a wrong guess would not crash but train on the wrong thing. So the
defaults know the conventions by name, and whatever is ambiguous is an error that says which
argument to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate

FRAME_PATHS = ("agentview", "pixels/image", "agentview_image", "pixels")
"""Third-person cameras by convention: this package's and LIBERO's, lerobot's, robosuite's."""

SUCCESS_KEYS = ("is_success", "success")
"""Success flags by convention: this package, lerobot, Gymnasium-Robotics; Meta-World, ManiSkill."""

BROKEN = "worker_error"
"""In the info of an episode that ended because its simulator failed, which says nothing about the
policy; this package's LIBERO environments put the report there."""

IN_INFO = "info/"
"""How a path to frames begins that leads into the info and not into the observation."""

Frame = npt.NDArray[np.uint8]
FramesOf = Callable[[Any], Any]
Key = Callable[[dict[str, Any]], Hashable]


def info_of(infos: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The info of one sub-environment, out of Gymnasium's dictionary of arrays and masks.

    Args:
        infos: As a vector environment returns it; a key whose mask ``_key`` is False at ``index``
            is left out, and one without a mask is taken to hold for all sub-environments.
        index: Sub-environment.
    """
    info = {}
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[index]:
            continue
        info[key] = info_of(values, index) if isinstance(values, Mapping) else values[index]
    return info


def final_of(name: str, infos: Mapping[str, Any], index: int) -> Any:
    """What SAME_STEP keeps of an episode's last step, ``"final_obs"`` or ``"final_info"``.

    Raises:
        ValueError: If the environment has not kept it.
    """
    values = infos.get(name)
    mask = infos.get(f"_{name}")
    if values is None or (mask is not None and not mask[index]):
        raise ValueError(
            f"AutoresetMode.SAME_STEP promises infos[{name!r}] when an episode ends, but that of "
            f"environment {index} is not among {sorted(infos)}"
        )
    return info_of(values, index) if isinstance(values, Mapping) else values[index]


def look_up(tree: Any, path: str) -> Any:
    """The entry of nested mappings at a path such as ``"pixels/image"``; ``None`` without one."""
    for name in path.split("/"):
        if not isinstance(tree, (Mapping, spaces.Dict)) or name not in tree.keys():
            return None
        tree = tree[name]
    return tree


# --- Frames ---


class FrameSource:
    """Takes the camera image of one sub-environment out of what `step` and `reset` return."""

    def __init__(self, envs: VectorEnv[Any, Any, Any], frames: str | FramesOf | None) -> None:
        """Finds the camera; fails here and not at the first episode's end.

        Args:
            envs: Vector environment; only its spaces, modes and `render` are used.
            frames: Path into a Dict observation (``"pixels/image"``) or into the info
                (``"info/image"``), ``"render"``, a callable that maps the observation of one
                sub-environment to its image, or ``None`` to search.

        Raises:
            TypeError: If ``frames`` is something else.
            ValueError: If no image, or more than one that might be meant, is found.
        """
        if not (frames is None or isinstance(frames, str) or callable(frames)):
            raise TypeError(f"`frames` must be a path, a callable or None, got {frames!r}")
        self._envs = envs
        self._function = frames if callable(frames) else None
        self._render = frames == "render"
        self._info_path = ""
        self.path = ""
        if self._render:
            _check_render(envs)
        elif isinstance(frames, str) and frames.startswith(IN_INFO):
            # No space tells what an info will hold, so the first `reset` is where it is looked at.
            self._info_path = frames.removeprefix(IN_INFO)
        elif not callable(frames):
            space = envs.single_observation_space
            self.path = _find_camera(space) if frames is None else frames
            _check_camera(space, self.path)

    def single(self, observation: Any, info: Mapping[str, Any]) -> Frame:
        """The image in the observation or the info of one sub-environment."""
        if self._info_path:
            return _frame_in_info(info, self._info_path)
        if self._function is not None:
            return checked_frame(self._function(observation))
        return checked_frame(look_up(observation, self.path) if self.path else observation)

    def batch(self, observations: Any, infos: Mapping[str, Any]) -> Callable[[int], Frame]:
        """The image of each sub-environment, by index, in the observations or infos of all."""
        if self._info_path:
            return lambda index: _frame_in_info(info_of(infos, index), self._info_path)
        if self._function is not None:
            singles = list(iterate(self._envs.observation_space, observations))
            return lambda index: self.single(singles[index], {})
        if self._render:
            images: Any = self._envs.render()
        else:
            images = look_up(observations, self.path) if self.path else observations
        return lambda index: checked_frame(images[index])


def _check_render(envs: VectorEnv[Any, Any, Any]) -> None:
    if envs.render_mode != "rgb_array":
        raise ValueError(
            'frames="render" needs environments made with render_mode="rgb_array", got '
            f"{envs.render_mode!r}"
        )
    if envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
        raise ValueError(
            'frames="render" cannot see an episode\'s last frame with AutoresetMode.SAME_STEP, '
            "which resets before anybody can render; use NEXT_STEP or DISABLED, or put "
            'srpo_env.RenderInInfo around each environment and pass frames="info/rendered"'
        )


def _frame_in_info(info: Mapping[str, Any], path: str) -> Frame:
    frame = look_up(info, path)
    if frame is None:
        raise ValueError(
            f'frames="{IN_INFO}{path}" needs an image in the info of every reset and every step, '
            f"got an info with {sorted(info)}"
        )
    return checked_frame(frame)


def checked_frame(frame: Any) -> Frame:
    """The frame itself, if it is one.

    Raises:
        ValueError: If it is not an RGB image in uint8.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or not _is_rgb(frame.shape):
        raise ValueError(
            "A frame must be a uint8 array of shape (height, width, 3), got "
            f"{getattr(frame, 'dtype', type(frame).__name__)} {np.shape(frame)}; pass `frames` a "
            "callable that converts the observation of one sub-environment"
        )
    return frame


def _is_rgb(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and shape[0] > 0 and shape[1] > 0


def _is_camera(space: Any) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and _is_rgb(space.shape)


def _cameras(space: Space[Any], path: str = "") -> Iterator[str]:
    if _is_camera(space):
        yield path
    if isinstance(space, spaces.Dict):
        for name, subspace in space.items():
            yield from _cameras(subspace, f"{path}/{name}" if path else name)


def _find_camera(space: Space[Any]) -> str:
    cameras = list(_cameras(space))
    known = [path for path in FRAME_PATHS if path in cameras]
    if known:
        return known[0]
    if len(cameras) == 1:
        return cameras[0]
    if cameras:
        raise ValueError(
            f"Several cameras might show the episode: {cameras}; pass the third-person one, as in "
            f'frames="{cameras[0]}"'
        )
    raise ValueError(
        f"No camera image (uint8, height x width x 3) in the observations {space}; pass "
        '`frames="render"` if the environments have render_mode="rgb_array", "info/..." if their '
        "infos have the image, or a callable that makes it from the observation of one "
        "sub-environment"
    )


def _check_camera(space: Space[Any], path: str) -> None:
    found = look_up(space, path) if path else space
    if not _is_camera(found):
        raise ValueError(
            f'frames="{path}" must name a uint8 Box of shape (height, width, 3), got {found}; the '
            f"observations have {list(_cameras(space)) or 'no such image'}"
        )


# --- Success ---


def success_of(
    info: dict[str, Any], terminated: bool, success: str | Callable[[dict[str, Any]], Any] | None
) -> bool:
    """Whether an episode succeeded, from the info of its last step.

    Args:
        info: Info of the sub-environment at the last step.
        terminated: Whether that step terminated the episode.
        success: Path into the info, ``"terminated"``, a callable of the info, or ``None`` for the
            conventions in `SUCCESS_KEYS`.

    Raises:
        ValueError: If there is no flag, its value is not 0 or 1, or two conventions disagree.
    """
    if success == "terminated":
        return terminated
    if callable(success):
        return _flag(success(info), "`success(info)`")
    paths = SUCCESS_KEYS if success is None else (success,)
    flags = {
        path: _flag(value, f"info[{path!r}]")
        for path in paths
        if (value := look_up(info, path)) is not None
    }
    if not flags:
        raise ValueError(
            f"No success flag {' or '.join(map(repr, paths))} in the info of an episode's last "
            f"step, which has {sorted(info)}; pass `success` the name of the flag, "
            'success="terminated" if the environment terminates on success only, or a callable of '
            "the info"
        )
    if len(set(flags.values())) > 1:
        raise ValueError(f"The success flags disagree: {flags}; pass `success` the one that counts")
    return next(iter(flags.values()))


def _flag(value: Any, name: str) -> bool:
    flag = np.asarray(value)
    if flag.size != 1 or flag.item() not in (0, 1):
        raise ValueError(f"{name} must be a single bool, or 0 or 1, got {value!r}")
    return bool(flag.item())


# --- Keys ---


class KeySource:
    """Says which group and which task an episode belongs to, from the info of its reset."""

    def __init__(self, group_key: Key | None, task_key: Key | None) -> None:
        """Chooses the keys; ``None`` for the default ones.

        Raises:
            TypeError: If a key is not a callable.
        """
        for name, key in (("group_key", group_key), ("task_key", task_key)):
            if not (key is None or callable(key)):
                raise TypeError(
                    f"`{name}` must be a callable of the info of an episode's reset, such as "
                    f'lambda info: info["task_id"], got {key!r}'
                )
        self._group_key = group_key or default_group_key
        self._task_key = task_key or default_task_key
        self._checks_end = group_key is None and task_key is None
        self._late_task: Hashable = None

    def at_start(self, info: dict[str, Any]) -> tuple[Hashable, Hashable]:
        """Key of the group and key of the task."""
        return plain(self._group_key(info)), plain(self._task_key(info))

    def check_end(self, task: Hashable, info: dict[str, Any]) -> None:
        """Stops if the end of an episode tells that its reset should have told its task.

        Raises:
            ValueError: If episodes of different tasks would be compared with each other.
        """
        late_task = plain(default_task_key(info))
        if not self._checks_end or task is not None or late_task is None:
            return
        if self._late_task not in (None, late_task):
            raise ValueError(
                f"Episodes of tasks {self._late_task!r} and {late_task!r} were taken for one task, "
                "because only the info of `step` names the task; put `task_id` into the info of "
                "`reset`, or pass `group_key` and `task_key`"
            )
        self._late_task = late_task

    def state(self) -> Any:
        """Everything that `load` needs."""
        return self._late_task

    def load(self, state: Any) -> None:
        """Takes over what `state` returned."""
        self._late_task = state


def default_group_key(info: dict[str, Any]) -> Hashable:
    """Task and initial state; what the info does not tell counts as the same for all episodes."""
    return (default_task_key(info), info.get("init_state_id"))


def default_task_key(info: dict[str, Any]) -> Hashable:
    """``task_id``, else the text ``task``, else ``None``: then all episodes are of one task."""
    task: Hashable = info.get("task_id")
    if task is None and isinstance(info.get("task"), str):
        task = info["task"]
    return task


def plain(key: Any) -> Hashable:
    """A key made of Python's own int, float, bool, str, None and tuple, so that it can be saved.

    Raises:
        TypeError: If it is made of anything else.
    """
    if isinstance(key, (np.generic, np.ndarray)) and np.size(key) == 1:
        key = key.item()
    if isinstance(key, tuple):
        return tuple(plain(part) for part in key)
    if key is None or isinstance(key, (bool, int, float, str)):
        return key
    raise TypeError(
        "`group_key` and `task_key` must return int, float, bool, str, None or tuples of these, "
        f"got {key!r}"
    )
