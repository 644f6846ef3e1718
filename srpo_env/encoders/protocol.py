"""What an encoder is, and the check of what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from srpo_env.rewards.progress import Distance, distances_to_centers


@runtime_checkable
class TrajectoryEncoder(Protocol):
    """Maps each episode's video to one latent in which distance means task progress.

    Distance is L2, unless the encoder has a method ``distance`` that says otherwise; see
    `distance_of`.
    """

    latent_dim: int

    def encode(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Encodes videos to finite latents, shape ``(len(videos), latent_dim)``.

        Lengths may differ; ``num_frames >= 1``. Resampling, normalising and batching are the
        encoder's own work.

        Args:
            videos: Each ``(num_frames, height, width, 3)``, RGB.
        """
        ...


def distance_of(encoder: TrajectoryEncoder, chosen: Distance | None = None) -> Distance:
    """How an encoder's latents are compared with centers.

    Args:
        encoder: Any encoder; one whose latents are not points but paths has a method ``distance``,
            with the arguments of `srpo_env.rewards.progress.distances_to_centers`.
        chosen: What the user wants instead.

    Returns:
        What was chosen, or the encoder's own, or L2 (Eq. 4 of the paper).

    Raises:
        TypeError: If that is not callable.
    """
    measure: Any = chosen or getattr(encoder, "distance", distances_to_centers)
    if not callable(measure):
        raise TypeError(
            "`distance` must be a callable of latents and centers, as "
            f"srpo_env.rewards.progress.distances_to_centers is, got {measure!r}"
        )
    return cast("Distance", measure)


def encode_checked(
    encoder: TrajectoryEncoder, videos: Sequence[npt.NDArray[np.uint8]], names: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Encodes, and stops at anything that is not one finite latent for each video.

    Args:
        encoder: Any encoder.
        videos: Each ``(num_frames, height, width, 3)``.
        names: What an error calls each video.

    Returns:
        Latents, shape ``(len(videos), latent_dim)``.

    Raises:
        ValueError: If the shape is wrong, or a latent is NaN or infinite.
    """
    latents = np.asarray(encoder.encode(videos), dtype=np.float32)
    expected = (len(videos), encoder.latent_dim)
    if latents.shape != expected:
        raise ValueError(
            f"{type(encoder).__name__}.encode must return shape {expected} (videos, latent_dim), "
            f"got {latents.shape}"
        )
    broken = [name for name, latent in zip(names, latents, strict=True)
              if not np.isfinite(latent).all()]  # fmt: skip
    if broken:
        raise ValueError(
            f"{type(encoder).__name__} returned latents that are not finite for "
            f"{', '.join(broken)}; no reward can be computed from them"
        )
    return latents
