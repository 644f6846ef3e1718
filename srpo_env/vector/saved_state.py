"""The state of a wrapper: its form in `state_dict`, and what a state must be to be restored."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypedDict

from srpo_env.rewards.diagnostics import MonitorState
from srpo_env.types import Episode, Group
from srpo_env.vector import serialization
from srpo_env.vector.frames import FrameRecorder
from srpo_env.vector.grouping import OpenEpisode, OpenGroup
from srpo_env.vector.reward_buffer import EndedEpisode, WriterState
from srpo_env.vector.scorer import ScorerState

STATE = "srpo_env"
"""Name of the wrapper's state in `state_dict`."""

DAMAGED = "Not a saved state, or a damaged one"
"""Start of the error messages."""

CLASSES = (FrameRecorder, OpenEpisode, OpenGroup, Episode, Group, EndedEpisode)
"""Classes of the objects in a state."""


class SavedState(TypedDict):
    """State of a `SelfReferentialProgressWrapper` before it is packed."""

    settings: dict[str, Any]
    step_count: int
    next_episode_id: int
    closed_groups: list[Group]
    num_rewritten: int
    last_rewrite: int
    scorer: ScorerState
    writer: WriterState
    monitor: MonitorState
    late_task: Hashable


def pack_state(state: SavedState) -> dict[str, bytes]:
    """Returns a state as one archive, under the name `STATE`."""
    return {STATE: serialization.pack(state)}


def read_state(
    state_dict: Mapping[str, Any], settings: Mapping[str, Any], latent_shape: tuple[int, ...]
) -> SavedState:
    """Reads what `pack_state` returned, and checks that its parts belong together.

    Args:
        state_dict: The packed state.
        settings: Settings of the wrapper that restores it.
        latent_shape: Shape of its encoder's latents.

    Raises:
        ValueError: If it is not a state, is damaged, or is that of a wrapper with other settings.
    """
    if STATE not in state_dict:
        raise ValueError(f"Not a saved state: there is no {STATE!r} in {sorted(state_dict)}")
    state: SavedState = serialization.unpack(state_dict[STATE], CLASSES)
    try:
        serialization.check_type(state, SavedState, "the state")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{DAMAGED}: {error}") from error
    saved = state["settings"]
    differing = {
        name: (saved.get(name), settings.get(name))
        for name in sorted({*saved, *settings})
        if saved.get(name) != settings.get(name)
    }
    if differing:
        raise ValueError(
            "The state must come from a wrapper with the same settings; (saved, present) "
            f"differ: {differing}"
        )
    open_groups = [*state["scorer"]["groups"], *state["scorer"]["complete"]]
    opened = [episode for group in open_groups for episode in group.episodes]
    closed = [episode for group in state["closed_groups"] for episode in group.episodes]
    every: list[OpenEpisode | Episode] = [*opened, *closed]
    _check_slots(state, open_groups, every, int(settings["num_envs"]))
    _check_counters(state, [e.episode_id for e in every], [e.first_step for e in opened])
    num_times = latent_shape[:-1] or (0,)
    if any(
        len(episode.env_rewards) != _num_steps(episode, state["step_count"]) for episode in every
    ) or any({e.potential.shape, e.potential_steps.shape} != {num_times} for e in closed):
        raise ValueError(f"{DAMAGED}: its rewards do not fit")
    return state


def _check_slots(
    state: SavedState,
    open_groups: list[OpenGroup],
    episodes: list[OpenEpisode | Episode],
    num_envs: int,
) -> None:
    """Checks that all sub-environments exist, and that each has at most one running episode."""
    running = [episode.env_index for group in open_groups for episode in group.running]
    slots = {episode.env_index for episode in (*episodes, *state["writer"]["ends"])}
    if len(set(running)) != len(running) or not slots <= set(range(num_envs)):
        raise ValueError(f"{DAMAGED}: it names other environments")


def _check_counters(state: SavedState, known: list[int], steps: list[int]) -> None:
    """Checks that no episode and no first step is newer than the counters."""
    if (
        not max(known, default=-1) < state["next_episode_id"]
        or not max(steps, default=0) <= state["step_count"]
        or not 0 <= state["last_rewrite"] <= state["step_count"]
        or not 0 <= state["num_rewritten"] <= len(state["closed_groups"])
        or min([*known, *steps, state["next_episode_id"]], default=0) < 0
    ):
        raise ValueError(f"{DAMAGED}: its counters do not fit")


def _num_steps(episode: Episode | OpenEpisode, step_count: int) -> int:
    """Returns the number of steps of an episode so far."""
    end = step_count if episode.last_step is None else episode.last_step + 1
    return end - episode.first_step
