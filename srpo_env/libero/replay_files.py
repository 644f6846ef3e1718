"""Replays whole files of demonstrations, and hands over those that reach the goal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from srpo_env.libero.demo_replay import (
    Replay,
    fixture_poses,
    no_ops,
    read_actions,
    replay,
    without_no_ops,
)
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task

Fixtures = Literal["recorded", "seed 0", "none"]

Export = Callable[[dict[str, list[Any]], Any, Any, str], object]
"""Takes an episode: upright images of each camera, proprioception, actions and instruction."""


@dataclass(frozen=True)
class ReplayedDemo:
    """The result of one demonstration."""

    file: str
    demo: str
    num_steps: int
    success: bool
    success_step: int | None
    """Step at whose end the goal was first reached."""
    max_deviation: float
    """Largest difference from a recorded position: in m, rad, or a quaternion's component."""
    num_no_ops: int
    success_without_no_ops: bool | None
    """None if it was not replayed without them."""
    fixtures: Fixtures
    """Where fixtures stood: as ``"recorded"``; where ``"seed 0"`` puts them, because the file does
    not say where they stood; ``"none"``: the task has none."""

    @property
    def passed(self) -> bool:
        """Whether every replay reached the goal."""
        return self.success and self.success_without_no_ops is not False


def replay_file(
    file: Path,
    task: Task,
    *,
    drop_no_ops: bool = False,
    export: Export | None = None,
    image_size: int = 256,
) -> Iterator[ReplayedDemo]:
    """Replays the demonstrations of a file, one after the other.

    Args:
        file: A file in LIBERO's layout.
        task: Its task.
        drop_no_ops: Also replays, and exports, without the actions that do nothing.
        export: Called with each demonstration whose replays reach the goal, up to the action that
            reaches it.
        image_size: Height and width of the exported images in pixels.

    Raises:
        ValueError: If the file is not in LIBERO's layout, or of another task.
    """
    simulation = Simulation(task, image_size)
    initial = simulation.fixtures
    try:
        for demo in read_actions(file):
            recorded = fixture_poses(demo.model_xml, initial) if demo.model_xml else {}
            simulation.fixtures = {**initial, **recorded}
            seen = _Observations(simulation)
            observe = None if export is None else seen.append
            result = replay(simulation, demo, observe=None if drop_no_ops else observe)
            filtered: Replay | None = None
            exported = demo
            if drop_no_ops:
                exported = without_no_ops(demo)
                filtered = replay(simulation, exported, observe=observe)
            row = ReplayedDemo(
                file=str(file),
                demo=demo.name,
                num_steps=len(demo.actions),
                success=result.success,
                success_step=result.success_step,
                max_deviation=result.max_deviation,
                num_no_ops=int(no_ops(demo.actions).sum()),
                success_without_no_ops=None if filtered is None else filtered.success,
                fixtures="recorded" if recorded else "seed 0" if initial else "none",
            )
            if export is not None and row.passed:
                actions = exported.actions[: len(seen.proprio)]
                export(seen.images, np.array(seen.proprio), actions, task.instruction)
            yield row
    finally:
        simulation.close()


class _Observations:
    """Collects what is seen before each action."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.images: dict[str, list[Any]] = {camera: [] for camera in CAMERAS}
        self.proprio: list[Any] = []

    def append(self) -> None:
        for camera, images in self.images.items():
            images.append(self._simulation.render(camera))
        self.proprio.append(self._simulation.proprio())
