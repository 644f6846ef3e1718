"""Data types that the parts of the package exchange, and functions that validate them."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

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
Credit = Literal["episode", "dense"]
"""When an episode's return is paid: on its last step, or along its way as it makes progress."""

POINTS = (
    "Dense credit needs latents that are paths, (num_times, dim), such as those of the default "
    'encoder or of VJEPA2Encoder(..., pooling="grid"): pass such an encoder, or '
    'credit="episode"'
)
"""Message of the error if the latents are points."""


def _no_floats() -> Floats:
    return np.empty(0)


def _no_ints() -> Ints:
    return np.empty(0, np.int64)


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
    potential: Floats = field(default_factory=_no_floats)
    """Progress potential at each moment of the latent, in [0, 1], shape ``(num_times,)``: never
    falls, starts at 0, and ends at 1 in a success (`rewards.potential`). NaN without a success to
    compare with; empty if the latent is a point."""
    potential_steps: Ints = field(default_factory=_no_ints)
    """Number of the episode's steps before each of these moments, from 0 to `length`, ascending;
    same shape."""
    env_rewards: Floats = field(default_factory=_no_floats)
    """The environment's own reward of each step, shape ``(length,)``."""

    @property
    def length(self) -> int:
        """Number of steps."""
        return self.last_step - self.first_step + 1

    @cached_property
    def step_shares(self) -> Floats:
        """Share of the episode's return that each step earns with dense credit; `step_shares`."""
        return step_shares(self.potential, self.potential_steps, self.length)

    @cached_property
    def step_rewards(self) -> Floats:
        """The progress reward, paid along the way: sums to it, none is negative, ``(length,)``."""
        return self.progress_reward * self.step_shares


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
    confidence: float = 1.0
    """How alike the successes rank the failures, in [0, 1], with `ProgressReward.fail_safe`
    (`rank_confidence`); otherwise 1."""

    @property
    def num_successes(self) -> int:
        """Number of its episodes that succeeded."""
        return sum(episode.success for episode in self.episodes)

    @property
    def shaped(self) -> bool:
        """Whether one of its failures was rewarded for its progress."""
        return any(not e.success and not np.isnan(e.distance) for e in self.episodes)

    @property
    def borrowed(self) -> bool:
        """Whether its failures were compared with successes outside of it, as it has none."""
        return self.shaped and self.num_successes == 0

    @cached_property
    def rewards(self) -> Floats:
        """Progress rewards of the episodes, shape ``(len(episodes),)``."""
        return np.array([episode.progress_reward for episode in self.episodes])

    @cached_property
    def step_rewards(self) -> tuple[Floats, ...]:
        """Progress rewards paid along the way, one array of shape ``(length,)`` per episode."""
        return tuple(episode.step_rewards for episode in self.episodes)

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


def step_shares(potential: Floats, potential_steps: Ints, num_steps: int) -> Floats:
    """Distributes a return over the steps of an episode, in proportion to the progress they make.

    Between two moments, the potential rises linearly over the steps: nothing says which of them
    made the progress. An episode without progress earns everything on its last step.

    Args:
        potential: Progress potential at some moments, shape ``(num_times,)``.
        potential_steps: Number of steps before each of them, ascending, same shape.
        num_steps: Number of steps of the episode, at least 1.

    Returns:
        Shares that are not negative and sum to 1, shape ``(num_steps,)``.

    Raises:
        ValueError: If there is no potential, because the encoder returns points.

    Examples:
        >>> step_shares(np.array([0.0, 0.5, 0.5]), np.array([0, 2, 4]), 4)
        array([0.5, 0.5, 0. , 0. ])
    """
    if len(potential) == 0:
        raise ValueError(POINTS)
    # The first moment can show more than the first frame; nothing is covered before it.
    steps, values = np.append(0, potential_steps), np.append(potential[0], potential)
    # Short episodes show one frame at several moments; the last of these knows most.
    last = np.append(np.diff(steps) > 0, True)
    known = np.interp(np.arange(num_steps + 1), steps[last], values[last])
    made = np.diff(np.maximum.accumulate(known))  # interpolation can fall by rounding
    total = made.sum()
    if not total > 0:  # also without a potential, which is NaN
        made, total = np.zeros(num_steps), 1.0
        made[-1] = 1.0
    shares: Floats = made / total
    return shares


def as_array(value: Any) -> npt.NDArray[Any]:
    """Returns an array or a tensor of any device as a NumPy array; does not copy CPU data."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def checked_credit(credit: Credit, latent_shape: tuple[int, ...]) -> Credit:
    """Validates the argument ``credit`` for latents of a shape, and returns it.

    Raises:
        ValueError: If it is unknown, or dense and the latents are points.
    """
    if credit not in get_args(Credit):
        raise ValueError(f"`credit` must be one of {get_args(Credit)}, got {credit!r}")
    if credit == "dense" and len(latent_shape) != 2:
        raise ValueError(f"{POINTS}, got {latent_shape}")
    return credit


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Checks the value of a setting with a few allowed values.

    Args:
        name: Name of the setting.
        value: Its value.
        choices: A ``Literal`` of the allowed values.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in get_args(choices):
        allowed = " or ".join(map(repr, get_args(choices)))
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}")


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
