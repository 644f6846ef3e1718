"""Runs Python in a separate process, for checks that may crash or change global state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

TRACEBACK = "Traceback (most recent call last):"

MAX_LINES = 20
"""Largest number of lines of an error that are shown, the last ones."""


def run_python(*arguments: str, **variables: str) -> str:
    """Runs Python in a separate process.

    Args:
        *arguments: Command-line arguments of Python.
        **variables: Environment variables to set.

    Returns:
        Its standard output.

    Raises:
        RuntimeError: If it fails or takes more than five minutes; with its error output without
            the places in tracebacks, and the signal that killed it.
    """
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **variables},
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("no answer within five minutes") from error
    lines = what_happened(done.stderr)
    if done.returncode < 0:
        lines.append(f"Python was killed by {signal.Signals(-done.returncode).name}")
    elif done.returncode > 0 and not lines:
        lines.append(f"exit code {done.returncode}")
    if done.returncode != 0:
        raise RuntimeError("\n".join(lines[-MAX_LINES:]))
    return done.stdout


def what_happened(stderr: str) -> list[str]:
    """Returns the lines of an error output that say what happened, without the places in the code.

    The last line alone is not enough: the cause of an error, such as a missing library, is in the
    traceback before it, messages of drivers come before that, and the text of an error can have
    several lines.
    """
    lines = []
    in_traceback = False
    for line in stderr.splitlines():
        if line.strip() == TRACEBACK:
            in_traceback = True
        elif in_traceback and line.startswith(" "):
            continue
        elif line.strip():
            in_traceback = False
            lines.append(line.rstrip())
    return lines
