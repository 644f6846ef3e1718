"""Counts clusters of successes with one strategy and with two, to check the clustering (Eq. 3).

The paper clusters successes because a task can be solved in several ways. In these episodes, all
from one initial state, the expert carries the object either low or high.
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

ONE_STRATEGY, OTHER_STRATEGY = "slow", "high"
"""Kinds of successful episodes."""

LATENTS = {"mean": "mean", "path": "in-step"}
"""Latents that are clustered, and the option that compares them."""


def measure_strategies(
    files: Sequence[Path], rows: Sequence[Row], cache: Path, progress: Callable[[str], object]
) -> list[dict[str, Any]]:
    """Counts the clusters of successes of one strategy, and of both strategies together.

    Args:
        files: Episodes of the kinds `ONE_STRATEGY` and `OTHER_STRATEGY`, one task in each file.
        rows: The encoders.
        cache: Folder for states.
        progress: Called for each file and row.

    Returns:
        For each row and each of `LATENTS`: ``one`` and ``two``, the number of clusters in each
        task with one strategy and with two; ``one_is_one`` and ``two_are_several``, the shares of
        tasks with exactly one cluster, and with more than one.

    Raises:
        ValueError: If a file lacks one of the two kinds.
    """
    counts: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for file in files:
        episodes = [episode for episode in read_behaviours(file) if episode.success]
        kinds = np.array([episode.kind for episode in episodes])
        if not {ONE_STRATEGY, OTHER_STRATEGY} <= set(kinds):
            raise ValueError(
                f"{str(file)!r} must hold successes of the kinds {ONE_STRATEGY!r} and "
                f"{OTHER_STRATEGY!r}, got {sorted(set(kinds.tolist()))}"
            )
        for row in rows:
            sequences = [episode.frames for episode in episodes]
            if row.sees_states:
                sequences = task_states(file, episodes, cache)  # type: ignore[assignment]
            paths = row.encode_paths(sequences)
            for name, option in LATENTS.items():
                one, two = (
                    cluster(OPTIONS[option], part).num_clusters
                    for part in (paths[kinds == ONE_STRATEGY], paths)
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
    """Returns the counts as a table in plain text."""
    lines = [
        "CLUSTERS OF SUCCESSES, per task, by DBSCAN\n",
        f"{'encoder':20}{'latents':9}{'one strategy':26}{'= 1':>5}   "
        f"{'two strategies':26}{'> 1':>5}",
    ]
    for row in rows:
        one, two = (" ".join(map(str, row[name])) for name in ("one", "two"))
        lines.append(
            f"{row['encoder']:20}{row['latents']:9}{one:26}{row['one_is_one']:5.0%}   "
            f"{two:26}{row['two_are_several']:5.0%}"
        )
    return "\n".join(lines)
