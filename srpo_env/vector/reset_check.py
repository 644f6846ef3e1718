"""Checks at run time that a partial reset resets what the caller means, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from srpo_env.types import Bools
from srpo_env.vector.frames import Frame
from srpo_env.vector.grouping import OpenEpisode

PARTIAL_RESET_OPTIONS = ("env_idx", "env_ids", "env_indices", "env_id", "indices", "mask")
"""Options by which other libraries reset some of the sub-environments"""


def check_options(options: dict[str, Any] | None) -> None:
    """Raises an error if an option other than ``reset_mask`` seems to select sub-environments.

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
        chosen: Which sub-environments were to be reset.
        before: Frame of each sub-environment before the reset.
        after: Frame of each sub-environment after it.

    Raises:
        RuntimeError: If others were reset, or some of these were not.
    """
    for index, episode in enumerate(running):
        # Where the image is that of the episode's start, a reset cannot be seen.
        if episode is None or np.array_equal(episode.recorder.kept[0], before(index)):
            continue
        is_equal = np.array_equal(before(index), after(index))
        # An environment that returns one array for all steps shows nothing.
        is_same = is_equal and not np.shares_memory(before(index), after(index))
        if chosen[index] and is_same:
            raise RuntimeError(
                f"`reset` with options was to reset environment {index}, and its image did not "
                "change: if an option selects sub-environments, pass "
                "options={'reset_mask': mask} instead, a bool for each"
            )
        if not chosen[index] and not is_equal:
            raise RuntimeError(
                f"`reset` with a mask changed the image of environment {index}, which is not in "
                "the mask: the environment must leave it as it was"
            )
