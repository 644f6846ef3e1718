"""Compares LIBERO's own and lerobot's environment with ours, for ``srpo-env benchmark sim``.

Prints nothing; `measure` describes the result, which is plain data.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args

import numpy as np

from srpo_env.benchmarks.sim.image_quality import compare_visuals
from srpo_env.benchmarks.sim.implementations import (
    CHUNK,
    Implementation,
    Kind,
    Ours,
    Upstream,
    Work,
    quieten_upstream,
)
from srpo_env.benchmarks.sim.lerobot_peer import Lerobot, lerobot_version
from srpo_env.benchmarks.sim.step_profile import profile_step
from srpo_env.libero.assets import check_suite, resolve_assets
from srpo_env.libero.suites import MAX_STEPS, Task, check_suite_name, get_task, tasks_of
from srpo_env.system.machine import describe_machine

T = TypeVar("T")

PARTS = ("speed", "memory", "images", "profile")

BLOCKS: dict[Kind, tuple[Kind, ...]] = {
    "no camera": ("no camera", "no camera, physics fast"),
    "exact": ("exact", "fast", "fast, physics fast"),
}
"""Kinds of this package that each kind of upstream is compared with; upstream has exact images."""

OTHERS = ("upstream", "lerobot")
"""Implementations that this package is compared with."""

MANY_ENVS = 8
"""Number of environments whose memory is measured when they share workers."""


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    suite: str = "libero_object"
    task_id: int = 0
    steps: int = 80
    """Number of control steps per repeat, and of the profile; a multiple of `CHUNK`."""
    repeats: int = 5
    workers: tuple[int, ...] = (1, 2)
    """Numbers of worker processes, with one environment each."""
    image_size: int = 128
    min_seconds: float = 0.5
    """Minimum duration of a speed measurement; fast implementations repeat the work."""
    seed: int = 0
    limit_upstream_threads: bool = True
    """Whether upstream's workers get one thread each, as ours do, instead of its defaults."""
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: If a setting is out of range.
        """
        check_suite_name(self.suite)
        limit = MAX_STEPS[self.suite]
        if self.steps < CHUNK or self.steps % CHUNK or self.steps > limit:
            raise ValueError(
                f"`steps` must be a multiple of {CHUNK} and at most {limit}, an episode of "
                f"{self.suite}, got {self.steps}"
            )
        for name, minimum in (("repeats", self.repeats), ("workers", min(self.workers, default=0))):
            if minimum < 1:
                raise ValueError(f"`{name}` must be at least 1, got {minimum}")
        unknown = set(self.parts) - set(PARTS)
        if unknown:
            raise ValueError(f"`parts` must be among {', '.join(PARTS)}, got {sorted(unknown)}")

    @property
    def task(self) -> Task:
        """Task in which speed, memory and profile are measured."""
        return get_task(self.suite, self.task_id)


def measure(settings: Settings, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures the selected parts.

    Args:
        settings: What to measure.
        progress: Called with a description before each of `num_measurements` steps.

    Returns:
        Data for JSON: ``machine``, ``assets``, ``settings`` and the selected parts:

        * ``speed``: a row for each kind of image and number of workers: ``upstream`` and ``ours``
          with ``steps_per_second`` and ``reset_seconds``, ``speedup`` and ``reset_speedup``
          (ratios within one repeat, so that drift of the machine cancels);
        * ``speed_lerobot``: the same with ``lerobot`` instead of ``upstream``, for kinds with a
          camera; empty where lerobot is not installed;
        * ``scaling``: steps/s with several workers divided by steps/s with one;
        * ``memory``: bytes per environment;
        * ``images``: see `compare_visuals`;
        * ``profile``: milliseconds per control step, by part.

        Repeated measurements have ``median``, ``min``, ``max`` and ``values``.

    Raises:
        FileNotFoundError: If the suite's assets are missing.
        ConnectionError: If LIBERO's own environment does not run.
    """
    check_suite(resolve_assets(), settings.suite)
    result: dict[str, Any] = describe(settings)
    if "speed" in settings.parts:
        result.update(measure_speed(settings, progress))
    if "memory" in settings.parts:
        result["memory"] = list(measure_memory(settings, progress))
    if "images" in settings.parts:
        progress("images, fast against exact")
        tasks = tasks_of(settings.suite)
        result["images"] = _in_new_process(compare_visuals, tasks)
    if "profile" in settings.parts:
        result["profile"] = list(profile(settings, progress))
    return result


def num_measurements(settings: Settings) -> int:
    """Returns how often `measure` calls ``progress``."""
    num_implementations = sum(1 + len(ours) for ours in BLOCKS.values())
    num_timed = sum(len(_others(theirs)) + len(ours) for theirs, ours in BLOCKS.items())
    counts = {
        "speed": (settings.repeats + 1) * num_timed * len(settings.workers),
        "memory": num_timed + len(MANY_KINDS),
        "images": 1,
        "profile": num_implementations,
    }
    return sum(counts[part] for part in settings.parts)


def _others(theirs: Kind) -> tuple[str, ...]:
    """Returns which of `OTHERS` have this kind; lerobot's environment always has cameras."""
    return OTHERS if theirs != "no camera" and lerobot_version() is not None else OTHERS[:1]


def describe(settings: Settings) -> dict[str, Any]:
    """Returns settings, machine, assets and the version of lerobot, None without it."""
    assets = resolve_assets()
    # In a new process, because a process can load only one OpenGL library.
    command = [sys.executable, "-m", "srpo_env.libero.gl_probe"]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return {
        "settings": {**asdict(settings), "task": settings.task.name, "chunk": CHUNK},
        "assets": {"kind": assets.kind, "source": assets.source},
        "lerobot": lerobot_version(),
        "machine": {
            **describe_machine(),
            "opengl": json.loads(probe.stdout) if probe.returncode == 0 else None,
        },
    }


# --- Speed --------------------------------------------------------------------------------------


@dataclass
class _Samples:
    """Measurements of one implementation, one value per repeat."""

    implementation: Implementation
    steps_per_second: list[float]
    reset_seconds: list[float]

    def summary(self) -> dict[str, Any]:
        return {
            "steps_per_second": spread(self.steps_per_second),
            "reset_seconds": spread(self.reset_seconds),
        }


def measure_speed(settings: Settings, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures control steps per second and seconds per reset, of all implementations in turn."""
    rows: dict[str, list[dict[str, Any]]] = {other: [] for other in OTHERS}
    scaling: list[dict[str, Any]] = []
    for theirs, kinds in BLOCKS.items():
        with ExitStack() as stack:
            block: dict[tuple[str, int], _Samples] = {}
            for num in settings.workers:
                for name in (*_others(theirs), *kinds):
                    progress(f"start {_title(theirs, name, num)}")
                    running = stack.enter_context(_started(settings, theirs, name, num))
                    block[name, num] = _Samples(running, [], [])
            for repeat in range(settings.repeats):
                # In alternating order, so that no implementation always follows the same one.
                order = list(block) if repeat % 2 == 0 else list(reversed(block))
                for name, num in order:
                    progress(f"repeat {repeat + 1}: {_title(theirs, name, num)}")
                    _sample(block[name, num], settings, repeat)
        for other in _others(theirs):
            rows[other] += [
                _row(block, other, kind, num) for kind in kinds for num in settings.workers
            ]
        scaling += _scaling(block, theirs, settings.workers)
    return {"speed": rows["upstream"], "speed_lerobot": rows["lerobot"], "scaling": scaling}


def _sample(samples: _Samples, settings: Settings, repeat: int) -> None:
    implementation = samples.implementation
    work = make_work(settings, implementation.num_envs, repeat + 1)
    samples.reset_seconds.append(implementation.time_reset(work))
    samples.steps_per_second.append(implementation.steps_per_second(work, settings.min_seconds))


def _row(
    block: dict[tuple[str, int], _Samples], other: str, kind: Kind, num: int
) -> dict[str, Any]:
    ours, theirs = block[kind, num], block[other, num]
    pairs = zip(ours.steps_per_second, theirs.steps_per_second, strict=True)
    resets = zip(theirs.reset_seconds, ours.reset_seconds, strict=True)
    return {
        "kind": kind,
        "workers": num,
        other: theirs.summary(),
        "ours": ours.summary(),
        "speedup": spread([own / their for own, their in pairs]),
        "reset_speedup": spread([their / own for their, own in resets]),
    }


def _scaling(
    block: dict[tuple[str, int], _Samples], theirs: Kind, workers: Sequence[int]
) -> list[dict[str, Any]]:
    if 1 not in workers:
        return []
    return [
        {
            "implementation": name if name in OTHERS else "ours",
            "kind": theirs if name in OTHERS else name,
            "workers": num,
            "speedup": spread(
                [
                    many / one
                    for many, one in zip(
                        samples.steps_per_second, block[name, 1].steps_per_second, strict=True
                    )
                ]
            ),
        }
        for (name, num), samples in block.items()
        if num > 1
    ]


def make_work(settings: Settings, num_envs: int, repeat: int) -> Work:
    """Makes the work of a repeat: an initial state, and random actions of each environment.

    It is the same for every implementation, and an environment's actions do not depend on
    ``num_envs``.
    """
    shape = (settings.steps // CHUNK, CHUNK, 7)
    actions = [
        np.random.default_rng([settings.seed, repeat, env]).uniform(-1.0, 1.0, shape)
        for env in range(num_envs)
    ]
    num_states = len(settings.task.init_states())
    return Work(settings.task, repeat % num_states, np.stack(actions, axis=1))


@contextmanager
def _started(
    settings: Settings, theirs: Kind, name: str, num_envs: int, num_workers: int | None = None
) -> Iterator[Implementation]:
    """Starts an implementation and steps it once, so that one-time costs are not measured."""
    implementation: Implementation
    if name == "upstream":
        implementation = Upstream(
            settings.task,
            theirs,
            num_envs,
            settings.image_size,
            limit_threads=settings.limit_upstream_threads,
        )
    elif name == "lerobot":
        implementation = Lerobot(
            settings.task,
            num_envs,
            settings.image_size,
            limit_threads=settings.limit_upstream_threads,
        )
    else:
        kind: Kind = next(kind for kind in get_args(Kind) if kind == name)
        size = settings.image_size
        implementation = Ours(
            settings.task, kind, num_envs, num_workers=num_workers, image_size=size
        )
    with closing(implementation):
        work = make_work(settings, num_envs, 0)
        first_chunk = Work(work.task, work.init_state_id, work.actions[:1])
        implementation.reset(first_chunk)
        implementation.step(first_chunk)
        yield implementation


def _title(theirs: Kind, name: str, num: int) -> str:
    image = "cameras" if theirs == "exact" else theirs
    title = f"{name}, {image}" if name in OTHERS else f"srpo-env, {name}"
    return f"{title}, {num} worker{'s' * (num > 1)}"


# --- Memory -------------------------------------------------------------------------------------

MANY_KINDS: tuple[Kind, ...] = ("exact", "fast")


def measure_memory(settings: Settings, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Measures the memory of the workers (proportional set size), one implementation at a time."""
    for theirs, kinds in BLOCKS.items():
        for name in (*_others(theirs), *kinds):
            progress(f"memory of {_title(theirs, name, 1)}")
            with _started(settings, theirs, name, 1) as running:
                yield _memory_row(running, theirs if name in OTHERS else name, 1, 1)
    num_workers = min(max(settings.workers), MANY_ENVS)
    for kind in MANY_KINDS:
        progress(f"memory of {MANY_ENVS} environments, {kind}")
        with _started(settings, kind, kind, MANY_ENVS, num_workers) as running:
            yield _memory_row(running, kind, num_workers, 1)
            for task in tasks_of(settings.suite):
                work = make_work(settings, MANY_ENVS, 0)
                first_chunk = Work(task, 0, work.actions[:1])
                running.reset(first_chunk)
                running.step(first_chunk)
            yield _memory_row(running, kind, num_workers, len(tasks_of(settings.suite)))


def _memory_row(
    running: Implementation, kind: str, num_workers: int, num_tasks: int
) -> dict[str, Any]:
    total = running.memory()
    return {
        "implementation": running.name if running.name in OTHERS else "ours",
        "kind": kind,
        "envs": running.num_envs,
        "workers": num_workers,
        "tasks": num_tasks,
        "bytes": total,
        "bytes_per_env": None if total is None else total / running.num_envs,
    }


# --- Profile ------------------------------------------------------------------------------------


def profile(settings: Settings, progress: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Measures milliseconds per control step by part, of one environment in a new process."""
    for theirs, kinds in BLOCKS.items():
        for name in ("upstream", *kinds):
            progress(f"profile of {_title(theirs, name, 1)}")
            implementation = "upstream" if name == "upstream" else "ours"
            kind = theirs if name == "upstream" else name
            parts = _in_new_process(
                profile_step, settings.task, implementation, kind, settings.steps // CHUNK
            )
            yield {"implementation": implementation, "kind": kind, "milliseconds": parts}


def _in_new_process(function: Callable[..., T], *args: Any) -> T:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_start_quietly) as executor:
        return executor.submit(function, *args).result()


def _start_quietly() -> None:
    quieten_upstream()
    # The parent process has printed the same warnings.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns median, minimum, maximum and all values of repeated measurements."""
    return {
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "values": [float(value) for value in values],
    }
