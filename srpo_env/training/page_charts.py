"""Charts of one run, as SVG pictures for its HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo_env.training.diagnosis import EARLY_END, Records, Settings
from srpo_env.training.episode_files import SampledEpisode
from srpo_env.training.report import STYLES, Curve
from srpo_env.types import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN = (str(style["color"]) for style in STYLES)
GREY = "#9aa3af"

POTENTIAL_AREA = (0.07, 0.16, 0.9, 0.75)
"""left, bottom, width and height of the axes in the picture of `potential_chart`, as fractions"""


def svg(draw: Callable[[Axes], None], size: tuple[float, float], area: Any = None) -> str:
    """Draws a picture; returns the address of its SVG, which holds its content.

    Args:
        draw: Draws on the axes.
        size: Width and height in inches.
        area: Left, bottom, width and height of the axes as fractions; None: chosen by Matplotlib.

    Raises:
        ModuleNotFoundError: If Matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained" if area is None else None)
    axes = figure.add_subplot() if area is None else figure.add_axes(area)
    draw(axes)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    # Text stays text, and equal runs give equal pages.
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "srpo-env"}
    with matplotlib.rc_context(settings):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()


def success_chart(axes: Axes, curve: Curve, records: Records) -> None:
    """Draws held-out success with its Wilson 95% interval, and that of the rollouts."""
    places = curve.control_steps / 1e3
    rates = curve.success_rates
    errors = 100 * np.abs(curve.intervals.T - rates)  # below and above
    style: dict[str, Any] = {"color": BLUE, "marker": "o", "capsize": 3, "elinewidth": 1}
    axes.errorbar(places, 100 * rates, errors, label="held out, 95% interval", **style)
    steps, rates = _series(records, "rollout/success_rate", "control_steps")
    if len(rates):
        label = "rollouts, where learned from"
        axes.plot(steps / 1e3, 100 * rates, color=GREY, marker=".", linewidth=1, label=label)
    axes.set(xlabel="control steps (thousands)", ylabel="success (%)", ylim=(-2, 102))
    axes.set_title("Success")
    axes.legend(frameon=False, fontsize=9, loc="best")


def signal_chart(axes: Axes, records: Records) -> None:
    """Draws the shares of groups with signal, of those that all failed, and all succeeded."""
    newest = [record for record in records if "rollout/without_signal" in record]
    places = [record["iteration"] for record in newest]
    silent = np.array([record["rollout/without_signal"] for record in newest])
    succeeded = np.array([record.get("rollout/all_succeeded", 0.0) for record in newest])
    # Groups that all failed carry signal where they are compared with others' successes.
    won = np.minimum(succeeded, silent)
    parts = (
        ("with signal", GREEN, 1 - silent),
        ("all succeeded", BLUE, won),
        ("all failed, or equal rewards", ORANGE, silent - won),
    )
    bottom = np.zeros(len(newest))
    for name, color, share in parts:
        axes.bar(places, 100 * share, bottom=100 * bottom, color=color, width=0.85, label=name)
        bottom = bottom + share
    axes.set(ylabel="groups (%)", ylim=(0, 118), yticks=range(0, 101, 20))
    axes.set_title("Groups that carry signal")
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
    _count_iterations(axes, records)


def kl_chart(axes: Axes, records: Records, settings: Settings) -> None:
    """Draws the KL of a decision in each update, its limit, and the updates that it has ended."""
    updates = [x for x in records if "losses/kl" in x and np.isfinite(x["losses/kl"])]
    places, values = _series(updates, "losses/kl")
    axes.plot(places, values, color=BLUE, marker="o", markersize=4, label="after the update")
    early = np.array([x.get("charts/update_completed", 1.0) < EARLY_END for x in updates], bool)
    if early.any():
        name = "ended before half of its steps"
        axes.plot(places[early], values[early], "x", color=ORANGE, markersize=9, label=name)
    limit = settings.get("target_kl")
    if isinstance(limit, (int, float)):
        ends = [0, records[-1]["iteration"] + 1]
        axes.plot(ends, [limit] * 2, color=ORANGE, ls="--", linewidth=1, label="--target-kl")
    axes.set(ylabel="KL per decision (nats)")
    _from_zero(axes)
    axes.set_title("How far an update moves the policy")
    axes.legend(frameon=False, fontsize=9, loc="best")
    _count_iterations(axes, records)


def metric_chart(axes: Axes, records: Records, metric: str, label: str, title: str) -> None:
    """Draws one metric over the iterations, from 0."""
    places, values = _series(records, metric)
    axes.plot(places, values, color=BLUE, marker="o", markersize=4)
    axes.set(ylabel=label)
    _from_zero(axes)
    axes.set_title(title)
    _count_iterations(axes, records)


def potential_chart(
    axes: Axes, failure: SampledEpisode, success: SampledEpisode | None, num_steps: int
) -> None:
    """Draws the progress potential of a failure and of the success that it is compared with."""
    if success is not None:
        axes.plot(success.steps, success.potential, color=BLUE, linestyle="--", label="success")
    axes.plot(failure.steps, failure.potential, color=ORANGE, linewidth=2, label="failure")
    axes.set(xlim=(0, num_steps), ylim=(-0.02, 1.04), xlabel="control steps")
    axes.set_title("Progress potential")
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.9))


def _series(records: Records, metric: str, axis: str = "iteration") -> tuple[Floats, Floats]:
    """Returns where a metric was logged and its finite values, each ``(num_points,)``."""
    points = [x for x in records if metric in x and axis in x and np.isfinite(x[metric])]
    return (
        np.array([float(record[axis]) for record in points]),
        np.array([float(record[metric]) for record in points]),
    )


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, max(1.1 * axes.dataLim.y1, 1e-12))


def _count_iterations(axes: Axes, records: Records) -> None:
    """Scales the horizontal axis to the iterations of a run, and marks whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="iteration", xlim=(0, records[-1]["iteration"] + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
