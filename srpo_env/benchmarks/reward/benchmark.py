"""How truly a progress reward ranks failures: what ``srpo-env benchmark reward`` measures.

Nothing here prints; the result is plain data, described at :func:`measure`.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from srpo_env.benchmarks.plain_data import plain
from srpo_env.benchmarks.reward import image_shifts, metrics
from srpo_env.benchmarks.reward.distance_options import OPTIONS, Centers
from srpo_env.benchmarks.reward.encoder_rows import BASELINES, Row, make_rows
from srpo_env.benchmarks.reward.latents import PARTS, task_latents, task_states
from srpo_env.benchmarks.reward.rankings import Bootstrap, figures, rank_within_tasks
from srpo_env.benchmarks.reward.task_distances import (
    AS_RECORDED,
    TaskFacts,
    TaskScores,
    facts_of,
    score_task,
)
from srpo_env.libero.behaviour_files import read_behaviours
from srpo_env.libero.demos import recording_settings
from srpo_env.machine import commit

PAPER = "mean"
"""Name of the paper's own option"""


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    files: tuple[Path, ...]
    """of episodes, one task in each, as ``srpo-env record-behaviours`` records them"""
    cache: Path
    """folder for latents"""
    encoders: tuple[str, ...] = tuple(BASELINES)
    options: tuple[str, ...] = tuple(OPTIONS)
    all_centers: tuple[str, ...] = (PAPER,)
    """options that are measured with every kind of centers; the others with DBSCAN's"""
    group_size: int = 8
    num_windows: int = 10
    """growing windows of an episode, for the curves of progress"""
    num_samples: int = 1000
    """of the bootstrap"""
    seed: int = 0
    """of the bootstrap"""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        for name, least in (("group_size", 3), ("num_windows", 3), ("num_samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        for name, values in (("options", self.options), ("all_centers", self.all_centers)):
            unknown = sorted(set(values) - set(OPTIONS))
            if unknown:
                raise ValueError(f"`{name}` must be among {', '.join(OPTIONS)}, got {unknown}")
        for name in ("files", "encoders", "options"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must name at least one, got none")

    def columns(self) -> list[tuple[str, Centers]]:
        """Options and centers, in the order of the table."""
        kinds: tuple[Centers, ...] = get_args(Centers)
        return [
            (option, centers)
            for option in self.options
            for centers in (kinds if option in self.all_centers else kinds[:1])
        ]


@dataclass
class _Scores:
    """By row, option and centers, those of each task."""

    facts: list[TaskFacts] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """tasks with fewer than two successes or two failures"""
    found: dict[tuple[str, str, Centers], list[TaskScores]] = field(default_factory=dict)


def num_measurements(settings: Settings) -> int:
    """How often :func:`measure` says what it does."""
    return len(settings.files) * len(settings.encoders) * (len(PARTS) + len(settings.columns()))


def measure(settings: Settings, progress: Callable[[str], object]) -> dict[str, Any]:
    """Encodes the episodes by every row and judges the rewards of every option.

    Args:
        settings: What to measure.
        progress: Is told what was done, :func:`num_measurements` times.

    Returns:
        Data for JSON: ``settings``, ``definitions``, ``versions``, ``episodes`` (counts, and tasks
        that are ``left_out`` for too few successes or failures), and ``rows``, one for each
        encoder, option and kind of centers:

        * ``task``: ranking of all failures of a task, compared with all of its successes: Kendall's
          ``tau`` of minus the distance with the furthest true progress, over all pairs of failures
          of the same task, with its ``interval`` (95%, bootstrap over tasks and failures);
          ``tau_of_final``: with the true progress at the episode's end; ``accuracy`` of pairs: of
          all, of those less than a stage (0.2) apart, and of the others;
        * ``group``: the same in groups as in training, compared with the group's own successes
          (interval over tasks and groups); ``overpaid``: share of failures that rank above one
          which got a stage further at least; ``correlation_paper`` and ``correlation_siirl``: of
          the formula's rewards with furthest true progress. Ranks are the same for both formulas;
        * ``lead_over_pixels``: difference of the tasks' tau to the same option on pixels;
        * ``rank_errors``: by kind of failure, rank by reward less rank by truth, as a share; above
          0, the kind is paid too much;
        * ``shifts``: the rankings when all episodes of a task are changed alike, as a batch in
          training would be (``task``, ``group``), and when the failures alone are (``one_sided``);
          ``spearman``: of successes beside others, with the same frames;
          ``placement``: each failure compared with successes from other initial states only;
        * ``curves``: the paper's five; with ``others`` a success is compared with other successes,
          with ``self`` with its own end.

    Raises:
        FileNotFoundError: If a file or a checkpoint is not there.
        ValueError: If a file holds something else, or no task can be judged.
    """
    rows = make_rows(settings.encoders)
    scores = _Scores()
    for file in settings.files:
        _score_file(file, rows, settings, scores, progress)
    if not scores.facts:
        raise ValueError(
            "a task must have two successes and two failures at least for its failures to be "
            f"ranked, and none of {', '.join(scores.left_out)} has"
        )
    drawn = Bootstrap.draw(scores.facts, settings.num_samples, settings.seed)
    result = {
        "settings": plain(asdict(settings)),
        "definitions": DEFINITIONS,
        "versions": _versions(),
        "episodes": {**_counts(scores.facts, settings.files), "left_out": scores.left_out},
        "rows": [],
    }
    for (name, option, centers), found in scores.found.items():
        row: dict[str, Any] = {"encoder": name, "option": option, "centers": centers}
        row.update(figures(scores.facts, found, drawn))
        pixels = scores.found.get(("pixels", option, centers))
        if pixels is not None and name != "pixels":
            both = [rank_within_tasks(scores.facts, x, drawn, AS_RECORDED) for x in (found, pixels)]
            row["lead_over_pixels"] = both[0].lead(both[1])
        result["rows"].append(row)
    return dict(plain(result))


def _score_file(
    file: Path,
    rows: Sequence[Row],
    settings: Settings,
    scores: _Scores,
    progress: Callable[[str], object],
) -> None:
    episodes = list(read_behaviours(file))
    facts = facts_of(file.stem, episodes, settings.group_size)
    if facts is None:
        scores.left_out.append(file.stem)
        for _ in range(num_measurements(settings) // len(settings.files)):
            progress(f"{file.stem}: left out")
        return
    scores.facts.append(facts)
    for row in rows:
        states = None
        if row.sees_states:
            states = task_states(file, episodes, settings.cache)
        latents = task_latents(
            row,
            file,
            episodes,
            states,
            num_windows=settings.num_windows,
            cache=settings.cache,
            progress=functools.partial(_tell, progress, row),
        )
        for option, centers in settings.columns():
            found = score_task(facts, latents, option, centers, everything=centers == "dbscan")
            scores.found.setdefault((row.name, option, centers), []).append(found)
            progress(f"{row.name}: {option}")


def _tell(progress: Callable[[str], object], row: Row, part: str) -> None:
    progress(f"{row.name}: {part}")


# --- What the figures are -------------------------------------------------------------------------

DEFINITIONS: dict[str, Any] = {
    "options": {name: option.what for name, option in OPTIONS.items()},
    "furthest": "most true progress seen at any frame of the episode; five stages of 0.2",
    "tau": "Kendall's tau-b over all pairs of failures of the same task, or group",
    "curves": "frames 0 to t for growing t; distances flipped and scaled to [0, 1] per episode",
    "spearman": "rank correlation of a success's curve with time",
    "monotonicity": "share of a success's windows that rise",
    "mmd": f"squared, Gaussian kernel of bandwidth {metrics.MMD_BANDWIDTH}, of the last "
    "window's progress, successes against failures",
    "js": f"in nats, histograms of {metrics.JS_BINS} bins over [0, 1], of the same",
    "smd": "difference of means over the pooled standard deviation, of the same",
    "shifts": {
        "camera": f"turned by {image_shifts.MAX_ANGLE / 2:g} to {image_shifts.MAX_ANGLE:g} "
        f"degrees, magnified by {image_shifts.ZOOM[0]:g} to {image_shifts.ZOOM[1]:g}, moved by "
        f"up to {image_shifts.MAX_OFFSET:.0%}",
        "light": f"{image_shifts.MAX_DIMMING / 2:.0%} to {image_shifts.MAX_DIMMING:.0%} darker "
        f"or lighter, each colour by up to {image_shifts.MAX_TINT:.0%} besides",
        "noise": f"normal, of {image_shifts.NOISE:g} of white on every pixel and frame",
        "placement": "compared with successes from other initial states only",
    },
}
"""In words, with every constant; part of the JSON"""


def _counts(facts: Sequence[TaskFacts], files: Sequence[Path]) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for task in facts:
        for kind in task.kinds:
            kinds[kind] = kinds.get(kind, 0) + 1
    recording = recording_settings(files[0]) or {}
    return {
        "tasks": len(facts),
        "successes": int(sum(task.successes.sum() for task in facts)),
        "failures": int(sum(len(task.failed) for task in facts)),
        "groups": int(sum(len(task.groups) for task in facts)),
        "groups_of_one_state": all(task.same_state for task in facts),
        "kinds": dict(sorted(kinds.items())),
        "assets": recording.get("assets"),
        "recording": recording,
    }


def _versions() -> dict[str, Any]:
    packages = ("srpo-env", "numpy", "scikit-learn", "scipy")
    return {**{name: importlib.metadata.version(name) for name in packages}, "commit": commit()}
