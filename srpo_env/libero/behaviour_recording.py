"""Records behaviours: successes and failures of many kinds, one file per task and assets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.behaviour_files import BehaviourEpisode, BehaviourWriter
from srpo_env.libero.behaviours import FAILURES, KINDS, SUCCESSES, kinds_of, play
from srpo_env.libero.recording import Recorded, RecordingSettings, record_file
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_suite, get_task

SUITE = "libero_object"
"""The suite of the reward benchmark and of the bundled world model."""

BEHAVIOUR_VERSION = 1
"""Increased with each change of the behaviours, the expert or the oracle that alters episodes."""

MAX_TRIES = 20
"""Maximum number of episodes to try until one ends as its kind intends."""

TRIES_PER_STATE = 5
"""Number of seeds to try from an initial state before the next one is taken: from some states, an
expert does not reach the goal."""


@dataclass(frozen=True)
class BehaviourRecording(RecordingSettings):
    """Settings of the behaviours to record of each task."""

    successes: int = 32
    """Number of successes, spread evenly over their kinds."""
    failures: int = 36
    """Number of failures, spread evenly over their kinds."""
    chunk: int = 8
    """Number of control steps between two frames."""
    max_steps: int = 160
    """Number of control steps after which a failure is truncated, as in `agents/vla_grpo.py`."""
    success_kinds: tuple[str, ...] = SUCCESSES
    """Kinds of the successes."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If a setting is out of its range.
        """
        super().__post_init__()
        for name, minimum in (("successes", 0), ("failures", 0), ("chunk", 1), ("max_steps", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"`{name}` must be at least {minimum}, got {getattr(self, name)}")
        if self.successes + self.failures == 0:
            raise ValueError("`successes` and `failures` must not both be 0")
        unknown = set(self.success_kinds) - set(SUCCESSES)
        if unknown or not self.success_kinds:
            raise ValueError(
                f"`success_kinds` must be some of {', '.join(SUCCESSES)}, got {self.success_kinds}"
            )

    def plan(self, task_id: int, suite: str = SUITE) -> list[tuple[str, int, int]]:
        """Returns kind, initial state and first seed of each episode of a task.

        Kinds that the suite does not have are left out. Successes and failures both cycle through
        the initial states, so that every state has both, and their episodes can be compared.
        """
        rng = np.random.default_rng([self.seed, task_id])
        episodes = []
        plans = ((self.success_kinds, self.successes), (FAILURES, self.failures))
        for all_names, count in plans:
            names = [name for name in all_names if name in kinds_of(suite)]
            kinds = rng.permutation([names[i % len(names)] for i in range(count)])
            starts = rng.permutation(self.init_states)
            for i, kind in enumerate(kinds):
                seed = int(rng.integers(2**31 - MAX_TRIES))
                episodes.append((str(kind), int(starts[i % len(starts)]), seed))
        return episodes


def default_max_steps(suite: str) -> int:
    """Returns after how many control steps a failure is truncated, unless a user says otherwise.

    In libero_object it is the default of `BehaviourRecording`, as in the agents' training there;
    elsewhere LIBERO's limit, because the longest tasks of a suite need most of it.

    Raises:
        ValueError: If there is no such suite.
    """
    return BehaviourRecording.max_steps if suite == SUITE else get_suite(suite).max_steps


def record_behaviours(
    task_id: int,
    folder: str | Path,
    recording: BehaviourRecording,
    *,
    suite: str = SUITE,
    overwrite: bool = False,
    progress: Callable[[BehaviourEpisode], object] | None = None,
) -> Recorded:
    """Records behaviours of one task; a file with the same settings is kept.

    An episode that does not end as its kind intends is repeated with other seeds, then from other
    initial states, and then with the kind's `Kind.instead`; each episode's kind is in the file.

    Args:
        task_id: The task, in LIBERO's order.
        folder: Folder for the file, whose name contains the kind of assets; created if needed.
        recording: Which behaviours to record.
        suite: A suite whose tasks the experts solve.
        overwrite: Replaces a file that was recorded with other settings.
        progress: Called with each episode that is stored.

    Raises:
        FileExistsError: If the file exists, was recorded with other settings, and ``overwrite`` is
            False.
        ValueError: If a setting does not fit the task, or neither a kind nor the one that is
            recorded in its place ends as it intends.
    """
    task = get_task(suite, task_id)
    plan = recording.plan(task_id, task.suite)

    def record(simulation: Simulation, data: h5py.Group) -> int:
        writer = BehaviourWriter(data)
        num_rejected = 0
        for kind, init_state_id, first_seed in plan:
            episode, num_tries = _play_as_intended(
                simulation, kind, init_state_id, first_seed, recording
            )
            writer.add(episode)
            num_rejected += num_tries - 1
            if progress is not None:
                progress(episode)
        return num_rejected

    return record_file(
        Path(folder) / f"{task.name}_{resolve_assets().kind}.hdf5",
        task,
        recording,
        version=BEHAVIOUR_VERSION,
        num_episodes=len(plan),
        record=record,
        overwrite=overwrite,
    )


def _play_as_intended(
    simulation: Simulation,
    kind: str,
    init_state_id: int,
    first_seed: int,
    recording: BehaviourRecording,
) -> tuple[BehaviourEpisode, int]:
    tries = list(_tries(kind, init_state_id, first_seed, recording.init_states))
    for num_tries, (state, seed) in enumerate(tries, start=1):
        episode = play(
            simulation,
            kind,
            state,
            seed,
            chunk=recording.chunk,
            max_steps=recording.max_steps,
        )
        if episode.success == KINDS[kind].succeeds:
            return episode, num_tries
    instead = KINDS[kind].instead
    if instead is not None and instead in kinds_of(simulation.task.suite):
        episode, num_more = _play_as_intended(
            simulation, instead, init_state_id, first_seed, recording
        )
        return episode, len(tries) + num_more
    intended = "succeed" if KINDS[kind].succeeds else "fail"
    raise ValueError(
        f"episodes of kind {kind!r} must {intended}, but {len(tries)} in a row of "
        f"{simulation.task.name}, first from initial state {init_state_id}, did not"
    )


def _tries(
    kind: str, init_state_id: int, first_seed: int, init_states: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yields initial states and seeds of the episodes to try."""
    per_state = TRIES_PER_STATE if KINDS[kind].varies else 1
    first = init_states.index(init_state_id)
    for number in range(MAX_TRIES):
        num_left = number // per_state
        if num_left >= len(init_states) and not KINDS[kind].varies:
            return  # the same episodes again
        yield init_states[(first + num_left) % len(init_states)], first_seed + number
