"""Measures how well progress rewards rank failures, for ``srpo-env benchmark reward``.

Prints nothing; `measure` describes the result, which is plain data.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from srpo_env.benchmarks.plain_data import plain
from srpo_env.benchmarks.reward import metrics
from srpo_env.benchmarks.reward.distance_options import OPTIONS, Centers
from srpo_env.benchmarks.reward.encoder_rows import BASELINES, Row, make_rows
from srpo_env.benchmarks.reward.image_shifts import SHIFTS
from srpo_env.benchmarks.reward.latents import PARTS, task_latents, task_states
from srpo_env.benchmarks.reward.potentials import (
    CHANGE,
    TaskPotentials,
    measure_potentials,
    potential_figures,
)
from srpo_env.benchmarks.reward.rankings import Bootstrap, figures, rank_within_tasks
from srpo_env.benchmarks.reward.task_distances import (
    AS_RECORDED,
    TaskDistances,
    TaskLabels,
    measure_task,
    task_labels,
)
from srpo_env.libero.behaviour_files import read_behaviours
from srpo_env.libero.demos import recording_settings
from srpo_env.libero.perturbations import as_data
from srpo_env.system.machine import commit

PAPER = "mean"
"""Name of the paper's option."""


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    files: tuple[Path, ...]
    """Files of ``srpo-env record-behaviours``, one task in each."""
    cache: Path
    """Folder of cached latents."""
    encoders: tuple[str, ...] = tuple(BASELINES)
    options: tuple[str, ...] = tuple(OPTIONS)
    all_centers: tuple[str, ...] = (PAPER,)
    """Options that are measured with every kind of centers; the others use DBSCAN's only."""
    group_size: int = 8
    num_windows: int = 10
    """Number of growing windows per episode, for the progress curves."""
    num_samples: int = 1000
    """Number of bootstrap samples."""
    seed: int = 0
    """Random seed of the bootstrap."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If a setting is out of range.
        """
        for name, minimum in (("group_size", 3), ("num_windows", 3), ("num_samples", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"`{name}` must be at least {minimum}, got {getattr(self, name)}")
        for name, values in (("options", self.options), ("all_centers", self.all_centers)):
            unknown = sorted(set(values) - set(OPTIONS))
            if unknown:
                raise ValueError(f"`{name}` must be among {', '.join(OPTIONS)}, got {unknown}")
        for name in ("files", "encoders", "options"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must name at least one, got none")

    def columns(self) -> list[tuple[str, Centers]]:
        """Returns options and centers in the order of the table."""
        kinds: tuple[Centers, ...] = get_args(Centers)
        return [
            (option, centers)
            for option in self.options
            for centers in (kinds if option in self.all_centers else kinds[:1])
        ]


@dataclass
class _Measured:
    """Labels of the tasks, and their distances by row, option and centers."""

    labels: list[TaskLabels] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Tasks with fewer than two successes or two failures."""
    distances: dict[tuple[str, str, Centers], list[TaskDistances]] = field(default_factory=dict)
    potentials: dict[str, list[TaskPotentials]] = field(default_factory=dict)
    """Potentials of the tasks by row, without rows whose latents are points."""


def num_measurements(settings: Settings) -> int:
    """Returns how often `measure` calls ``progress``."""
    return len(settings.files) * len(settings.encoders) * (len(PARTS) + len(settings.columns()))


def measure(settings: Settings, progress: Callable[[str], object]) -> dict[str, Any]:
    """Encodes the episodes with every encoder and evaluates every distance option.

    Args:
        settings: What to measure.
        progress: Called with a description after each of `num_measurements` steps.

    Returns:
        Data for JSON: ``settings``, ``definitions``, ``versions``, ``episodes`` (counts, and tasks
        that are ``left_out`` because they have too few successes or failures), and ``rows``, one
        for each encoder, option and kind of centers:

        * ``task``: ranking of all failures of a task, compared with all successes of the task.
          ``tau``: Kendall's tau between the negative distance and the maximum oracle progress, over
          all pairs of failures of the same task; ``interval``: its 95% interval, by bootstrap over
          tasks and failures; ``tau_of_final``: the same with the oracle progress at the episode's
          end; ``accuracy``: share of pairs in the right order, of all pairs, of those less than a
          stage (0.2) apart, and of those at least a stage apart;
        * ``group``: the same in groups as in training, compared with the group's own successes
          (interval over tasks and groups). ``overpaid``: share of failures that rank above a
          failure with at least a stage more oracle progress; ``correlation_paper`` and
          ``correlation_siirl``: Pearson's correlation of the formula's rewards with the maximum
          oracle progress. Both formulas give the same ranks;
        * ``lead_over_pixels``: tau within tasks minus that of the same option on pixels;
        * ``rank_errors``: mean of rank by reward minus rank by oracle, as a share, by kind of
          failure; above 0, the kind is paid too much;
        * ``shifts``: rankings if all episodes of a task are shifted in the same way, as a batch in
          training would be (``task``, ``group``), and if only the failures are (``one_sided``);
          ``spearman``: correlation of the shifted successes' curves with time; ``placement``: each
          failure is compared with successes from other initial states only;
        * ``curves``: the paper's five metrics; with ``others``, a success is compared with the
          other successes; with ``self``, with its own end.

        ``potentials`` holds one entry for each encoder of paths: the progress potential of the
        failures of a task against the oracle's furthest progress so far. ``within``: Spearman
        correlation over the moments of a failure, averaged over failures; ``pooled``: over all
        moments of all failures of a task, averaged over tasks; with 95% intervals, and with time in
        place of the potential (``time_within``, ``time_pooled``). ``earned``: shares of the
        potential that failures earn while the oracle's progress reaches a new maximum
        (``record``), falls, rises again below its maximum (``retry``) or does not change.
        ``regret``: oracle progress that a failure has lost at its end and the potential still
        counts, because it never falls; ``lost_a_stage``: share of failures that lost a stage.

    Raises:
        FileNotFoundError: If a file or a checkpoint does not exist.
        ValueError: If a file has another format, or no task has enough successes and failures.
    """
    rows = make_rows(settings.encoders)
    measured = _Measured()
    for file in settings.files:
        _measure_file(file, rows, settings, measured, progress)
    if not measured.labels:
        raise ValueError(
            "at least one task must have two successes and two failures to rank, and none of "
            f"{', '.join(measured.left_out)} has: record more episodes"
        )
    bootstrap = Bootstrap.draw(measured.labels, settings.num_samples, settings.seed)
    result = {
        "settings": plain(asdict(settings)),
        "definitions": DEFINITIONS,
        "versions": _versions(),
        "episodes": {**_counts(measured.labels, settings.files), "left_out": measured.left_out},
        "rows": [],
        "potentials": [
            {"encoder": name, **potential_figures(tasks, bootstrap)}
            for name, tasks in measured.potentials.items()
        ],
    }
    for (name, option, centers), distances in measured.distances.items():
        row: dict[str, Any] = {"encoder": name, "option": option, "centers": centers}
        row.update(figures(measured.labels, distances, bootstrap))
        pixels = measured.distances.get(("pixels", option, centers))
        if pixels is not None and name != "pixels":
            own, baseline = (
                rank_within_tasks(measured.labels, one, bootstrap, AS_RECORDED)
                for one in (distances, pixels)
            )
            row["lead_over_pixels"] = own.lead(baseline)
        result["rows"].append(row)
    return dict(plain(result))


def _measure_file(
    file: Path,
    rows: Sequence[Row],
    settings: Settings,
    measured: _Measured,
    progress: Callable[[str], object],
) -> None:
    episodes = list(read_behaviours(file))
    labels = task_labels(file.stem, episodes, settings.group_size)
    if labels is None:
        measured.left_out.append(file.stem)
        for _ in range(num_measurements(settings) // len(settings.files)):
            progress(f"{file.stem}: left out")
        return
    measured.labels.append(labels)
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
            progress=functools.partial(_report, progress, row),
        )
        potentials = measure_potentials(row, labels, latents.whole, episodes)
        if potentials is not None:
            measured.potentials.setdefault(row.name, []).append(potentials)
        for option, centers in settings.columns():
            distances = measure_task(
                labels, latents, option, centers, with_shifts_and_curves=centers == "dbscan"
            )
            measured.distances.setdefault((row.name, option, centers), []).append(distances)
            progress(f"{row.name}: {option}")


def _report(progress: Callable[[str], object], row: Row, part: str) -> None:
    progress(f"{row.name}: {part}")


# --- Definitions of the results -------------------------------------------------------------------

DEFINITIONS: dict[str, Any] = {
    "options": {name: option.description for name, option in OPTIONS.items()},
    "max_progress": "maximum oracle progress over the frames of the episode; five stages of 0.2",
    "tau": "Kendall's tau-b over all pairs of failures of the same task, or group",
    "curves": "frames 0 to t for growing t; distances flipped and scaled to [0, 1] per episode",
    "spearman": "rank correlation of a success's progress curve with time",
    "monotonicity": "share of steps in which a success's progress curve rises",
    "mmd": f"squared, Gaussian kernel of bandwidth {metrics.MMD_BANDWIDTH}, of the last "
    "window's progress, successes against failures",
    "js": f"in nats, histograms of {metrics.JS_BINS} bins over [0, 1], of the same",
    "smd": "difference of means over the pooled standard deviation, of the same",
    "potential": f"a change of oracle progress of up to {CHANGE:g} between two moments is none",
    "shifts": {
        **{name: as_data((perturbation,))[0] for name, perturbation in SHIFTS.items()},
        "placement": "compared with successes from other initial states only",
    },
}
"""Definitions of the results, with all constants; part of the JSON."""


def _counts(labels: Sequence[TaskLabels], files: Sequence[Path]) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for task in labels:
        for kind in task.kinds:
            kinds[kind] = kinds.get(kind, 0) + 1
    recording = recording_settings(files[0]) or {}
    return {
        "tasks": len(labels),
        "successes": int(sum(task.successes.sum() for task in labels)),
        "failures": int(sum(len(task.failed) for task in labels)),
        "groups": int(sum(len(task.groups) for task in labels)),
        "groups_of_one_state": all(task.same_state for task in labels),
        "kinds": dict(sorted(kinds.items())),
        "assets": recording.get("assets"),
        "recording": recording,
    }


def _versions() -> dict[str, Any]:
    packages = ("srpo-env", "numpy", "scikit-learn", "scipy")
    return {**{name: importlib.metadata.version(name) for name in packages}, "commit": commit()}
