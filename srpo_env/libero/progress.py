"""Shows the progress of making decimated models, which takes seconds when a task is first loaded.

Simulators report to one listener per process. By default it is a progress bar on standard error.
The workers of a vector environment send their reports to the parent process, which shows them all
in one bar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True)
class Progress:
    """The number of a task's meshes and textures that are ready."""

    suite: str
    task_id: int
    num_ready: int
    num_items: int


class ProgressBar:
    """One bar for all tasks that are being prepared.

    Nothing is shown for work that takes less than ``delay`` seconds.
    """

    def __init__(self, delay: float = 1.0) -> None:
        """Initialises without a bar.

        Args:
            delay: Seconds of work before the bar appears.
        """
        self._delay = delay
        self._reports: dict[tuple[str, int], Progress] = {}
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Shows a report; the bar closes when everything that was reported is ready."""
        self._reports[progress.suite, progress.task_id] = progress
        reports = self._reports.values()
        if self._bar is None:
            is_terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=0,
                delay=self._delay,
                leave=not is_terminal,
                mininterval=0.1 if is_terminal else 10.0,
                bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed}]",
            )
        tasks = ", ".join(str(report.task_id) for report in reports)
        self._bar.set_description_str(
            f"preparing meshes of {progress.suite} task {tasks}", refresh=False
        )
        self._bar.total = sum(report.num_items for report in reports)
        self._bar.update(sum(report.num_ready for report in reports) - self._bar.n)
        if all(report.num_ready == report.num_items for report in reports):
            self._bar.close()
            self._bar = None
            self._reports.clear()


_listener: Callable[[Progress], object] = ProgressBar()


def report(progress: Progress) -> None:
    """Passes a report to this process's listener."""
    _listener(progress)


def listen(listener: Callable[[Progress], object]) -> None:
    """Replaces this process's listener."""
    global _listener
    _listener = listener
