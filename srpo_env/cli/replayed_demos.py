"""The work of ``srpo-env replay``: replays demonstrations, prints a table and writes files."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from srpo_env import __version__
from srpo_env.adapters.lerobot_dataset import DatasetWriter, writing_dataset
from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.demo_replay import (
    RecordedActions,
    Replay,
    no_ops,
    read_actions,
    replay,
    task_of,
    without_no_ops,
)
from srpo_env.libero.hdf5 import find_files
from srpo_env.libero.own_suites import single_task
from srpo_env.libero.simulation import CAMERAS, Simulation
from srpo_env.libero.suites import Task
from srpo_env.system.files import write_file


@dataclass(frozen=True)
class Row:
    """The result of one demonstration."""

    file: str
    demo: str
    num_steps: int
    success: bool
    success_step: int | None
    max_deviation: float
    num_no_ops: int
    success_without_no_ops: bool | None
    """None if it was not replayed without them."""

    @property
    def passed(self) -> bool:
        """Whether every replay reached the goal."""
        return self.success and self.success_without_no_ops is not False


def replay_all(args: argparse.Namespace) -> int:
    """Replays the demonstrations, prints a table and writes the files; returns the exit code."""
    files = find_files(args.paths, "srpo-env demos")
    own = None if args.bddl is None else single_task(args.bddl).tasks[0]
    tasks = {file: own or task_of(file) for file in files}  # before hours of simulation
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        writer = None
        if args.lerobot is not None:
            writer = stack.enter_context(writing_dataset(args.lerobot, args.image_size))
        bar = stack.enter_context(tqdm(unit="demo", disable=None))
        for file, task in tasks.items():
            bar.set_description(file.name)
            for row in _replay_file(file, task, args, writer):
                rows.append(row)
                bar.update()
        if writer is not None and not any(row.passed for row in rows):
            raise ValueError(f"no demonstration reaches the goal, so {args.lerobot} is not written")
    print(_table(rows))
    num_passed = sum(row.passed for row in rows)
    if args.lerobot is not None:
        print(f"{num_passed} episodes written to {args.lerobot}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_file(args.json, json.dumps(_as_dict(rows), indent=2).encode())
        print(f"results written to {args.json}")
    return 0 if num_passed == len(rows) else 1


def _replay_file(
    file: Path, task: Task, args: argparse.Namespace, writer: DatasetWriter | None
) -> Iterator[Row]:
    simulation = Simulation(task, args.image_size)
    try:
        for demo in read_actions(file):
            frames = _Frames(simulation)
            exported = without_no_ops(demo) if args.drop_no_ops else demo
            observe = None if writer is None else frames.append
            result = replay(simulation, demo, observe=None if args.drop_no_ops else observe)
            filtered: Replay | None = None
            if args.drop_no_ops:
                filtered = replay(simulation, exported, observe=observe)
            row = Row(
                file=str(file),
                demo=demo.name,
                num_steps=len(demo.actions),
                success=result.success,
                success_step=result.success_step,
                max_deviation=result.max_deviation,
                num_no_ops=int(no_ops(demo.actions).sum()),
                success_without_no_ops=None if filtered is None else filtered.success,
            )
            if writer is not None and row.passed:
                frames.write(writer, exported, task.instruction)
            yield row
    finally:
        simulation.close()


class _Frames:
    """Observations of an episode, up to the action that reaches the goal."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._images: dict[str, list[Any]] = {camera: [] for camera in CAMERAS}
        self._states: list[Any] = []

    def append(self) -> None:
        for camera, images in self._images.items():
            images.append(self._simulation.render(camera))
        self._states.append(self._simulation.proprio())

    def write(self, writer: DatasetWriter, demo: RecordedActions, instruction: str) -> None:
        states = np.array(self._states)
        writer.add(self._images, states, demo.actions[: len(states)], instruction)


def _table(rows: list[Row]) -> str:
    lines = [f"{'demos':>5} {'success':>7} {'deviation':>9} {'no-ops':>6}  file"]
    for file in dict.fromkeys(row.file for row in rows):
        part = [row for row in rows if row.file == file]
        deviation = max(row.max_deviation for row in part)
        no_op_share = sum(row.num_no_ops for row in part) / sum(row.num_steps for row in part)
        lines.append(
            f"{len(part):5} {sum(row.success for row in part):7} {deviation:9.2g} "
            f"{no_op_share:6.1%}  {file}"
        )
    for row in rows:
        if not row.passed:
            which = "" if not row.success else " without its no-ops"
            lines.append(f"not to the goal{which}: {row.demo} of {row.file}")
    lines.append(f"{sum(row.success for row in rows)} of {len(rows)} replay to success")
    filtered = [row for row in rows if row.success_without_no_ops is not None]
    if filtered:
        count = sum(bool(row.success_without_no_ops) for row in filtered)
        lines.append(f"{count} of {len(rows)} replay to success without their no-ops")
    return "\n".join(lines)


def _as_dict(rows: list[Row]) -> dict[str, Any]:
    return {
        "srpo_env": __version__,
        "mujoco": importlib.metadata.version("mujoco"),
        "assets": resolve_assets().kind,
        "num_demos": len(rows),
        "num_successes": sum(row.success for row in rows),
        "demos": [asdict(row) for row in rows],
    }
