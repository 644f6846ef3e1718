"""Finds the frames of an episode, and records a bounded number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate

from srpo_env.types import Ints, Video, as_array, checked_count, even_indices
from srpo_env.vector.infos import info_of, look_up

FRAME_PATHS = ("agentview", "pixels/image", "agentview_image", "pixels")
"""Third-person cameras by convention: this package and LIBERO, lerobot, robosuite."""

IN_INFO = "info/"
"""Prefix of a path to frames that are in the info instead of the observation."""

ENCODED = "encoded"
"""Setting of frames for environments that encode their episodes themselves; see `LatentInInfo`."""

LATENT, ENCODED_STEPS = "latent", "latent_steps"
"""Keys of the latent, and of the number of steps before each of its moments, in the info of an
episode's last step."""

Frame = npt.NDArray[np.uint8]
"""RGB image, ``(height, width, 3)``."""
FramesOf = Callable[[Any], Any]

_NO_IMAGE: Frame = np.zeros((1, 1, 3), np.uint8)
"""Stands for the frames that only the environment has."""


class FrameSource:
    """Finds the camera image of each sub-environment in what `step` and `reset` return."""

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        frames: str | FramesOf | None,
        max_size: int | None = None,
    ) -> None:
        """Finds the camera.

        Args:
            envs: Vector environment; only its spaces, modes and `render` are used.
            frames: Path into a Dict observation (``"pixels/image"``) or into the info
                (``"info/image"``), ``"render"``, ``"encoded"``, a callable that maps the
                observation of one sub-environment to its image, or ``None`` to search.
            max_size: Largest height and width of a frame in pixels; larger ones are reduced.

        Raises:
            TypeError: If ``frames`` is none of these.
            ValueError: If no image, or more than one candidate, is found.
        """
        if not (frames is None or isinstance(frames, str) or callable(frames)):
            raise TypeError(f"`frames` must be a path, a callable or None, got {frames!r}")
        self._envs = envs
        self.max_size = None if max_size is None else checked_count("max_frame_size", max_size)
        self._function = frames if callable(frames) else None
        self._render = frames == "render"
        self.encoded = frames == ENCODED
        """Whether there are no frames, because the infos have the latents."""
        self._info_path = ""
        self.path = ""
        if self.encoded:
            return
        if self._render:
            _check_render(envs)
        elif isinstance(frames, str) and frames.startswith(IN_INFO):
            # No space describes an info: only the first `reset` shows whether it has the image.
            self._info_path = frames.removeprefix(IN_INFO)
        elif not callable(frames):
            space = envs.single_observation_space
            self.path = _find_camera(envs) if frames is None else frames
            _check_camera(space, self.path)

    @property
    def in_observations(self) -> bool:
        """Whether the frames come from the observations, which each reset returns completely."""
        return not (self._render or self._info_path or self.encoded)

    def single(self, observation: Any, info: Mapping[str, Any]) -> Frame:
        """Returns the image in the observation or the info of one sub-environment."""
        if self.encoded:
            return _NO_IMAGE
        if self._info_path:
            return self._checked(_image_in_info(info, self._info_path))
        if self._function is not None:
            return self._checked(self._function(observation))
        return self._checked(look_up(observation, self.path) if self.path else observation)

    def batch(self, observations: Any, infos: Any) -> Callable[[int], Frame]:
        """Returns a function that maps the index of a sub-environment to its image."""
        if self.encoded:
            return lambda index: _NO_IMAGE
        if self._info_path:
            num_envs = self._envs.num_envs
            return lambda index: self.single(None, info_of(infos, index, num_envs))
        if self._function is not None:
            singles = list(iterate(self._envs.observation_space, observations))
            return lambda index: self.single(singles[index], {})
        if self._render:
            images: Any = self._envs.render()
        else:
            images = look_up(observations, self.path) if self.path else observations
        return lambda index: self._checked(images[index])

    def _checked(self, image: Any) -> Frame:
        frame = checked_frame(image)
        return frame if self.max_size is None else reduced(frame, self.max_size)


def checked_frame(frame: Any) -> Frame:
    """Returns an image as a NumPy array.

    Raises:
        ValueError: If it is not an RGB image in uint8.
    """
    image = as_array(frame) if hasattr(frame, "shape") else frame
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not _is_rgb(image.shape):
        raise ValueError(
            "A frame must be a uint8 array or tensor of shape (height, width, 3), got "
            f"{getattr(frame, 'dtype', type(frame).__name__)} {np.shape(frame)}; pass `frames` a "
            "callable that converts the observation of one sub-environment"
        )
    return image


def reduced(frame: Frame, max_size: int) -> Frame:
    """Reduces an image by a whole factor, so that neither side is longer than ``max_size``.

    Each pixel is the mean of a block; rows and columns that do not fill a block are cut off.
    """
    height, width = frame.shape[:2]
    factor = -(-max(height, width) // max_size)
    if factor == 1:
        return frame
    rows, columns = max(1, height // factor), max(1, width // factor)
    blocks = frame[: rows * factor, : columns * factor].reshape(
        rows, min(factor, height), columns, min(factor, width), 3
    )
    means: Frame = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    return means


@dataclass
class FrameRecorder:
    """Keeps a video of any length in less than ``2 * max_frames`` frames.

    Every `stride`-th frame is kept. When ``2 * max_frames`` are kept, every other one is dropped
    and the stride doubles. There are therefore always at least ``max_frames`` to choose from, and a
    chosen frame is at most half a stride away from its evenly spaced position. The last frame is
    passed to `video`, so that frames between two strides need not be copied.
    """

    max_frames: int
    """Number of frames of the video, at least 2: the first and the last."""
    num_seen: int = 0
    stride: int = 1
    kept: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Validates the setting."""
        self.max_frames = checked_count("max_frames", self.max_frames, minimum=2)

    @property
    def is_consistent(self) -> bool:
        """Whether the frames that are kept are those of the frames that were seen."""
        count = len(self.kept)
        return (
            self.stride.bit_count() == 1
            and count == -(-self.num_seen // self.stride)
            and (1 if self.stride == 1 else self.max_frames) <= count < 2 * self.max_frames
        )

    def add(self, frame: Frame) -> None:
        """Records the next frame, which is not the last one.

        Raises:
            ValueError: If its size differs from that of the first frame.
        """
        self.check(frame)
        if self.num_seen % self.stride == 0:
            # Copied, because environments reuse the arrays that they return.
            self.kept.append(np.array(frame))
            if len(self.kept) == 2 * self.max_frames:
                self.kept = self.kept[::2]
                self.stride *= 2
        self.num_seen += 1

    def check(self, frame: Frame) -> None:
        """Checks that a frame has the size of the recorded ones.

        Raises:
            ValueError: If its size differs from that of the first frame.
        """
        if self.kept and frame.shape != self.kept[0].shape:
            raise ValueError(
                "All frames of an episode must have one size, got "
                f"{frame.shape} after {self.kept[0].shape}; pass `frames` a callable that resizes"
            )

    def video(self, last_frame: Frame) -> Video:
        """Returns the frames to encode, evenly spaced, the first and the last among them.

        Returns:
            Shape ``(num_frames, height, width, 3)``, where ``num_frames`` is ``max_frames``, or
            the number of frames of the episode if that is smaller.

        Raises:
            ValueError: If the size of the last frame differs from that of the first.
        """
        self.check(last_frame)
        return np.stack([*(self.kept[row] for row in self._rows()), last_frame])

    def frame_numbers(self) -> Ints:
        """Returns the number of each frame of `video` in the episode, which begins with frame 0.

        Frame k is the one after k steps. The last number is the episode's length.
        """
        return np.append(self.stride * self._rows(), self.num_seen)

    def _rows(self) -> Ints:
        """Returns the rows of `kept` that `video` shows; the last frame comes after them."""
        count = min(self.num_seen + 1, self.max_frames)
        places = even_indices(self.num_seen + 1, count)[:-1]
        # Rounds half up: rounding half to even could choose one frame for two places.
        rows: Ints = (2 * places + self.stride) // (2 * self.stride)
        return rows


def _check_render(envs: VectorEnv[Any, Any, Any]) -> None:
    if envs.render_mode != "rgb_array":
        raise ValueError(
            'frames="render" needs environments made with render_mode="rgb_array", got '
            f"{envs.render_mode!r}"
        )
    if envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
        raise ValueError(
            'frames="render" cannot see an episode\'s last frame with AutoresetMode.SAME_STEP, '
            "which resets before anything can be rendered; use NEXT_STEP or DISABLED, or put "
            'srpo_env.RenderInInfo around each environment and pass frames="info/rendered"'
        )


def _image_in_info(info: Mapping[str, Any], path: str) -> Any:
    frame = look_up(info, path)
    if frame is None:
        raise ValueError(
            f'frames="{IN_INFO}{path}" needs an image in the info of every reset and every step, '
            f"got an info with {sorted(info)}"
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


def _find_camera(envs: VectorEnv[Any, Any, Any]) -> str:
    space = envs.single_observation_space
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
    rendered = (
        'frames="info/rendered" and put srpo_env.RenderInInfo around each environment'
        if envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
        else 'frames="render" if the environments have render_mode="rgb_array"'
    )
    raise ValueError(
        f"No camera image (uint8, height x width x 3) in the observations {space}; pass "
        f'{rendered}, "info/..." if their infos have the image, or a callable that makes it from '
        "the observation of one sub-environment"
    )


def _check_camera(space: Space[Any], path: str) -> None:
    found = look_up(space, path) if path else space
    if not _is_camera(found):
        images = list(_cameras(space))
        known = f"the images in the observations are {images}" if images else "there is no image"
        if images == [""]:
            known = "the observation itself is the image, so leave out `frames`"
        raise ValueError(
            f'frames="{path}" must name a uint8 Box of shape (height, width, 3), got {found}; '
            f"{known}"
        )
