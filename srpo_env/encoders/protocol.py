"""The interface of encoders, and checks of encoders and their latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from srpo_env.rewards.progress import (
    ProgressReward,
    checked_reward,
    default_distance,
    name_of,
)
from srpo_env.types import Ints, Video, as_array, even_indices


@runtime_checkable
class TrajectoryEncoder(Protocol):
    """Maps each episode's video to a latent in which distance means task progress.

    A latent is a point ``(dim,)``, compared by L2, or a path ``(num_times, dim)``, compared by
    `coverage_distance`. An encoder with a method ``distance`` (see
    `srpo_env.rewards.distances.Distance`) determines how its latents are compared.

    The moments of a path are those of evenly spaced frames of the video, the first and the last
    among them. An encoder whose moments are others has a method ``moment_frames(num_frames)`` that
    returns, for each moment, the index of the last frame that it shows, ascending, shape
    ``(num_times,)``. Dense credit needs it.
    """

    latent_shape: tuple[int, ...]

    def encode(self, videos: Sequence[Video]) -> npt.NDArray[np.float32]:
        """Encodes videos to finite latents, shape ``(len(videos), *latent_shape)``.

        The videos may differ in length; ``num_frames >= 1``. The encoder resamples, normalises and
        batches them.

        Args:
            videos: Each ``(num_frames, height, width, 3)``, RGB.
        """
        ...


def check_encoder(encoder: Any) -> None:
    """Checks that an object is an encoder.

    Raises:
        TypeError: If it lacks ``latent_shape`` or ``encode``, or is a class.
        ValueError: If its ``latent_shape`` is not ``(dim,)`` or ``(num_times, dim)``.
    """
    if isinstance(encoder, type) or not isinstance(encoder, TrajectoryEncoder):
        raise TypeError(
            "`encoder` must be an object with `latent_shape` and `encode(videos)`, such as "
            f"srpo_env.PixelEncoder(), got {encoder!r}"
        )
    shape = encoder.latent_shape
    if not isinstance(shape, tuple) or len(shape) not in (1, 2) or not all(n >= 1 for n in shape):
        raise ValueError(
            f"`latent_shape` of {type(encoder).__name__} must be (dim,) or (num_times, dim), got "
            f"{shape!r}"
        )


def reward_for(encoder: TrajectoryEncoder, reward: ProgressReward | None) -> ProgressReward:
    """Returns the reward with the distance that it uses for the encoder's latents.

    Raises:
        TypeError: If ``reward`` is not a `ProgressReward`.
        ValueError: If the distance does not fit latents of the encoder's shape.
    """
    reward = checked_reward(reward)
    if reward.distance is None:
        default = default_distance(encoder.latent_shape)
        reward = replace(reward, distance=getattr(encoder, "distance", None) or default)
    # Called once on random latents: a distance that does not fit fails before the first rollout.
    rng = np.random.default_rng(0)
    reward.measure(
        rng.normal(size=(2, *encoder.latent_shape)), rng.normal(size=(1, *encoder.latent_shape))
    )
    return reward


def moment_frames(encoder: TrajectoryEncoder, num_frames: int) -> Ints:
    """Returns the last frame that each moment of a path shows, as its index in the video.

    Args:
        encoder: Any encoder.
        num_frames: Number of frames of the video.

    Returns:
        Shape ``(num_times,)``; empty if the encoder returns points.

    Raises:
        ValueError: If the encoder's own ``moment_frames`` returns anything else.
    """
    if len(encoder.latent_shape) == 1:
        return np.empty(0, np.int64)
    num_times = encoder.latent_shape[0]
    own = getattr(encoder, "moment_frames", None)
    if own is None:
        return even_indices(num_frames, num_times)
    frames = as_array(own(num_frames))
    if (
        frames.shape != (num_times,)
        or frames.dtype.kind not in "iu"
        or not ((frames >= 0) & (frames < num_frames)).all()
        or (np.diff(frames.astype(np.int64)) < 0).any()
    ):
        raise ValueError(
            f"{type(encoder).__name__}.moment_frames({num_frames}) must return {num_times} "
            f"ascending integers in 0..{num_frames - 1}, one frame for each moment, got "
            f"{frames.tolist()}"
        )
    return frames.astype(np.int64)


def encoder_settings(encoder: TrajectoryEncoder) -> dict[str, Any]:
    """Returns the class, the latent shape and the settings of an encoder, as JSON values.

    The settings are its attribute ``settings``, a dictionary of JSON values, if it has one.
    """
    return {
        "encoder": name_of(type(encoder)),
        "latent_shape": [int(size) for size in encoder.latent_shape],
        **getattr(encoder, "settings", {}),
    }


def encode_checked(
    encoder: TrajectoryEncoder, videos: Sequence[Video], names: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Encodes videos and checks that there is one finite latent for each of them.

    Args:
        encoder: Any encoder.
        videos: Each ``(num_frames, height, width, 3)``.
        names: Name of each video in error messages.

    Returns:
        Latents, shape ``(len(videos), *latent_shape)``.

    Raises:
        ValueError: If the shape is wrong, or a latent is NaN or infinite.
    """
    latents = as_array(encoder.encode(videos)).astype(np.float32)
    expected = (len(videos), *encoder.latent_shape)
    if latents.shape != expected:
        raise ValueError(
            f"{type(encoder).__name__}.encode must return shape {expected}, (num_videos, "
            f"*latent_shape), got {latents.shape}"
        )
    broken = [
        name for name, latent in zip(names, latents, strict=True) if not np.isfinite(latent).all()
    ]
    if broken:
        raise ValueError(
            f"{type(encoder).__name__} returned latents that are not finite for "
            f"{', '.join(broken)}; no reward can be computed from them"
        )
    return latents
