"""Reads from the results of `step` and `reset` which episodes start, continue and end.

Calls the user's callables (frames, success, keys) and changes no state, so that an exception in one
of them leaves the wrapper as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from srpo_env.types import Ints, Latent, as_array
from srpo_env.vector.frames import ENCODED_STEPS, LATENT, Frame, FrameSource
from srpo_env.vector.grouping import OpenEpisode
from srpo_env.vector.infos import (
    BROKEN,
    ONCE,
    Info,
    KeySource,
    final_of,
    info_of,
    missing_final,
    success_of,
)


@dataclass
class Start:
    """The start of an episode, before it is recorded."""

    index: int
    frame: Frame
    key: Any
    task: Any


@dataclass
class Change:
    """Effect of a step on one sub-environment, before it is recorded."""

    index: int
    frame: Frame | None = None
    """The next frame of an episode that continues."""
    last_frame: Frame | None = None
    """The last frame of an episode that ends."""
    broken: bool = False
    """Whether its simulator failed."""
    success: bool = False
    info: Info = field(default_factory=dict)
    """Info of an episode's last step."""
    latent: Latent | None = None
    """Latent of an episode that ends, if its environment has encoded it."""
    latent_steps: Ints | None = None
    """Number of steps before each moment of that latent."""
    late_task: Any = None
    start: Start | None = None
    """The episode that starts."""


@dataclass
class Transition:
    """Result of a step of the environments, kept until the wrapper's own `step` returns it."""

    actions: Any
    observations: Any
    rewards: Any
    terminations: Any
    truncations: Any
    infos: Any
    recorded: bool = False
    added: dict[str, Any] = field(default_factory=dict)
    ended: list[OpenEpisode] = field(default_factory=list)


class StepReader:
    """Reads steps and resets of a vector environment."""

    def __init__(
        self,
        num_envs: int,
        mode: AutoresetMode,
        frames: FrameSource,
        keys: KeySource,
        success: str | Callable[[Info], Any] | None,
    ) -> None:
        """Initialises the reader.

        Args:
            num_envs: Number of sub-environments.
            mode: Autoreset mode of the environments.
            frames: Source of the camera images.
            keys: Source of the group keys and task keys.
            success: Where the success flag is; see `SelfReferentialProgressWrapper`.

        Raises:
            TypeError: If ``success`` is neither a path, a callable nor None.
        """
        if not (success is None or isinstance(success, str) or callable(success)):
            raise TypeError(f"`success` must be a path, a callable or None, got {success!r}")
        self._num_envs, self._mode = num_envs, mode
        self.frames, self._keys, self.success = frames, keys, success

    def read_step(
        self,
        step: Transition,
        running_episodes: Sequence[OpenEpisode | None],
        late_task: Hashable,
    ) -> list[Change]:
        """Reads the effect of a step on each sub-environment.

        Args:
            step: Result of the environments' `step`.
            running_episodes: The running episode of each sub-environment, or None.
            late_task: The task, if only the infos of last steps have named it so far.

        Raises:
            RuntimeError: If the environment does not reset as it declares.
            ValueError: If a frame, a success flag or a key is missing or invalid.
        """
        frame_of = self.frames.batch(step.observations, step.infos)
        terminations, truncations = as_array(step.terminations), as_array(step.truncations)
        dones = np.logical_or(terminations, truncations)
        changes = []
        for index, running in enumerate(running_episodes):
            change = Change(index)
            if running is None:
                self._read_without_episode(change, step, bool(dones[index]), frame_of)
            elif not dones[index]:
                change.frame = frame_of(index)
                running.recorder.check(change.frame)
                change.success = running.success or self._flag_so_far(index, step.infos)
            else:
                self._read_end(change, running, step, bool(terminations[index]), frame_of)
                late_task = self._keys.late_task(running.task, change.info, late_task)
                change.late_task = late_task
            changes.append(change)
        return changes

    def _read_without_episode(
        self, change: Change, step: Transition, done: bool, frame_of: Callable[[int], Frame]
    ) -> None:
        """Reads a step without a running episode: with NEXT_STEP, it was the reset."""
        index = change.index
        if self._mode is AutoresetMode.DISABLED:
            if not done:
                raise RuntimeError(
                    f"Environment {index} ended an episode and was not reset, but the next step "
                    "continues: with AutoresetMode.DISABLED the caller must reset it with "
                    "options={'reset_mask': mask}. If the environment resets by itself, set "
                    "metadata['autoreset_mode'] to NEXT_STEP or SAME_STEP"
                )
        elif done:
            # The simulator can fail in a reset, too; then the next step resets again.
            if BROKEN not in info_of(step.infos, index, self._num_envs):
                raise RuntimeError(
                    f"Environment {index} ended again in the step that should have reset it, which "
                    "AutoresetMode.NEXT_STEP requires. A wrapper that repeats an episode's last "
                    "transition (lerobot's FreezeAfterEpisodeEnd) does that; leave it out in "
                    "training"
                )
        else:
            change.start = self.read_start(index, step.infos, frame_of(index))

    def _read_end(
        self,
        change: Change,
        running: OpenEpisode,
        step: Transition,
        terminated: bool,
        frame_of: Callable[[int], Frame],
    ) -> None:
        index = change.index
        info = info_of(step.infos, index, self._num_envs)
        if self._mode is AutoresetMode.SAME_STEP:
            change.start = self.read_start(index, step.infos, frame_of(index))
            observation = final_of("final_obs", step.infos, index, self._num_envs)
            info = final_of("final_info", step.infos, index, self._num_envs)
            if observation is None:
                raise missing_final("final_obs", step.infos, index)
            if info is None and self.success != "terminated":
                raise missing_final("final_info", step.infos, index)
            info = info or {}
            frame = self.frames.single(observation, info)
        else:
            frame = frame_of(index)
        change.info = info
        change.broken = BROKEN in info
        if change.broken:
            return
        running.recorder.check(frame)
        change.last_frame = frame
        change.success = success_of(info, terminated, self.success) or running.success
        if self.frames.encoded:
            change.latent, change.latent_steps = _encoded(info, index)

    def read_start(self, index: int, infos: Any, frame: Frame) -> Start:
        """Reads the start of an episode, from the infos of a reset."""
        key, task = self._keys.at_start(info_of(infos, index, self._num_envs), index)
        return Start(index, frame, key, task)

    def _flag_so_far(self, index: int, infos: Any) -> bool:
        """Returns whether the success flag is set in a step that does not end its episode."""
        if self.success != ONCE:
            return False
        return success_of(info_of(infos, index, self._num_envs), False, ONCE)


def _encoded(info: Info, index: int) -> tuple[Latent, Ints]:
    """Returns what `LatentInInfo` has added to the info of an episode's last step."""
    if info.get(LATENT) is None or info.get(ENCODED_STEPS) is None:
        raise ValueError(
            f'frames="encoded" needs `{LATENT}` and `{ENCODED_STEPS}` in the info of an episode\'s '
            f"last step, and that of environment {index} has {sorted(info)}: put "
            "srpo_env.vector.latent_in_info.LatentInInfo around each environment"
        )
    latent = np.array(info[LATENT], np.float32)
    if not np.isfinite(latent).all():
        raise ValueError(f"the latent in the info of environment {index} must be finite")
    return latent, np.array(info[ENCODED_STEPS], np.int64)
