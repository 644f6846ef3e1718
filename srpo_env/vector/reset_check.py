"""Checks at run time that a partial reset resets the selected sub-environments and no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from srpo_env.types import Bools
from srpo_env.vector.frames import Frame
from srpo_env.vector.grouping import OpenEpisode

PARTIAL_RESET_OPTIONS = ("env_idx", "env_ids", "env_indices", "env_id", "indices", "mask")
"""Options with which other libraries select the sub-environments to reset."""


def check_options(options: dict[str, Any] | None) -> None:
    """Checks that no option other than ``reset_mask`` seems to select sub-environments.

    Raises:
        ValueError: If there is such an option.
    """
    selecting = [name for name in PARTIAL_RESET_OPTIONS if name in (options or {})]
    if selecting:
        raise ValueError(
            f"options[{selecting[0]!r}] seems to select sub-environments, and only "
            "options['reset_mask'], a bool for each, is understood; convert it, as in "
            "mask = np.isin(np.arange(num_envs), env_idx)"
        )


def check_partial_reset(
    running: Sequence[OpenEpisode | None],
    chosen: Bools,
    before: Callable[[int], Frame],
    after: Callable[[int], Frame],
) -> None:
    """Compares frames before and after a reset with options.

    Args:
        running: The running episode of each sub-environment, or None.
        chosen: Whether each sub-environment should have been reset, shape ``(num_envs,)``.
        before: Frame of each sub-environment before the reset.
        after: Frame of each sub-environment after it.

    Raises:
        RuntimeError: If other sub-environments were reset, or a chosen one was not.
    """
    for index, episode in enumerate(running):
        # A reset cannot be detected while the image equals the episode's first frame.
        if episode is None or np.array_equal(episode.recorder.kept[0], before(index)):
            continue
        is_equal = np.array_equal(before(index), after(index))
        # If the environment reuses one array, the frame before the reset is lost.
        is_same = is_equal and not np.shares_memory(before(index), after(index))
        if chosen[index] and is_same:
            raise RuntimeError(
                f"`reset` with options should have reset environment {index}, but its image did "
                "not change: if an option selects sub-environments, pass "
                "options={'reset_mask': mask} instead, a bool for each"
            )
        if not chosen[index] and not is_equal:
            raise RuntimeError(
                f"`reset` with a mask changed the image of environment {index}, which is not in "
                "the mask: the environment must leave it as it was"
            )
