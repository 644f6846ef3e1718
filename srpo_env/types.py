"""Data types that the parts of the package exchange, and functions that validate them."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Video = npt.NDArray[np.uint8]
"""RGB frames of one camera, ``(num_frames, height, width, 3)``."""
Latent = npt.NDArray[np.float32]
"""Output of an encoder for one video: a point ``(dim,)`` or a path ``(num_times, dim)``."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One finished episode and its reward."""

    episode_id: int
    """Unique within a wrapper; counts from 0 in the order in which episodes start."""
    env_index: int
    """Index of the sub-environment in which it ran."""
    first_step: int
    """Number of its first step, counting the calls of `step` from 0."""
    last_step: int
    """Number of the step that ended it. Its reward belongs to this step."""
    success: bool
    """Whether the goal was reached."""
    env_return: float
    """Sum of the environment's own rewards."""
    last_env_reward: float
    """The environment's own reward of the last step."""
    distance: float
    """Distance from its latent to the nearest center; NaN without a success to compare with."""
    progress_reward: float
    """1 for a success; below the weight for a failure; 0 in a group that is not shaped."""
    nearest_center: int
    """Row of the nearest center in `Group.centers`; -1 without one."""
    latent: Latent
    """The encoder's output, shape ``(dim,)`` or ``(num_times, dim)``."""

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last_step - self.first_step + 1


@dataclass(frozen=True, eq=False)
class Group:
    """Episodes that were compared with each other, in the order in which they started."""

    key: Hashable
    """Group key of the episodes."""
    task: Hashable
    """Task key of the episodes."""
    episodes: tuple[Episode, ...]
    """The episodes, at most ``group_size`` of them."""
    centers: Floats
    """Centers that the distances refer to, shape ``(num_centers, *latent_shape)``. With
    ``reference="task"`` these are the centers of the task; with ``"memory"`` only those that are
    nearest to an episode of the group."""
    num_clusters: int
    """Number of centers in the reference set that are the mean of several successes."""
    num_singles: int
    """Number of centers in the reference set that are one success without neighbours."""

    @property
    def num_successes(self) -> int:
        """Number of its episodes that succeeded."""
        return sum(episode.success for episode in self.episodes)

    @property
    def shaped(self) -> bool:
        """Whether one of its failures was rewarded for its progress."""
        return any(not e.success and not np.isnan(e.distance) for e in self.episodes)

    @cached_property
    def rewards(self) -> Floats:
        """Progress rewards of the episodes, shape ``(len(episodes),)``."""
        return np.array([episode.progress_reward for episode in self.episodes])

    @cached_property
    def latents(self) -> npt.NDArray[np.float32]:
        """Latents of the episodes, shape ``(len(episodes), *latent_shape)``."""
        return np.stack([episode.latent for episode in self.episodes])

    def __repr__(self) -> str:
        """Returns one line of text without the arrays."""
        rewards = ", ".join(f"{reward:.2f}" for reward in self.rewards)
        return (
            f"Group(key={self.key!r}, {self.num_successes} of {len(self.episodes)} succeeded, "
            f"rewards=[{rewards}])"
        )


def even_indices(num_items: int, count: int) -> Ints:
    """Returns evenly spaced indices, ascending, the first and the last among them.

    Args:
        num_items: Number of items to choose from, at least 1.
        count: Number of indices to return. If there are fewer items, some are repeated.

    Examples:
        >>> even_indices(10, 4).tolist()
        [0, 3, 6, 9]
        >>> even_indices(3, 5).tolist()
        [0, 0, 1, 2, 2]
    """
    return np.linspace(0, num_items - 1, count).round().astype(np.int64)


def as_array(value: Any) -> npt.NDArray[Any]:
    """Returns an array or a tensor of any device as a NumPy array; does not copy CPU data."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def checked_count(name: str, value: int, *, minimum: int = 1) -> int:
    """Validates the value of an integer setting and returns it as a Python int.

    Raises:
        ValueError: If it is not an integer, or below ``minimum``.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"`{name}` must be an integer and at least {minimum}, got {value!r}")
    return int(value)


def as_key(value: Any) -> Hashable:
    """Converts a group id, task id or key to Python values, so that equal ids are equal keys.

    NumPy scalars, arrays of one element and 0-d tensors become Python scalars.

    Raises:
        TypeError: If it is not an int, float, bool, str, None or a tuple of these.
        ValueError: If it is NaN, which is not equal to itself.
    """
    if isinstance(value, (tuple, list)):
        return tuple(as_key(part) for part in value)
    if hasattr(value, "item") and math.prod(np.shape(value)) == 1:
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("A group or task key must not be NaN: NaN is not equal to itself")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        "A group or task key must be an int, float, bool, str, None or a tuple of these, "
        f"got {value!r}"
    )
