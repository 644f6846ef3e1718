"""Metrics of a training run, its settings and its conditions.

A run's folder holds ``args.json``, ``conditions.json`` and ``history.jsonl``, TensorBoard's files
and, if the run is tracked, a copy at Weights & Biases. `srpo_env.training.report` reads
and draws them.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

import srpo_env
from srpo_env.system.files import DamagedFileError, errors_name, read_json, write_file
from srpo_env.system.machine import commit, cpu_name, usable_cores
from srpo_env.training.report import CONDITIONS, HISTORY, SETTINGS, read_history
from srpo_env.training.settings import RunSettings


class RunRecords:
    """The metrics of a run, in memory: what the ranks have that do not write them."""

    def __init__(self, records: Sequence[dict[str, Any]] = ()) -> None:
        """Initialises the log with what was logged before."""
        self.records: list[dict[str, Any]] = list(records)
        """everything that was logged, in order"""

    def write(self, counters: Mapping[str, float], values: Mapping[str, float], step: int) -> None:
        """Logs metrics; leaves out those that are NaN, which JSON does not have.

        Args:
            counters: How far the run is.
            values: Metrics by name.
            step: Position of the metrics on TensorBoard's axis.
        """
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        self.records.append({**counters, **known})

    def latest(self, name: str) -> float:
        """Returns the newest value of a metric; NaN if it was never logged."""
        values = [float(record[name]) for record in self.records if name in record]
        return values[-1] if values else math.nan

    def sync(self) -> None:
        """Does nothing: there is no file."""

    def close(self) -> None:
        """Does nothing: there is no file."""


class RunLog(RunRecords):
    """Writes the metrics of one run into its folder."""

    def __init__(
        self,
        folder: str | Path,
        settings: RunSettings,
        conditions: Mapping[str, Any],
        machine: Mapping[str, Any] | None = None,
        *,
        resume_at: Mapping[str, int] | None = None,
    ) -> None:
        """Writes settings and conditions; for a resumed run, drops metrics after its checkpoint.

        Args:
            folder: The run's folder, which exists.
            settings: Settings of the run.
            conditions: What the metrics depend on besides the settings, such as LIBERO's assets. A
                run is only resumed under the conditions that it began with.
            machine: What else describes the machine, such as OpenGL; it may change.
            resume_at: ``records`` (number of `write` calls) and ``step`` at the checkpoint from
                which the run is resumed; None for a new run.

        Raises:
            FileExistsError: If the folder of a new run already holds a run.
            ValueError: If the conditions of a resumed run have changed, or a file is damaged.
        """
        super().__init__()
        self.folder = Path(folder)
        if resume_at is not None:
            self._check_conditions(conditions)
            self.records = read_history(self.folder, resume_at["records"])
        elif (self.folder / HISTORY).exists():
            raise FileExistsError(f"{self.folder} already holds a run: delete it, or name another")
        content = settings.as_json()
        # Each file is replaced in one step, so that a run that ends right here can be resumed.
        write_file(self.folder / SETTINGS, json.dumps(content, indent=2).encode())
        all_conditions = {
            **conditions,
            **(machine or {}),
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "torch": torch.__version__,
            "srpo-env": srpo_env.__version__,
            "commit": commit(),
        }
        write_file(self.folder / CONDITIONS, json.dumps(all_conditions, indent=2).encode())
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_file(self.folder / HISTORY, lines.encode())
        self._history = (self.folder / HISTORY).open("a")
        if settings.track:
            import wandb

            wandb.init(
                project=settings.wandb_project_name, entity=settings.wandb_entity,
                config={**content, **all_conditions},
                id=self.folder.name, name=self.folder.name, resume="allow", sync_tensorboard=True,
            )  # fmt: skip
        _rename_later_events(self.folder)
        first_step = None if resume_at is None else resume_at["step"] + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=first_step)
        self._writer.add_text("args", f"```json\n{json.dumps(content, indent=2)}\n```")

    def write(self, counters: Mapping[str, float], values: Mapping[str, float], step: int) -> None:
        """Logs metrics, and writes them to the history and to TensorBoard."""
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        with errors_name(self.folder / HISTORY):
            self._history.write(json.dumps({**counters, **values}) + "\n")
            self._history.flush()
        super().write(counters, values, step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Flushes the history to the disk."""
        with errors_name(self.folder / HISTORY):
            os.fsync(self._history.fileno())

    def close(self) -> None:
        """Writes what is still in memory, and closes the files."""
        with closing(self._history):
            self._writer.close()

    def _check_conditions(self, conditions: Mapping[str, Any]) -> None:
        file = self.folder / CONDITIONS
        before = read_json(file)
        if not isinstance(before, dict):
            raise DamagedFileError(f"{file} is damaged: it must be a JSON object")
        for name, value in conditions.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.folder} began with {name} {before.get(name)!r}, now it is {value!r}: "
                    "the metrics of one run must not mix the two"
                )


@contextmanager
def quiet_writer_thread() -> Iterator[None]:
    """Prints no tracebacks of TensorBoard's thread, whose errors the next call raises again."""
    previous = threading.excepthook

    def print_others(error: threading.ExceptHookArgs) -> None:
        if not type(error.thread).__module__.startswith("tensorboard."):
            previous(error)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = previous


def _rename_later_events(folder: Path) -> None:
    """Renames TensorBoard's files of a run whose names have a time in the future.

    TensorBoard reads them in the order of their names, which begin with the time, and a resumed run
    replaces the metrics that were read before its own. So a clock that was set back would bring
    metrics back that the run has dropped.
    """
    now, start = int(time.time()), "events.out.tfevents."
    files = sorted(folder.glob(f"{start}*"))
    if files and files[-1].name > f"{start}{now:010d}":
        for number, file in enumerate(files):
            file.rename(folder / f"{start}0000000000.{number:06d}.{time.time_ns()}")
