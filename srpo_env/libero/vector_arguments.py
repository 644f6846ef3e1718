"""Checks the arguments of `LiberoVectorEnv`'s methods before anything is sent to a worker.

What depends on the state of the environment, such as a step before the first reset, is checked by
`LiberoVectorEnv` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.libero.fixtures import Fixtures, check_fixture_seed
from srpo_env.libero.perturbations import as_mixture, as_text
from srpo_env.libero.suites import Suite
from srpo_env.libero.worker import Reset
from srpo_env.system.machine import usable_cores
from srpo_env.types import Array, checked_count

IDS = ("task_id", "init_state_id", "fixture_seed")
"""Reset options that are integers."""


def checked_counts(num_envs: int, num_workers: int | None, timeout: float) -> tuple[int, int]:
    """Returns the numbers of environments and of workers, by default one worker per usable core.

    Raises:
        ValueError: If one of them or the timeout is out of its range.
    """
    num_envs = checked_count("num_envs", num_envs)
    if num_workers is None:
        num_workers = max(1, min(num_envs, int(usable_cores())))
    num_workers = checked_count("num_workers", num_workers)
    if num_workers > num_envs:
        raise ValueError(f"`num_workers` must be in 1..num_envs, got {num_workers} for {num_envs}")
    if not timeout > 0:
        raise ValueError(f"`timeout` must be above 0 seconds, got {timeout}")
    return num_envs, num_workers


@dataclass(frozen=True)
class VectorArguments:
    """Checks arguments against the properties of one vector environment."""

    num_envs: int
    action_shape: tuple[int, ...]
    """Shape of the actions of all environments, ``(num_envs, chunk, 7)``."""
    task_suite: Suite
    fixtures: Fixtures

    def resets(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None
    ) -> dict[int, Reset]:
        """Returns the command of each environment to reset, by its index.

        Raises:
            ValueError: If an option is unknown or of the wrong shape or type, there is no such task
                or initial state, or the number of seeds is wrong.
        """
        options = dict(options or {})  # a copy, so that the caller's is not changed
        mask = self._per_env("reset_mask", options.pop("reset_mask", True), bool)
        ids = {name: self._per_env(name, options.pop(name), int) for name in IDS if name in options}
        perturbations = self._perturbations(options)
        if options:
            raise ValueError(
                "`options` may contain only reset_mask, task_id, init_state_id, fixture_seed and "
                f"perturbation, got also {', '.join(map(str, options))}"
            )
        if isinstance(seed, Sequence):
            seeds = list(seed)
        else:
            seeds = [None if seed is None else seed + slot for slot in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"`seed` must be one number or a list of {self.num_envs}, got {len(seeds)} numbers"
            )
        commands: dict[int, Reset] = {}
        for slot in map(int, np.flatnonzero(mask)):
            chosen: dict[str, int] = {name: int(values[slot]) for name, values in ids.items()}
            self._check_choice(chosen)
            commands[slot] = Reset(seeds[slot], {**chosen, **perturbations[slot]})
        return commands

    def actions(self, actions: Array, slots: Sequence[int]) -> Array:
        """Returns the actions as an array.

        Args:
            actions: Shape `action_shape`.
            slots: The environments that execute them; the actions of the others are ignored.

        Raises:
            ValueError: If their shape is wrong, or one that is executed is not finite.
        """
        actions = np.asarray(actions)
        if actions.shape != self.action_shape:
            raise ValueError(
                f"actions must have shape {self.action_shape}: (num_envs, chunk, 7), "
                f"got {actions.shape}"
            )
        bad = [slot for slot in slots if not np.isfinite(actions[slot]).all()]
        if bad:
            raise ValueError(f"actions must be finite, got NaN or infinity for environments {bad}")
        return actions

    def slots(self, mask: npt.NDArray[np.bool_]) -> list[int]:
        """Returns the indices of the environments that a mask selects.

        Raises:
            ValueError: If it is neither one bool nor of shape ``(num_envs,)``.
        """
        slots: list[int] = np.flatnonzero(self._per_env("mask", mask, bool)).tolist()
        return slots

    def values(self, values: Any) -> Sequence[Any]:
        """Returns the value of an attribute for each environment, from one value or a list.

        Raises:
            ValueError: If the list's length is not ``num_envs``.
        """
        per_env: Sequence[Any] = (
            values if isinstance(values, (list, tuple)) else [values] * self.num_envs
        )
        if len(per_env) != self.num_envs:
            raise ValueError(f"`values` must be one value or {self.num_envs}, got {len(per_env)}")
        return per_env

    def _per_env(self, name: str, value: Any, dtype: type) -> Array:
        values = np.asarray(value)
        if values.shape not in ((), (self.num_envs,)):
            raise ValueError(
                f"`{name}` must be one value or of shape ({self.num_envs},), got {values.shape}"
            )
        kinds = "b" if dtype is bool else "iu"
        if values.dtype.kind not in kinds:
            raise ValueError(f"`{name}` must be of type {dtype.__name__}, got {values.dtype}")
        return np.broadcast_to(values, (self.num_envs,))

    def _perturbations(self, options: dict[str, Any]) -> list[dict[str, str]]:
        """Removes the option ``perturbation``; returns it for each environment, as text."""
        if "perturbation" not in options:
            return [{} for _ in range(self.num_envs)]
        value = options.pop("perturbation")
        values = value if isinstance(value, list | np.ndarray) else [value] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(
                f"`perturbation` must be one perturbation, a tuple of several, or a list of "
                f"{self.num_envs}, got a list of {len(values)}"
            )
        return [{"perturbation": as_text(as_mixture(part))} for part in values]

    def _check_choice(self, chosen: dict[str, int]) -> None:
        # Without an id, the task is drawn, so the initial state must exist in all of them.
        tasks = self.task_suite.tasks
        if "task_id" in chosen:
            tasks = (self.task_suite.task(chosen["task_id"]),)
        if "fixture_seed" in chosen:
            for task in tasks:
                check_fixture_seed(chosen["fixture_seed"], self.fixtures, task)
        if "init_state_id" in chosen:
            num_states = min(task.num_init_states for task in tasks)
            if not 0 <= chosen["init_state_id"] < num_states:
                raise ValueError(
                    f"`init_state_id` must be in 0..{num_states - 1} for {self.task_suite.name}, "
                    f"got {chosen['init_state_id']}; leave it out to draw one"
                )
