"""Success rates of a policy under perturbations, by dimension and level, in a file that grows.

The held-out episodes of `srpo_env.training.evaluation` are repeated in *cells*: once without a
perturbation, and once for each dimension and level. An interrupted evaluation continues with the
first cell that is not in the file.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srpo_env.libero.perturbations import DIMENSIONS, LEVELS, as_data
from srpo_env.libero.perturbations.base import MAX_DRAW
from srpo_env.system.files import DamagedFileError, read_versioned_json, write_file
from srpo_env.training.evaluation import Act, EpisodeResult, Evaluation, evaluate

FORMAT, FORMAT_VERSION = "srpo-env perturbed evaluation", 1

UNPERTURBED = "none"
"""Dimension of the cell without a perturbation; its level is 0."""

Cell = tuple[str, int]
"""Dimension and level."""


def cells_of(dimensions: Sequence[str], levels: Sequence[int]) -> list[Cell]:
    """Returns the cells of an evaluation, the unperturbed one first.

    Raises:
        ValueError: If there is no such dimension or level, or none is given.
    """
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown or not dimensions:
        raise ValueError(
            f"`--perturbations` must be all or some of {', '.join(DIMENSIONS)}, "
            f"got {unknown[0] if unknown else ''!r}"
        )
    outside = [level for level in levels if level not in LEVELS]
    if outside or not levels:
        raise ValueError(
            f"`--severity` must be levels in 1..{LEVELS[-1]}, got {outside[0] if outside else ''}"
        )
    ordered = [name for name in DIMENSIONS if name in dimensions]
    return [(UNPERTURBED, 0), *((name, level) for name in ordered for level in sorted(set(levels)))]


def perturbations_of(
    cell: Cell, episodes: Sequence[tuple[int, int]], seed: int
) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Returns the perturbation of each episode of a cell, as data.

    The draw depends on the seed, the task and the initial state alone, so that policies are
    compared under equal perturbations, and the levels of a dimension have the same directions.
    """
    dimension, level = cell
    if dimension == UNPERTURBED:
        return {pair: [] for pair in episodes}
    return {
        pair: as_data((DIMENSIONS[dimension].from_level(level, draw=_draw(seed, *pair)),))
        for pair in episodes
    }


def _draw(seed: int, task_id: int, init_state_id: int) -> int:
    return zlib.crc32(f"{seed} {task_id} {init_state_id}".encode()) % MAX_DRAW


@dataclass
class PerturbedEvaluation:
    """The results so far, and the file that holds them."""

    file: Path
    settings: dict[str, Any]
    """Everything that the results depend on, as JSON holds it."""
    results: dict[Cell, Evaluation]

    @classmethod
    def start(cls, file: Path, settings: Mapping[str, Any]) -> PerturbedEvaluation:
        """Starts an evaluation, or continues the one in the file.

        Raises:
            ValueError: If the file holds another evaluation, or is damaged.
        """
        plain = json.loads(json.dumps(settings))
        if not file.exists():
            return cls(file, plain, {})
        content = read_versioned_json(file, FORMAT, FORMAT_VERSION)
        saved = content.get("settings")
        if saved != plain:
            names = sorted({*plain, *(saved if isinstance(saved, dict) else {})})
            differing = [
                name
                for name in names
                if not isinstance(saved, dict) or saved.get(name) != plain.get(name)
            ]
            raise ValueError(
                f"{file} holds an evaluation with other settings ({', '.join(differing)} differ): "
                "choose another folder with `--out`, or delete the file"
            )
        return cls(file, plain, _read_results(content, file))

    def run(
        self,
        cells: Sequence[Cell],
        episodes: Sequence[tuple[int, int]],
        envs: Any,
        make_act: Callable[[], Act],
        seed: int,
        on_episodes: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Runs the cells that have no result yet; writes the file after each.

        Args:
            cells: What to evaluate.
            episodes: Pairs of task and held-out initial state.
            envs: Vector environment of LIBERO tasks with autoreset disabled.
            make_act: Makes the policy for each cell, with its random numbers from the start, so
                that a cell does not depend on those before it.
            seed: Seed of the draws.
            on_episodes: Called with the number of episodes that are finished, of all cells.
        """
        done = len(episodes) * sum(cell in self.results for cell in cells)
        on_episodes(done)
        for cell in cells:
            if cell in self.results:
                continue
            self.results[cell] = evaluate(
                make_act(),
                envs,
                episodes,
                on_step=functools.partial(_count_from, done, on_episodes),
                perturbations=perturbations_of(cell, episodes, seed),
            )
            done += len(episodes)
            self.save(seed)

    def save(self, seed: int) -> None:
        """Writes the file in one step."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "cells": [_cell_content(cell, part, seed) for cell, part in self.results.items()],
        }
        write_file(self.file, (json.dumps(content, indent=1) + "\n").encode())


def _count_from(before: int, on_episodes: Callable[[int], object], count: int) -> None:
    on_episodes(before + count)


def _cell_content(cell: Cell, result: Evaluation, seed: int) -> dict[str, Any]:
    pairs = [(episode.task_id, episode.init_state_id) for episode in result.episodes]
    perturbations = perturbations_of(cell, pairs, seed)
    return {
        "dimension": cell[0],
        "level": cell[1],
        "success_rate": result.success_rate,
        "wilson_95": result.interval,
        "episodes": [
            {**asdict(episode), "perturbation": perturbations[pair]}
            for episode, pair in zip(result.episodes, pairs, strict=True)
        ],
    }


def _read_results(content: Mapping[str, Any], file: Path) -> dict[Cell, Evaluation]:
    names = EpisodeResult.__dataclass_fields__
    try:
        return {
            (str(cell["dimension"]), int(cell["level"])): Evaluation(
                tuple(
                    EpisodeResult(**{name: episode[name] for name in names})
                    for episode in cell["episodes"]
                )
            )
            for cell in content["cells"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{file} is damaged: it does not hold the results of cells ({error!r})"
        ) from error
