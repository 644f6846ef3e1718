"""Checks at run time that an environment resets as it declares.

A mis-declared `AutoresetMode`, or an array that an environment reuses, does not crash: the encoder
would see a frame of the wrong episode, and training would go on with wrong rewards. The checks
compare a few pixels when an episode ends, and raise an error once the evidence is clear.
"""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode

from srpo_env.types import Floats
from srpo_env.vector.frames import Frame

MIN_SAME = 3
"""Number of ends in a row, from the first on, whose last frame is the next episode's first"""

MIN_JUMPS = 8
"""Number of ends in a row, from the first on, whose last frame looks like one after a reset"""

JUMP_RATIO = 4.0
"""How many times as large the change at the last step is as the change at the reset"""

MAX_PIXELS = 32
"""Number of rows and of columns that are compared"""


class AutoresetCheck:
    """Compares the last frames of episodes with the frames around them."""

    def __init__(self, mode: AutoresetMode, num_envs: int) -> None:
        """Initialises the counters with 0.

        Args:
            mode: The declared mode.
            num_envs: Number of sub-environments.
        """
        self._mode = mode
        self._ends: list[tuple[Floats, float] | None] = [None] * num_envs
        self._num_ends = 0
        self._num_same = 0
        self._num_jumps = 0

    def end(self, index: int, first: Frame, previous: Frame, last: Frame) -> None:
        """Notes the end of an episode.

        Args:
            index: Index of its sub-environment.
            first: First frame of the episode.
            previous: A frame shortly before the last one.
            last: What is taken for its last frame.
        """
        # An episode that ends where it began cannot be told from a reset.
        moved = _change(first, last) > 0 or _change(first, previous) > 0
        self._ends[index] = (_pixels(last), _change(previous, last)) if moved else None

    def start(self, index: int, first: Frame) -> None:
        """Notes the first frame of the next episode.

        Raises:
            RuntimeError: If episodes end and begin in another step than the declared mode says.
        """
        end, self._ends[index] = self._ends[index], None
        if end is None or self._num_ends > MIN_JUMPS:
            return
        last, change_at_end = end
        change_at_reset = float(np.abs(last - _pixels(first)).mean())
        self._num_ends += 1
        self._num_same += change_at_reset == 0
        self._num_jumps += change_at_end > JUMP_RATIO * change_at_reset
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
            and self._num_jumps == self._num_ends == MIN_JUMPS
        ):
            raise RuntimeError(
                f"In {MIN_JUMPS} episodes out of {MIN_JUMPS}, the image changes at the last step "
                "as at a reset, and hardly at the reset itself. The environment declares "
                f"{self._mode} and seems to return the next episode's first observation in the "
                "step that ends an episode: set metadata['autoreset_mode'] to SAME_STEP and "
                "provide infos['final_obs']"
            )


def same_frame(one: Frame, other: Frame) -> bool:
    """Returns whether two frames are equal and do not share memory."""
    return not np.shares_memory(one, other) and bool(np.array_equal(one, other))


def _pixels(frame: Frame) -> Floats:
    stride = -(-max(frame.shape[:2]) // MAX_PIXELS)
    return frame[::stride, ::stride].astype(np.float64)


def _change(one: Frame, other: Frame) -> float:
    return float(np.abs(_pixels(one) - _pixels(other)).mean())
