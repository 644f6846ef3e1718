"""Reads what training runs wrote down, and draws it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_history(folder: str | Path, last_iteration: float | None = None) -> list[dict[str, Any]]:
    """The figures that a run of ``agents/vla_grpo.py`` logged, in their order.

    Args:
        folder: The run's.
        last_iteration: Leaves out what came after it.

    Raises:
        FileNotFoundError: If there is no ``history.jsonl``.
        ValueError: If a line of it is not what the agent writes.
    """
    file = Path(folder) / "history.jsonl"
    if not file.is_file():
        raise FileNotFoundError(
            f"a run's folder must hold history.jsonl, and {str(folder)!r} has none"
        )
    records = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            iteration = record["iteration"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(
                f"{file}, line {number}, is not a line of figures: {line!r}"
            ) from error
        if last_iteration is None or iteration <= last_iteration:
            records.append(record)
    return records
