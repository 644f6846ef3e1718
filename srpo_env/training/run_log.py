"""What a training run leaves behind: its settings, its conditions, and every figure that it logs.

A run's folder holds ``args.json``, ``conditions.json`` and ``history.jsonl``, TensorBoard's files
and, if the run is tracked, a copy at Weights & Biases. :mod:`srpo_env.training.report` reads
and draws them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

import srpo_env
from srpo_env.machine import commit, cpu_name, usable_cores
from srpo_env.training.report import CONDITIONS, HISTORY, SETTINGS, read_history


class RunLog:
    """Writes the figures of one run to its folder."""

    def __init__(
        self,
        folder: str | Path,
        args: Mapping[str, Any],
        conditions: Mapping[str, Any],
        *,
        resume_at: Mapping[str, int] | None = None,
    ) -> None:
        """Makes the run's folder; of a run that goes on, forgets what came after its checkpoint.

        Args:
            folder: The run's; made if it is missing.
            args: The program's settings. With ``args["track"]``, the curves go to Weights & Biases
                too, to ``args["wandb_project_name"]`` of ``args["wandb_entity"]``.
            conditions: What the figures depend on beside the settings, as LIBERO's assets. A run
                goes on only under the conditions that it began with.
            resume_at: ``iteration`` and ``step`` of the checkpoint that the run goes on from; None
                for a new run.

        Raises:
            FileExistsError: If a new run's folder holds a run already.
            ValueError: If a run is to go on under other conditions.
        """
        self.folder = Path(folder)
        self.past: list[dict[str, Any]] = []
        """figures that the run had logged when it was stopped"""
        if resume_at is not None:
            self._check_conditions(conditions)
            self.past = read_history(self.folder, resume_at["iteration"])
        elif (self.folder / HISTORY).exists():
            raise FileExistsError(f"{self.folder} holds a run already: delete it, or name another")
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(args, indent=2, default=str)
        (self.folder / SETTINGS).write_text(settings)
        all_conditions = {
            **conditions,
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "torch": torch.__version__,
            "srpo-env": srpo_env.__version__,
            "commit": commit(),
        }
        (self.folder / CONDITIONS).write_text(json.dumps(all_conditions, indent=2))
        self._history = self.folder / HISTORY
        self._history.write_text("".join(json.dumps(record) + "\n" for record in self.past))
        if args["track"]:
            import wandb

            wandb.init(
                project=args["wandb_project_name"], entity=args["wandb_entity"],
                config={**args, **all_conditions},
                id=self.folder.name, name=self.folder.name, resume="allow", sync_tensorboard=True,
            )  # fmt: skip
        first_step = None if resume_at is None else resume_at["step"] + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=first_step)
        self._writer.add_text("args", f"```json\n{settings}\n```")

    def write(self, counters: Mapping[str, float], values: Mapping[str, float], step: int) -> None:
        """Logs figures.

        Args:
            counters: How far the run has come; for the history.
            values: The figures by their names.
            step: Where TensorBoard draws them.
        """
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        with self._history.open("a") as file:
            file.write(json.dumps({**counters, **values}) + "\n")

    def close(self) -> None:
        """Writes out what is not on the disk yet."""
        self._writer.close()

    def _check_conditions(self, conditions: Mapping[str, Any]) -> None:
        file = self.folder / CONDITIONS
        began = json.loads(file.read_text()) if file.is_file() else {}
        for name, value in conditions.items():
            if began.get(name, value) != value:
                raise ValueError(
                    f"{self.folder} began with {name} {began[name]!r}, and now it is {value!r}: "
                    "one run's figures must not mix the two"
                )
