"""Formats and draws the results of ``srpo-env benchmark reward``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from srpo_env.benchmarks.reward.latents import MAX_SHIFTED
from srpo_env.benchmarks.text_table import aligned_rows, column_widths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which is safe for colour-blind readers.
COLORS = ("#999999", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#0072B2")
MARKERS = "osD^vP*X"


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)


def _shift(shifts: dict[str, Any], name: str) -> float | None:
    tau: float | None = shifts.get(name, {}).get("task", {}).get("tau")
    return tau


def _tau(figures: dict[str, Any]) -> str:
    return "{} [{}, {}]".format(*map(_number, (figures["tau"], *figures["interval"])))


def _lead(row: dict[str, Any]) -> str:
    return _number(row.get("lead_over_pixels", {}).get("tau"), "{:+.2f}")


def _rho_under(shift: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _number(row["shifts"].get(shift, {}).get("spearman"))


def _with_interval(row: dict[str, Any], name: str) -> str:
    return "{} [{}, {}]".format(*map(_number, (row[name], *row[f"{name}_interval"])))


def _earned(place: str) -> Callable[[dict[str, Any]], str]:
    start = "| " if place == "record" else ""
    return lambda row: start + _number(row["earned"][place], "{:.0%}")


class Column(NamedTuple):
    """One column of a table."""

    name: str
    cell: Callable[[dict[str, Any]], str]
    above: str = ""
    """Heading above this column and those that follow."""


def _figure(part: str, name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _number(row[part].get(name))


def _curve(name: str, reference: str = "others", form: str = "{:.2f}") -> Callable[..., str]:
    return lambda row: _number(row["curves"].get(reference, {}).get(name), form)


def _under(shift: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _number(_shift(row["shifts"], shift))


NAMES = [Column(name, operator.itemgetter(name)) for name in ("encoder", "option", "centers")]

RANKING = [
    *NAMES,
    Column("tau [95%]", lambda row: _tau(row["task"]), "failures of a task"),
    Column("lead", _lead),
    Column("final", _figure("task", "tau_of_final")),
    Column("pairs", _figure("task", "accuracy")),
    Column("near", _figure("task", "accuracy_within_a_stage")),
    Column("far", _figure("task", "accuracy_a_stage_apart")),
    Column("| tau [95%]", lambda row: f"| {_tau(row['group'])}", "| failures of a group"),
    Column("far", _figure("group", "accuracy_a_stage_apart")),
    Column("overpaid", _figure("group", "overpaid")),
    Column("r paper", _figure("group", "correlation_paper")),
    Column("siirl", _figure("group", "correlation_siirl")),
]
"""Columns of the ranking table, which has all rows."""

CURVES = [
    *NAMES[:2],
    Column("rho", _curve("spearman"), "progress curves"),
    Column("(self)", _curve("spearman", "self")),
    Column("mono", _curve("monotonicity")),
    Column("(self)", _curve("monotonicity", "self")),
    Column("MMD", _curve("mmd")),
    Column("JS", _curve("js")),
    Column("SMD", _curve("smd", form="{:.1f}")),
    Column("(self)", _curve("smd", "self", "{:.1f}")),
    Column("| camera", lambda row: f"| {_under('camera')(row)}", "| tau of a task, shifted"),
    Column("light", _under("light")),
    Column("noise", _under("noise")),
    Column("placed", _under("placement")),
    Column("| camera", lambda row: f"| {_rho_under('camera')(row)}", "| rho, shifted"),
    Column("light", _rho_under("light")),
    Column("noise", _rho_under("noise")),
]
"""Columns of the curves table, which has the rows with DBSCAN's centers."""

POTENTIALS = [
    Column("encoder", operator.itemgetter("encoder")),
    Column("within [95%]", lambda row: _with_interval(row, "within"), "potential of failures, rho"),
    Column("time", lambda row: _number(row["time_within"])),
    Column("pooled [95%]", lambda row: _with_interval(row, "pooled")),
    Column("time", lambda row: _number(row["time_pooled"])),
    *(
        Column(name, _earned(place), "| earned while the oracle" if place == "record" else "")
        for place, name in (
            ("record", "| rises"), ("retry", "retries"), ("fall", "falls"), ("standstill", "stands")
        )
    ),
    Column("| regret", lambda row: f"| {_number(row['regret'])}"),
]  # fmt: skip
"""Columns of the table of progress potentials, which has one row per encoder of paths."""

LEGEND = f"""\
tau       Kendall's tau between the negative distance and the maximum oracle progress, over all
          pairs of failures of a task or group; lead: minus the tau of the same option on pixels;
          final: with the oracle progress at the episode's end instead of its maximum
pairs     share of pairs in the right order; near: pairs less than a stage (0.2) apart; far: others
overpaid  share of failures that rank above a failure with at least a stage more oracle progress
r         Pearson correlation of the formula's rewards with oracle progress; ranks are equal
rho       Spearman correlation of a success's progress over growing windows with time, compared with
          the other successes; (self): with its own end, as in the paper; mono (monotonicity), MMD,
          JS, SMD likewise. Options that count visited moments rise with the window by definition
shifted   camera, light and noise: all episodes of a task shifted in the same way; placed: compared
          with successes from other initial states only; rho: first {MAX_SHIFTED} per task
potential within failures: Spearman correlation with the oracle's furthest progress so far over the
          moments of a failure; pooled: over those of all failures of a task; time: the same with
          time in place of the potential; earned: shares of the potential earned while the oracle's
          progress rises above its maximum, rises again below it (retries), falls or stands still;
          regret: oracle progress lost at a failure's end, which the potential still counts"""


TITLES = {
    "scripted": "scripted failures of many kinds",
    "policy": "failures of a policy",
    "given": "given episodes",
}
"""Titles of the sets of episodes."""


def tables(results: dict[str, dict[str, Any]]) -> str:
    """Returns the tables of each set of episodes, and a legend of the columns."""
    parts = [f"{TITLES[name].upper()}\n{table(result)}" for name, result in results.items()]
    return "\n\n".join([*parts, LEGEND])


def table(result: dict[str, Any]) -> str:
    """Returns the tables of one set of episodes, under a description of the episodes."""
    episodes = result["episodes"]
    groups = "one initial state each" * episodes["groups_of_one_state"] or "mixed initial states"
    head = (
        f"{episodes['successes']} successes and {episodes['failures']} failures of "
        f"{episodes['tasks']} tasks, {episodes['assets']} assets; {episodes['groups']} groups of "
        f"up to {result['settings']['group_size']}, {groups}"
    )
    if episodes["left_out"]:
        head += f"\nleft out, too few successes or failures: {', '.join(episodes['left_out'])}"
    curves = [row for row in result["rows"] if row["curves"]]
    parts = [head, _columns(RANKING, result["rows"]), _columns(CURVES, curves)]
    if result["potentials"]:
        parts.append(_columns(POTENTIALS, result["potentials"], num_left=1))
    return "\n\n".join(parts)


def _columns(columns: list[Column], rows: list[dict[str, Any]], num_left: int = len(NAMES)) -> str:
    lines = [[column.name for column in columns]]
    lines += [[column.cell(row) for column in columns] for row in rows]
    widths = column_widths(lines)
    above = ""
    for place, column in enumerate(columns):
        if column.above:
            above = above.ljust(sum(widths[:place]) + 2 * place) + column.above
    text, encoder = [above], None
    for line, row in zip(lines, aligned_rows(lines, num_left=num_left), strict=True):
        if encoder not in (None, line[0]) and num_left > 1:
            text.append("")
        encoder = line[0]
        text.append(row)
    return "\n".join(text)


# --- The picture ----------------------------------------------------------------------------------


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """Draws Kendall's tau by option and encoder, and its minimum under shifts."""
    from matplotlib.figure import Figure

    rows = [row for result in results.values() for row in result["rows"]]
    options = list(dict.fromkeys(row["option"] for row in rows))
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    height = 1.2 + len(results) * (0.8 + 0.5 * len(options))
    figure = Figure(figsize=(12, height), dpi=130, layout="constrained")
    panels = figure.subplots(len(results), 3, sharey=True, sharex=True, squeeze=False)
    for (name, result), (left, middle, right) in zip(results.items(), panels, strict=True):
        for number, encoder in enumerate(encoders):
            mine = {
                row["option"]: row
                for row in result["rows"]
                if row["encoder"] == encoder and row["centers"] == "dbscan"
            }
            offset = 0.7 * ((number + 0.5) / len(encoders) - 0.5)
            style = {
                "color": COLORS[number % len(COLORS)],
                "marker": MARKERS[number % len(MARKERS)],
                "linestyle": "none",
            }
            _draw_column(left, mine, options, offset, style, "task", encoder)
            _draw_column(middle, mine, options, offset, style, "group", encoder)
            _draw_shifts(right, mine, options, offset, style)
        episodes = result["episodes"]
        left.set_title(
            f"{TITLES[name]}: {episodes['failures']} failures, {episodes['successes']} successes, "
            f"{episodes['tasks']} tasks, {episodes['assets']} assets\n\nwithin a task",
            fontsize=10,
            loc="left",
        )
        middle.set_title("within a group", fontsize=10, loc="left")
        right.set_title("within a task, minimum over shifts", fontsize=10, loc="left")
        for axes in (left, middle, right):
            _dress(axes, len(options))
    panels[0][0].set_yticks(range(len(options)), options)
    panels[0][0].invert_yaxis()
    for axes in panels[-1]:
        axes.set_xlabel("Kendall's tau with oracle progress")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(encoders)), frameon=False
    )
    return figure


def _dress(axes: Axes, num_options: int) -> None:
    axes.axvline(0, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xlim(-0.6, 1.0)
    axes.spines[["top", "right"]].set_visible(False)
    for place in range(1, num_options):
        axes.axhline(place - 0.5, color="#eeeeee", linewidth=1, zorder=0)


def _draw_column(
    axes: Axes,
    rows: dict[str, dict[str, Any]],
    options: list[str],
    offset: float,
    style: dict[str, Any],
    figure: str,
    label: str,
) -> None:
    for place, option in enumerate(options):
        found = rows.get(option, {}).get(figure, {})
        if found.get("tau") is None:
            continue
        low, high = (found["tau"] if end is None else end for end in found["interval"])
        axes.plot([low, high], [place + offset] * 2, color=style["color"], linewidth=1.5)
        axes.plot([found["tau"]], [place + offset], markersize=6, **style, label=label)
        label = "_"  # only the first point has a legend entry


def _draw_shifts(
    axes: Axes,
    rows: dict[str, dict[str, Any]],
    options: list[str],
    offset: float,
    style: dict[str, Any],
) -> None:
    for place, option in enumerate(options):
        shifts = rows.get(option, {}).get("shifts", {})
        taus = [tau for name in shifts if (tau := _shift(shifts, name)) is not None]
        if len(taus) > 1:  # states have placement only
            axes.plot([min(taus)], [place + offset], markersize=6, **style)
