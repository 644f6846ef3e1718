"""Runs of ``agents/vla_grpo.py`` in child processes, which are interrupted and resumed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from agents.vla_grpo import Args, main
from srpo_env.training.checkpoint import load_progress, newest_checkpoint
from srpo_env.training.report import read_history
from tests.agents.toy_suite import ToySuite, registered_toy, toy_args
from tests.faults.child_runs import Ended, run_child
from tests.training.runs import assert_same_run, only_folder

ITERATIONS = 3


def train(args: Args) -> None:
    """Trains; some episodes are running whenever an iteration ends."""
    ToySuite.chunks_of_task = (2, 3)
    with registered_toy():
        main(args)


class InterruptedRun:
    """A run that is started and resumed until it is finished."""

    def __init__(self, args: Args, function: Callable[[Args], None]) -> None:
        """Prepares a run.

        Args:
            args: Settings of the run, with a folder for runs of its own.
            function: Trains with some settings; a function of a module.
        """
        self.args, self.function = args, function

    @property
    def folder(self) -> Path:
        return only_folder(self.args.run_dir)

    def attempt(self, **fault) -> Ended:
        """Starts or resumes the run; checks that it continues from the newest checkpoint."""
        args = self.args
        start = self.saved()
        if start is None:
            # There is nothing to resume, so a new run starts.
            if args.run_dir.exists():
                args.run_dir.rename(args.run_dir.with_name(f"nothing {self._new_number()}"))
        else:
            with registered_toy():
                args = Args.parse(["--resume", str(self.folder)])
        ended = run_child(self.function, args, watch=self.args.run_dir, **fault)
        began = re.search(r", from iteration (\d+)\n", ended.output)
        if began is not None:
            assert int(began[1]) == (start or 0), ended.output
        printed = re.findall(rf"^ +(\d+)/{args.iterations} ", ended.output, flags=re.MULTILINE)
        if printed:
            # The newest iteration may not be saved yet.
            assert (self.saved() or 0) >= int(printed[-1]) - 1, ended.output
        return ended

    def saved(self) -> int | None:
        """Returns the iteration of the newest checkpoint, which is complete; None without one."""
        if not self.args.run_dir.exists() or not list(self.args.run_dir.iterdir()):
            return None
        try:
            checkpoint = newest_checkpoint(self.folder)
        except FileNotFoundError:
            return None
        progress = load_progress(checkpoint)
        assert len(read_history(self.folder)) >= progress["records"]
        return progress["iteration"]

    def assert_equals(self, whole: InterruptedRun) -> None:
        """Checks that the finished run is the same as one that nothing interrupted."""
        assert_same_run(whole.folder, self.folder)
        names = [
            # A kill after the last checkpoint leaves what was to be deleted.
            {path.name for path in (run.folder / "checkpoints").glob("iteration_????")}
            for run in (whole, self)
        ]
        assert names[0] == names[1]

    def _new_number(self) -> int:
        return len(list(self.args.run_dir.parent.glob("nothing *")))


class ToyRun(InterruptedRun):
    """A run on the toy suite."""

    def __init__(self, folder: Path, **settings) -> None:
        """Prepares a run in an empty folder."""
        folder.mkdir(exist_ok=True)
        short = {"iterations": ITERATIONS, "eval_every": 2, "eval_episodes": 2}
        with registered_toy():
            super().__init__(toy_args(folder, **{**short, **settings}), train)
