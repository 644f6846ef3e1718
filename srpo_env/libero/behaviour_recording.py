"""Records episodes of many kinds, successes and failures, one file per task and set of assets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.behaviour_files import BehaviourEpisode, writing_behaviours
from srpo_env.libero.behaviours import FAILURES, KINDS, SUCCESSES, play
from srpo_env.libero.demos import recording_settings
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import get_task
from srpo_env.libero.visuals import Visuals, check_visuals

SUITE = "libero_object"

BEHAVIOUR_VERSION = 1
"""counts changes of the behaviours, the expert or the progress that alter the episodes"""

MAX_TRIES = 20
"""seeds that are tried for one episode until it ends as its kind means to"""


@dataclass(frozen=True)
class BehaviourRecording:
    """What to record of each task."""

    successes: int = 32
    """episodes, spread evenly over the kinds that succeed"""
    failures: int = 36
    """episodes, spread evenly over the kinds that fail"""
    init_states: tuple[int, ...] = tuple(range(40))
    """stored initial states, taken in turn; evaluation of policies keeps 40-49 for itself"""
    chunk: int = 8
    """control steps between two frames"""
    max_steps: int = 160
    """control steps after which a failure is cut off, as `agents/vla_grpo.py` does in training"""
    image_size: int = 128
    visuals: Visuals | None = None
    """``"exact"`` or ``"fast"`` images; None for what suits this machine"""
    seed: int = 0
    success_kinds: tuple[str, ...] = SUCCESSES
    """kinds of the successes"""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        for name, least in (("successes", 0), ("failures", 0), ("chunk", 1), ("max_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if self.successes + self.failures == 0:
            raise ValueError("`successes` and `failures` must not both be 0: nothing to record")
        unknown = set(self.success_kinds) - set(SUCCESSES)
        if unknown or not self.success_kinds:
            raise ValueError(
                f"`success_kinds` must be some of {', '.join(SUCCESSES)}, got {self.success_kinds}"
            )
        if not self.init_states:
            raise ValueError("`init_states` must name at least one initial state, got none")

    def plan(self, task_id: int) -> list[tuple[str, int, int]]:
        """Kind, initial state and first seed of each episode of a task.

        Successes and failures each go through the initial states in turn, so that every state gets
        both: a group to compare.
        """
        rng = np.random.default_rng([self.seed, task_id])
        episodes = []
        for names, count in ((self.success_kinds, self.successes), (FAILURES, self.failures)):
            kinds = rng.permutation([names[i % len(names)] for i in range(count)])
            starts = rng.permutation(self.init_states)
            for i, kind in enumerate(kinds):
                seed = int(rng.integers(2**31 - MAX_TRIES))
                episodes.append((str(kind), int(starts[i % len(starts)]), seed))
        return episodes


@dataclass(frozen=True)
class RecordedBehaviours:
    """What came of a task."""

    file: Path
    num_episodes: int
    rejected: int = 0
    """episodes that ended otherwise than their kind means to; they are not stored"""
    skipped: bool = False
    """the file was there already, recorded with the same settings"""


def record_behaviours(
    task_id: int,
    folder: str | Path,
    recording: BehaviourRecording,
    *,
    overwrite: bool = False,
    progress: Callable[[BehaviourEpisode], object] | None = None,
) -> RecordedBehaviours:
    """Records one task of libero_object with the assets in use; a file that is there is kept.

    Args:
        task_id: The task, in LIBERO's order.
        folder: Where the file goes; made if need be.
        recording: What to record.
        overwrite: Whether to replace a file recorded otherwise.
        progress: Called with each episode that is stored.

    Raises:
        FileExistsError: If the file is there, was recorded otherwise, and is not to be overwritten.
        ValueError: If a setting is wrong for the task, or a kind keeps ending otherwise than meant.
    """
    task, assets = get_task(SUITE, task_id), resolve_assets().kind
    path = Path(folder) / f"{task.name}_{assets}.hdf5"
    settings = {
        **asdict(recording),
        "init_states": list(recording.init_states),  # as JSON gives them back
        "visuals": check_visuals(recording.visuals),
        "assets": assets,
        "version": BEHAVIOUR_VERSION,
    }
    kinds = settings.pop("success_kinds")
    if kinds != SUCCESSES:  # files from before there was a choice do not name them
        settings["success_kinds"] = list(kinds)
    plan = recording.plan(task_id)
    if path.exists() and not overwrite:
        if recording_settings(path) == settings:
            return RecordedBehaviours(path, len(plan), skipped=True)
        raise FileExistsError(
            f"{str(path)!r} exists and was recorded with other settings: choose another folder, or "
            "overwrite it (`--overwrite`)"
        )
    rejected = 0
    simulation = Simulation(task, recording.image_size, recording.visuals)
    try:
        with writing_behaviours(path, settings) as write:
            for kind, init_state_id, first_seed in plan:
                episode, tries = _play_as_meant(
                    simulation, kind, init_state_id, first_seed, recording
                )
                write(episode)
                rejected += tries - 1
                if progress is not None:
                    progress(episode)
    finally:
        simulation.close()
    return RecordedBehaviours(path, len(plan), rejected)


def _play_as_meant(
    simulation: Simulation,
    kind: str,
    init_state_id: int,
    first_seed: int,
    recording: BehaviourRecording,
) -> tuple[BehaviourEpisode, int]:
    for tries in range(1, MAX_TRIES + 1):
        seed = first_seed + tries - 1
        episode = play(
            simulation,
            kind,
            init_state_id,
            seed,
            chunk=recording.chunk,
            max_steps=recording.max_steps,
        )
        if episode.success == KINDS[kind].succeeds:
            return episode, tries
    meant = "succeed" if KINDS[kind].succeeds else "fail"
    raise ValueError(
        f"episodes of kind {kind!r} must {meant}, and {MAX_TRIES} in a row of "
        f"{simulation.task.name} from initial state {init_state_id} did not"
    )
