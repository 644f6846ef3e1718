"""Checks at run time that an environment resets in the mode that it declares.

A wrong `AutoresetMode`, or an array that an environment reuses, raises no error: the encoder would
get a frame of the wrong episode, and training would continue with wrong rewards. The checks compare
some pixels when an episode ends, and raise an error if several ends in a row show the fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from srpo_env.types import Floats
from srpo_env.vector.frames import Frame

MIN_SAME = 3
"""Number of ends in a row, from the first one, whose last frame equals the next episode's first."""

MIN_JUMPS = 8
"""Number of ends in a row, from the first one, whose last frame looks like one after a reset."""

JUMP_RATIO = 4.0
"""Minimum ratio of the image's change at the last step to its change at the reset."""

MAX_PIXELS = 32
"""Maximum number of rows and of columns that are compared."""


class AutoresetCheck:
    """Compares the last frames of episodes with the frames around them."""

    def __init__(self, mode: AutoresetMode, num_envs: int) -> None:
        """Initialises the counters with 0.

        Args:
            mode: The declared mode.
            num_envs: Number of sub-environments.
        """
        self._mode = mode
        self._ends: list[_End | None] = [None] * num_envs
        self._resets: list[Floats | None] = [None] * num_envs
        """Pixels of the first frame of each sub-environment's first episode, from a real reset."""
        self._num_ends = 0
        self._num_same = 0
        self._num_jumps = 0
        self._num_returns = 0

    def end(self, index: int, first: Frame, previous: Frame, last: Frame) -> None:
        """Records the end of an episode.

        Args:
            index: Index of its sub-environment.
            first: First frame of the episode.
            previous: A frame shortly before the last one.
            last: The frame that is used as its last one.
        """
        # If the image never changed, the end cannot be distinguished from a reset.
        moved = _change(first, last) > 0 or _change(first, previous) > 0
        self._ends[index] = (
            _End(_pixels(last), _change(previous, last), self._is_reset(index, last))
            if moved
            else None
        )

    def start(self, index: int, first: Frame) -> None:
        """Records the first frame of the next episode.

        Raises:
            RuntimeError: If episodes start in other steps than the declared mode implies.
        """
        if self._resets[index] is None:
            self._resets[index] = _pixels(first)
        end, self._ends[index] = self._ends[index], None
        if end is None or self._num_ends > MIN_JUMPS:
            return
        change_at_reset = float(np.abs(end.last - _pixels(first)).mean())
        self._num_ends += 1
        self._num_same += change_at_reset == 0
        self._num_jumps += end.change > JUMP_RATIO * change_at_reset
        self._num_returns += end.returned
        if self._num_same == self._num_ends == MIN_SAME:
            raise RuntimeError(
                f"In {MIN_SAME} episodes out of {MIN_SAME}, the last frame is equal to the first "
                "frame of the next episode. The environment returns one array for both (return a "
                f"copy), or it does not reset as {self._mode} says: set metadata['autoreset_mode'] "
                "to SAME_STEP if the step that ends an episode returns the next one's first "
                "observation, NEXT_STEP if the step after it does, DISABLED if neither"
            )
        if (
            self._mode is not AutoresetMode.SAME_STEP
            and max(self._num_jumps, self._num_returns) == self._num_ends == MIN_JUMPS
        ):
            raise RuntimeError(
                f"In {MIN_JUMPS} episodes out of {MIN_JUMPS}, the last frame looks like the first "
                "frame after a reset. The environment declares "
                f"{self._mode} and seems to return the next episode's first observation in the "
                "step that ends an episode: set metadata['autoreset_mode'] to SAME_STEP and "
                "provide infos['final_obs']"
            )

    def _is_reset(self, index: int, last: Frame) -> bool:
        reset = self._resets[index]
        return reset is not None and np.array_equal(reset, _pixels(last))


@dataclass(frozen=True)
class _End:
    """An episode's end, kept until the next episode of its sub-environment starts."""

    last: Floats
    """Pixels of the last frame."""
    change: float
    """Change at the last step."""
    returned: bool
    """Whether the last frame equals one after a reset, although the image had changed."""


def _pixels(frame: Frame) -> Floats:
    stride = -(-max(frame.shape[:2]) // MAX_PIXELS)
    return frame[::stride, ::stride].astype(np.float64)


def _change(one: Frame, other: Frame) -> float:
    return float(np.abs(_pixels(one) - _pixels(other)).mean())
