"""A training run: its folder, lock, log, checkpoints, counters, and what ends it early."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TextIO

from srpo_env.policy.base import Policy
from srpo_env.system.files import DamagedFileError
from srpo_env.training.checkpoint import (
    POLICY,
    explain_damage,
    load_progress,
    load_training,
    newest_checkpoint,
    save_training,
)
from srpo_env.training.distributed import LostRankError, Ranks
from srpo_env.training.folder_lock import FolderLock
from srpo_env.training.rank_state import PerRank
from srpo_env.training.run_log import RunLog, RunRecords, quiet_writer_thread
from srpo_env.training.settings import RunSettings
from srpo_env.training.signals import Stopped, check_signals, deferred_signals

DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EPIPE}
)
"""errors of a disk that is full, over its quota, read-only or broken, of a closed terminal, or of a
pipe whose reader has ended"""


class TrainingRun:
    """A run of an agent, new or resumed; a context manager around its training loop.

    Inside, SIGINT, SIGTERM and SIGHUP take effect at the next `check_signals`: the process prints
    how to resume the run and exits with 128 + signal. If a file cannot be written, for example
    because the disk is full, it does the same with exit code 2.
    """

    def __init__(
        self,
        agent: str,
        name: str,
        settings: RunSettings,
        parts: Mapping[str, Any],
        *,
        policy: Policy | None = None,
        conditions: Mapping[str, Any] | None = None,
        machine: Mapping[str, Any] | None = None,
        counters: Sequence[str] = (),
        own_parts: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Creates the folder of a new run, or restores a run from its newest checkpoint.

        With several ranks, all of them do this together. The first one writes, the others read.

        Args:
            agent: Name of the agent's file without its ending.
            name: First part of the folder's name.
            settings: Settings of the run.
            parts: Everything that the run needs to continue besides the policy, by name: what
                `srpo_env.training.checkpoint.get_state` takes.
            policy: The policy that is trained, which checkpoints hold in a form of its own.
            conditions: What the metrics depend on besides the settings; see `RunLog`. Checkpoints
                hold them too.
            machine: What else describes the machine; see `RunLog`.
            counters: Names of what the run counts besides iterations. The first one is the axis of
                TensorBoard, which without any are the iterations.
            own_parts: More parts, of which each rank has its own.
            ranks: The learners of the run; None: this process alone.

        Raises:
            FileNotFoundError: If there is no checkpoint to resume from.
            ValueError: If a file of the run is damaged, or the conditions have changed.
            OSError: If the folder cannot be written.
            BlockingIOError: If another process trains in this folder.
        """
        self.agent, self.settings, self.policy = agent, settings, policy
        self.ranks = ranks or Ranks()
        self.counters: dict[str, int] = dict.fromkeys(["iteration", *counters], 0)
        """progress of the run; by the names that the history has"""
        self._conditions = dict(conditions or {})
        own = {name: PerRank(self.ranks, part) for name, part in (own_parts or {}).items()}
        self._parts, self._axis = {**parts, **own}, [*counters, "iteration"][0]
        self._seconds_before = 0.0
        if settings.resume is None:
            self.folder = self.ranks.from_first(lambda: _new_folder(settings.run_dir, name))
        else:
            self.folder = settings.resume
            newest_checkpoint(self.folder)  # before anything is written to a wrong folder
        with ExitStack() as exits:  # left at once if something fails
            exits.callback(self.ranks.leave)
            if self.ranks.is_first:
                exits.callback(FolderLock(self.folder).release)
            exits.enter_context(quiet_writer_thread())
            resume_at = None
            if settings.resume is not None:
                checkpoint = newest_checkpoint(self.folder)
                with _explained_damage(checkpoint):
                    progress = load_progress(checkpoint)
                self.counters, self._seconds_before = progress["counters"], progress["seconds"]
                resume_at = {"records": progress["records"], "step": self.counters[self._axis]}
            self.log = self._open_log(machine, resume_at)
            exits.callback(self.log.close)
            if settings.resume is not None:
                with _explained_damage(checkpoint):
                    load_training(checkpoint, self._parts, policy)
                self.ranks.wait()  # until all have read, before anything is written
            self._exits = exits.pop_all()
        self._started = time.monotonic()

    def _open_log(
        self, machine: Mapping[str, Any] | None, resume_at: Mapping[str, int] | None
    ) -> RunRecords:
        """Opens the log, which only the first rank writes; the others know what it holds."""
        log = None
        if self.ranks.is_first:
            log = RunLog(self.folder, self.settings, self._conditions, machine, resume_at=resume_at)
        records = self.ranks.from_first(lambda: log.records if log else [])
        return log or RunRecords(records)

    @property
    def iteration(self) -> int:
        """Number of iterations that are finished."""
        return self.counters["iteration"]

    @property
    def seconds(self) -> float:
        """Duration of the run so far, without the time between an end and its resumption."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def policy_path(self) -> Path:
        """Path of the policy in the newest checkpoint, for ``--checkpoint``."""
        return newest_checkpoint(self.folder) / POLICY

    def count(self, **numbers: int) -> None:
        """Adds to the counters."""
        for name, number in numbers.items():
            self.counters[name] += number

    def write(self, values: Mapping[str, float]) -> None:
        """Logs metrics with the counters as they are now."""
        counters = {**self.counters, "seconds": self.seconds}
        self.log.write(counters, values, self.counters[self._axis])

    def save(self, keep: bool = True) -> Path:
        """Writes a checkpoint; one that is not kept is replaced by the next.

        Returns:
            Folder of the checkpoint.
        """
        self.log.sync()
        progress = {
            "agent": self.agent,
            "iteration": self.iteration,
            "counters": self.counters,
            "seconds": self.seconds,
            "records": len(self.log.records),
            "conditions": self._conditions,
        }
        if self.ranks.is_first:
            save_training(self.folder, self._parts, progress, policy=self.policy, keep=keep)
        else:
            for part in self._parts.values():
                if isinstance(part, PerRank):
                    part.state_dict()  # which the first rank collects
        self.ranks.wait()  # so that no rank looks for a checkpoint that is not complete
        return newest_checkpoint(self.folder)

    def safe_point(self) -> None:
        """Saves a checkpoint and ends the run if a stop signal arrived.

        For agents whose steps are short: to be called between two of them.

        Raises:
            Stopped: After the checkpoint is saved.
        """
        try:
            check_signals()
        except Stopped:
            self.save(keep=False)
            raise

    def __enter__(self) -> TrainingRun:
        """Takes over SIGINT, SIGTERM and SIGHUP."""
        self._exits.enter_context(deferred_signals())
        print(f"{self.folder}, from iteration {self.iteration}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Closes the log and releases the folder; ends the process after a stop or a full disk."""
        try:
            self._exits.close()
        except OSError as failure:
            if error is None:
                error = failure
        if isinstance(error, Stopped):
            self._end(f"Stopped by {error}", error.exit_code)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            self._end(f"Stopped by an error: {error}", 2)
        if isinstance(error, LostRankError):
            self._end(f"Stopped: {error}", 2, [sys.stderr])  # only the first rank has an output
        if kind is None and error is not None:
            raise error

    def _end(
        self, reason: str, exit_code: int, streams: Sequence[TextIO] | None = None
    ) -> NoReturn:
        """Ends the process; prints why, and how to resume the run."""
        try:
            newest_checkpoint(self.folder)
            advice = f". To resume: python agents/{self.agent}.py --resume {self.folder}"
        except FileNotFoundError:
            advice = " before the first checkpoint"
        for stream in streams or (sys.stdout, sys.stderr):
            try:
                print(f"\n{reason}{advice}", file=stream, flush=True)
                break
            except OSError:
                # The terminal is closed, or the disk with the output is full. Without this, Python
                # would try again at its end, and change the exit code.
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(exit_code)


@contextmanager
def _explained_damage(checkpoint: Path) -> Iterator[None]:
    """Adds to errors about a damaged checkpoint which one to use instead."""
    try:
        yield
    except (DamagedFileError, FileNotFoundError) as error:
        raise explain_damage(checkpoint, error) from error


def _new_folder(run_dir: Path, name: str) -> Path:
    """Creates a folder that no other run has."""
    name = f"{name}__{int(time.time())}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--run-dir must be a folder that can be written: {error}") from error
    number = 1
    while True:
        folder = run_dir / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise OSError(f"--run-dir must be a folder that can be written: {error}") from error
