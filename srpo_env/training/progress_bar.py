"""Progress bars for terminals, which are also the points where a stop signal takes effect."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from srpo_env.training.signals import check_signals

T = TypeVar("T")


class Show(Protocol):
    """Updates a progress bar."""

    def __call__(self, done: float, note: str = "") -> None:
        """Shows that ``done`` of the total is finished, with a note behind the bar."""


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Show]:
    """Opens a progress bar that is erased at its end; prints nothing if stdout is no terminal.

    Yields:
        A function to call at every step. It raises `Stopped` if a stop signal arrived.
    """
    with _bar(what, total) as bar:

        def show(done: float, note: str = "") -> None:
            check_signals()
            bar.n = done
            bar.set_postfix_str(note)

        yield show


def with_progress(what: str, total: int, steps: Iterable[T]) -> Iterator[T]:
    """Iterates over ``steps`` with a progress bar; raises `Stopped` between two of them."""
    for step in _bar(what, total, steps):
        check_signals()
        yield step


def _bar(what: str, total: int, steps: Iterable[Any] | None = None) -> Any:
    line = "{desc} |{bar:24}| {n_fmt}/{total_fmt}, {elapsed}{postfix}"
    return tqdm(steps, what, total, leave=False, file=sys.stdout, disable=None, bar_format=line)


def long_bar(what: str, unit: str, steps: Iterable[Any] | None = None, **settings: Any) -> Any:
    """Opens a bar on stderr for hours of work; in a log file it prints a line per minute.

    Args:
        what: Description in front of the bar.
        unit: Name of one step.
        steps: What to iterate over, if anything.
        **settings: Further settings of `tqdm`, as ``total`` and ``initial``.
    """
    interval = 0.2 if sys.stderr.isatty() else 60.0
    return tqdm(steps, what, unit=unit, mininterval=interval, **settings)


def count_on(bar: Any) -> Callable[[int], None]:
    """Returns a function that sets a bar to a count; it raises `Stopped` after a stop signal."""

    def show(done: int) -> None:
        check_signals()
        bar.update(done - bar.n)

    return show
