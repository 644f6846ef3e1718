"""Encodes an episode's video where it is simulated, so that latents travel instead of frames."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from srpo_env.encoders.named import named_encoder
from srpo_env.encoders.protocol import (
    TrajectoryEncoder,
    check_encoder,
    encode_checked,
    moment_frames,
)
from srpo_env.vector.frames import ENCODED_STEPS, LATENT, Frame, FrameRecorder, checked_frame
from srpo_env.vector.infos import look_up


class LatentInInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the latent of an episode to the info of its last step, for ``frames="encoded"``.

    In an AsyncVectorEnv, the worker processes encode in parallel. With simulators on other hosts,
    the frames need not be sent: the observations need only what the policy reads. The wrapper gets
    the same encoder, for its latents' shape and distance.

    The info gets ``latent``, float32 of shape ``latent_shape``, and ``latent_steps``: the number of
    steps before each of its moments, empty for points.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        encoder: TrajectoryEncoder,
        *,
        frames: str = "render",
        max_frames: int = 64,
    ) -> None:
        """Wraps ``env``.

        Args:
            env: One environment.
            encoder: Encoder of the videos.
            frames: ``"render"``, or the path of the image in a Dict observation, such as
                ``"agentview"``.
            max_frames: Number of frames of an episode that the encoder gets.

        Raises:
            TypeError: If ``encoder`` is no encoder.
            ValueError: If ``env`` cannot render, and ``frames`` names no image in the observations.
        """
        super().__init__(env)
        check_encoder(encoder)
        if frames == "render" and env.render_mode != "rgb_array":
            raise ValueError(
                f'frames="render" needs render_mode="rgb_array", {env} has {env.render_mode!r}; '
                'pass the path of an image in the observations, such as frames="agentview"'
            )
        if frames != "render" and look_up(env.observation_space, frames) is None:
            raise ValueError(f"`frames` must name an image in the observations, got {frames!r}")
        self.encoder, self._frames = encoder, frames
        self._recorder = FrameRecorder(max_frames)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, and records the first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._recorder = FrameRecorder(self._recorder.max_frames)
        self._recorder.add(self._frame(observation))
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and encodes the video if the episode has ended."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        frame = self._frame(observation)
        if not (terminated or truncated):
            self._recorder.add(frame)
            return observation, reward, terminated, truncated, info
        video = self._recorder.video(frame)
        (latent,) = encode_checked(self.encoder, [video], ["an episode"])
        steps = self._recorder.frame_numbers()[moment_frames(self.encoder, len(video))]
        encoded = {LATENT: np.array(latent), ENCODED_STEPS: steps}
        return observation, reward, terminated, truncated, {**info, **encoded}

    def _frame(self, observation: Any) -> Frame:
        if self._frames == "render":
            return checked_frame(self.env.render())
        return checked_frame(look_up(observation, self._frames))


@dataclass(frozen=True)
class EncodeEpisodes:
    """Puts `LatentInInfo` around environments of worker processes, for ``wrap=``.

    The environments of a process share one encoder, which is made there.

    >>> from srpo_env.libero.vector import LiberoVectorEnv  # doctest: +SKIP
    >>> wrap = EncodeEpisodes("libero-vjepa2")  # doctest: +SKIP
    >>> envs = LiberoVectorEnv(cameras=(), render_mode="rgb_array", wrap=wrap)  # doctest: +SKIP
    """

    encoder: str
    """Name of the encoder, as in `srpo_env.encoders.named.named_encoder`."""
    frames: str = "render"
    """As in `LatentInInfo`."""

    def __call__(self, env: gymnasium.Env[Any, Any]) -> LatentInInfo:
        """Wraps an environment."""
        return LatentInInfo(env, _encoder(self.encoder), frames=self.frames)


@functools.cache
def _encoder(name: str) -> TrajectoryEncoder:
    return named_encoder(name)
