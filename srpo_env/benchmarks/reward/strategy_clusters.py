"""Whether clustering tells strategies apart: an expert that goes one way, and one that goes two.

Eq. 3 of the paper clusters the successes because a task can be solved in several ways. Here it is:
from one initial state, the expert carries the object low or high over all else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srpo_env.benchmarks.reward.distance_options import OPTIONS, cluster
from srpo_env.benchmarks.reward.encoder_rows import Row
from srpo_env.benchmarks.reward.latents import task_states
from srpo_env.libero.behaviour_files import read_behaviours

ONE_WAY, OTHER_WAY = "slow", "high"
"""Kinds of episodes that succeed"""

LATENTS = {"mean": "mean", "path": "in-step"}
"""What of a row is clustered, and the option that compares it so"""


def measure_strategies(
    files: Sequence[Path], rows: Sequence[Row], cache: Path, progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Counts clusters where the expert went one way, and where it went both.

    Args:
        files: Of episodes of `ONE_WAY` and `OTHER_WAY`, one task in each.
        rows: The encoders.
        cache: Folder for states.
        progress: Called for each file and row.

    Returns:
        For each row and each of `LATENTS`: ``one`` and ``two``, the number of clusters in each
        task; ``one_is_one`` and ``two_are_several``, shares of the tasks with exactly one, and with
        more than one.

    Raises:
        ValueError: If a file lacks one of the two ways.
    """
    counts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for file in files:
        episodes = [episode for episode in read_behaviours(file) if episode.success]
        kinds = np.array([episode.kind for episode in episodes])
        if not {ONE_WAY, OTHER_WAY} <= set(kinds):
            raise ValueError(
                f"{str(file)!r} must hold successes of the kinds {ONE_WAY!r} and {OTHER_WAY!r}, "
                f"got {sorted(set(kinds.tolist()))}"
            )
        for row in rows:
            sequences = [episode.frames for episode in episodes]
            if row.sees_states:
                sequences = task_states(file, episodes, cache)  # type: ignore[assignment]
            paths = row.encode_paths(sequences)
            for name, option in LATENTS.items():
                one, two = (
                    cluster(OPTIONS[option], part).num_clusters
                    for part in (paths[kinds == ONE_WAY], paths)
                )
                counts.setdefault((row.name, name), []).append((one, two))
            progress(f"{row.name}: strategies")
    return [
        {
            "encoder": encoder,
            "latents": latents,
            "one": [one for one, _ in found],
            "two": [two for _, two in found],
            "one_is_one": float(np.mean([one == 1 for one, _ in found])),
            "two_are_several": float(np.mean([two > 1 for _, two in found])),
        }
        for (encoder, latents), found in counts.items()
    ]


def strategies_table(rows: Sequence[dict[str, Any]]) -> str:
    """The counts as text."""
    lines = [
        "CLUSTERS OF SUCCESSES, of each task, by DBSCAN\n",
        f"{'encoder':20}{'latents':9}{'one way':26}{'= 1':>5}   {'two ways':26}{'> 1':>5}",
    ]
    for row in rows:
        one, two = (" ".join(map(str, row[name])) for name in ("one", "two"))
        lines.append(
            f"{row['encoder']:20}{row['latents']:9}{one:26}{row['one_is_one']:5.0%}   "
            f"{two:26}{row['two_are_several']:5.0%}"
        )
    return "\n".join(lines)
