"""Reads the histories of training runs, and draws their learning curves."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from srpo_env.system.files import parse_json, read_json
from srpo_env.training.evaluation import wilson_interval
from srpo_env.types import Floats, checked_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours, which colour-blind readers can distinguish; line styles do it in grey.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": ":", "marker": "^"},
)
NAMES = {"srpo": "SRPO", "binary": "plain GRPO", "oracle": "oracle progress"}
"""names of the agent's rewards in a picture, in the order of STYLES"""

ASSETS = {
    "libero": "LIBERO's assets",
    "modified": "modified assets",
    "placeholder": "placeholders",
}
"""names of the kinds of LIBERO's assets in a picture"""

SETTINGS, CONDITIONS, HISTORY = "args.json", "conditions.json", "history.jsonl"
"""names of the files in a run's folder"""

EVALUATION = "eval/"
"""beginning of the names of success rates"""
COUNTERS = ("iteration", "control_steps", "episodes", "seconds")
"""names of what a record counts"""


@dataclass(frozen=True, eq=False)
class Curve:
    """The held-out evaluations of one run in order; arrays have shape ``(num_points,)``."""

    env_id: str
    assets: str
    """kind of LIBERO's assets: ``libero``, ``modified`` or ``placeholder``"""
    reward: str
    encoder: str
    """world model of the run; only SRPO's reward depends on it"""
    seed: int
    num_episodes: int
    """number of episodes of each evaluation"""
    iterations: npt.NDArray[np.int64]
    control_steps: Floats
    minutes: Floats
    success_rates: Floats
    """in [0, 1]"""

    @property
    def intervals(self) -> Floats:
        """Wilson 95% intervals of the success rates, shape ``(num_points, 2)``."""
        successes = np.rint(self.success_rates * self.num_episodes).astype(int)
        return np.array([wilson_interval(int(n), self.num_episodes) for n in successes])

    def __str__(self) -> str:
        """Returns the first and the last success rate, and what the last one took."""
        low, high = self.intervals[-1]
        name = f"{self.reward}, seed {self.seed}, {ASSETS[self.assets]}"
        return (
            f"{name}: {self.success_rates[0]:.0%} -> {self.success_rates[-1]:.0%} "
            f"[{low:.0%}, {high:.0%}] of {self.num_episodes} episodes after "
            f"{self.control_steps[-1]:,.0f} control steps, {self.minutes[-1]:.0f} min"
        )


def read_history(folder: str | Path, num_records: int | None = None) -> list[dict[str, Any]]:
    """Reads the records of metrics that a run has logged, in order.

    A last line without its end is ignored: the process was killed while it was writing.

    Args:
        folder: The run's folder.
        num_records: Number of records to read, from the first; default: all.

    Raises:
        FileNotFoundError: If there is no ``history.jsonl``.
        ValueError: If a line is not a record, a value in it is not a number in its range, or there
            are fewer than ``num_records``.
    """
    file = Path(folder) / HISTORY
    if not file.is_file():
        raise FileNotFoundError(f"a run's folder must hold {HISTORY}, {str(folder)!r} does not")
    lines = file.read_bytes().split(b"\n")[:-1]
    if num_records is not None and len(lines) < num_records:
        raise ValueError(
            f"{file} is damaged: it must hold at least {num_records} records, got {len(lines)}"
        )
    records = []
    for number, line in enumerate(lines[:num_records], start=1):
        place = f"{file}, line {number},"
        try:
            records.append(parse_json(line, "it"))
            records[-1]["iteration"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{place} is not a record: {line!r}") from error
        for name, value in records[-1].items():
            _check_value(place, name, value)
    return records


def _check_value(place: str, name: str, value: Any) -> None:
    """Checks one value of a record.

    Raises:
        ValueError: If it is not a number in the range of its metric.
    """
    low, high, rule = -math.inf, math.inf, "a number"
    if name.startswith(EVALUATION):
        low, high, rule = 0.0, 1.0, "a number in [0, 1]"
    elif name in COUNTERS:
        low, high, rule = 0.0, sys.float_info.max, "a finite number, not negative"
    is_number = type(value) is int and abs(value) < sys.float_info.max
    if name == "iteration":
        rule = "an integer, not negative"
    else:
        is_number |= type(value) is float
    if not is_number or not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{place} holds a value of {name} that is not {rule}: {json.dumps(value)}")


def read_curve(folder: str | Path) -> Curve:
    """Reads the held-out evaluations of a run of ``agents/vla_grpo.py``, finished or not.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the run was not evaluated yet, or a file was not written by the agent.
    """
    points = [point for point in read_history(folder) if "eval/success_rate" in point]
    if not points:
        raise ValueError(f"the run in {str(folder)!r} has no held-out evaluation yet")
    iterations = [point["iteration"] for point in points]
    if iterations != sorted(set(iterations)):
        raise ValueError(f"{folder} holds more than one run: its evaluations are of {iterations}")
    try:
        args, conditions = (read_json(Path(folder) / name) for name in (SETTINGS, CONDITIONS))
        file = Path(folder) / SETTINGS
        if args["reward"] not in tuple(NAMES):
            known = ", ".join(NAMES)
            raise ValueError(f"{file}: reward must be one of {known}, got {args['reward']!r}")
        if conditions["assets"] not in tuple(ASSETS):
            known = " or ".join(ASSETS)
            raise ValueError(f"{folder}: assets must be {known}, got {conditions['assets']!r}")
        if not isinstance(args["encoder"], str):
            raise ValueError(f"{file}: encoder must be a name, got {args['encoder']!r}")
        return Curve(
            env_id=args["env_id"].rpartition("/")[2].replace("_", "-"),
            assets=conditions["assets"],
            reward=args["reward"],
            encoder=args["encoder"],
            seed=_count(file, args, "seed", 0),
            num_episodes=_count(file, args, "eval_episodes", 1),
            iterations=np.array(iterations),
            control_steps=_numbers(points, "control_steps"),
            minutes=_numbers(points, "seconds") / 60,
            success_rates=_numbers(points, "eval/success_rate"),
        )
    except KeyError as error:
        raise ValueError(f"{folder} lacks {error}, which the agent writes") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{folder} was not written by the agent ({error})") from error


def _count(file: Path, args: Mapping[str, Any], name: str, minimum: int) -> int:
    try:
        return checked_count(name, args[name], minimum=minimum)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _numbers(points: Sequence[Mapping[str, Any]], name: str) -> Floats:
    return np.array([point[name] for point in points], dtype=np.float64)


def steps_to(curve: Curve, rate: float) -> float:
    """Returns the control steps until the success rate first reached ``rate``; inf if never.

    Success rates are interpolated linearly between two evaluations.
    """
    reached = np.flatnonzero(curve.success_rates >= rate)
    if len(reached) == 0:
        return float("inf")
    last = int(reached[0]) + 1
    between = slice(max(0, last - 2), last)
    return float(np.interp(rate, curve.success_rates[between], curve.control_steps[between]))


def compare_steps(curves: Sequence[Curve], rate: float) -> str:
    """Compares the control steps that each reward needed to a held-out success rate, as text.

    If there are runs of plain GRPO, the others are given relative to them: the ratio of the
    medians, and the ratios of runs with equal seeds.
    """
    lines = [f"thousands of control steps to {rate:.0%} held-out success, by seed"]
    kinds = {name: [c for c in curves if c.reward == name] for name in NAMES}
    plain = {curve.seed: steps_to(curve, rate) for curve in kinds["binary"]}
    for kind, runs in kinds.items():
        if not runs:
            continue
        steps = [steps_to(curve, rate) for curve in runs]
        median = float(np.median(steps))
        line = f"  {NAMES[kind]}: {_in_thousands(steps)}; median {_in_thousands([median])}"
        if kind != "binary" and plain:
            line += f"; of plain GRPO's {_ratio(median, float(np.median(list(plain.values()))))}"
            pairs = [
                _ratio(mine, plain[curve.seed])
                for curve, mine in zip(runs, steps, strict=True)
                if curve.seed in plain
            ]
            line += f", by seed {', '.join(pairs)}" if pairs else ""
        lines.append(line)
    return "\n".join(lines)


def _in_thousands(values: Iterable[float]) -> str:
    return ", ".join(f"{x / 1e3:.0f}" if np.isfinite(x) else "not reached" for x in values)


def _ratio(steps: float, others: float) -> str:
    return f"{steps / others:.2f}" if np.isfinite(steps) and np.isfinite(others) else "unknown"


def draw_curves(curves: Sequence[Curve]) -> Figure:
    """Draws held-out success against control steps and against minutes, side by side.

    The only run of a reward is a line with its Wilson 95% band. Several runs of a reward are thin
    lines, and a thick line is their mean at the iterations that all of them have reached.

    Raises:
        ValueError: If the runs differ in environment or kind of assets, or SRPO runs in encoder.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    names = sorted({f"{curve.env_id} on {ASSETS[curve.assets]}" for curve in curves})
    if len(names) != 1:
        received = " and ".join(names) or "none"
        raise ValueError(f"the runs must be of one environment on the same assets, got {received}")
    encoders = sorted({curve.encoder for curve in curves if curve.reward == "srpo"})
    if len(encoders) > 1:
        raise ValueError(
            "SRPO runs in one picture must have the same encoder, because their mean is drawn; "
            f"got {' and '.join(encoders)}"
        )
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a picture needs matplotlib: run `pip install matplotlib`", name="matplotlib"
        ) from error
    figure = Figure(figsize=(9, 3.9), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    notes = [" or ".join(sorted({f"{curve.num_episodes}" for curve in curves}, key=int))]
    notes[0] = f"{names[0]}, {notes[0]} episodes per evaluation"
    for (reward, name), style in zip(NAMES.items(), STYLES, strict=True):
        of_kind = [curve for curve in curves if curve.reward == reward]
        if not of_kind:
            continue
        notes.append("band: Wilson 95%" if len(of_kind) == 1 else "thick: mean of the seeds")
        name += f" (seed{'s' * (len(of_kind) > 1)} {', '.join(str(c.seed) for c in of_kind)})"
        _draw_kind(left, name, of_kind, style, "control_steps", 1e-3)
        _draw_kind(right, name, of_kind, style, "minutes", 1.0)
    left.set(xlabel="control steps (thousands)", ylabel="held-out success (%)", ylim=(0, 100))
    right.set(xlabel="minutes")
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("; ".join(dict.fromkeys(notes)), fontsize=11)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[call-arg,union-attr]
    return figure


def _draw_kind(
    axes: Axes, name: str, curves: list[Curve], style: dict[str, Any], x: str, scale: float
) -> None:
    """Draws the runs of one reward over the attribute ``x``, multiplied by ``scale``."""
    if len(curves) == 1:
        (curve,) = curves
        places, rates = getattr(curve, x) * scale, curve.success_rates
        low, high = 100 * curve.intervals.T
        axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
    else:
        for curve in curves:
            thin = {**style, "marker": "", "linewidth": 0.8, "alpha": 0.5}
            axes.plot(getattr(curve, x) * scale, 100 * curve.success_rates, **thin)
        # The number of control steps at an iteration differs between runs.
        common = set.intersection(*(set(curve.iterations.tolist()) for curve in curves))
        pairs = [(curve, np.isin(curve.iterations, sorted(common))) for curve in curves]
        places = np.mean([getattr(curve, x)[row] for curve, row in pairs], axis=0) * scale
        rates = np.mean([curve.success_rates[row] for curve, row in pairs], axis=0)
    axes.plot(places, 100 * rates, label=name, linewidth=2, markersize=4.5, clip_on=False, **style)
