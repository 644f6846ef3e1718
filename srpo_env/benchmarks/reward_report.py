"""What ``srpo-env benchmark reward`` measured, as a table and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with colour-blindness can tell apart too.
COLORS = ("#999999", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#0072B2")
MARKERS = "osD^vP*X"

COLUMNS = [
    "encoder",
    "option",
    "centers",
    "tau [95%]",
    "over pixels",
    "end",
    "pairs",
    "near",
    "far",
    "| tau",
    "overpaid",
    "r paper",
    "siirl",
    "| rho",
    "(self)",
    "mono",
    "MMD",
    "JS",
    "SMD",
    "| camera",
    "light",
    "noise",
    "placed",
]
ABOVE = {
    "tau [95%]": "failures of a task",
    "| tau": "| in groups",
    "| rho": "| curves",
    "| camera": "| tau under shift",
}

LEGEND = """\
tau       Kendall's tau of minus the distance with furthest true progress, mean over tasks
end       the same with true progress at the episode's end; pairs: share in the right order, of all,
          of those less than a stage apart (near), and of the others (far)
overpaid  failures that rank above one which truly got a stage further, or more
r         correlation of the formula's rewards with true progress; ranks are the same for both
rho       Spearman of a success's progress over growing windows with time, beside other successes;
          (self): beside its own end, as in the paper; mono, MMD, JS, SMD: beside other successes
shift     camera, light and noise: all episodes of a task changed alike; placed: successes from
          other initial states only"""


TITLES = {
    "scripted": "failures of many kinds, scripted",
    "policy": "a policy's own failures",
    "given": "given episodes",
}
"""What each set of episodes is"""


def tables(results: dict[str, dict[str, Any]]) -> str:
    """All rows of each set of episodes, and what the columns mean."""
    parts = [f"{TITLES[name].upper()}\n{table(result)}" for name, result in results.items()]
    return "\n\n".join([*parts, LEGEND])


def table(result: dict[str, Any]) -> str:
    """All rows, with a heading."""
    episodes = result["episodes"]
    groups = "one initial state each" * episodes["groups_of_one_state"] or "mixed initial states"
    head = (
        f"{episodes['successes']} successes and {episodes['failures']} failures of "
        f"{episodes['tasks']} tasks, {episodes['assets']} assets; {episodes['groups']} groups of "
        f"up to {result['settings']['group_size']}, {groups}"
    )
    if episodes["left_out"]:
        head += f"\nleft out, with too few of either: {', '.join(episodes['left_out'])}"
    lines = [[ABOVE.get(name, "") for name in COLUMNS], COLUMNS]
    lines += [_cells(row) for row in result["rows"]]
    # The headings above may be wider than their columns: they reach over the next ones.
    widths = [max(len(line[place]) for line in lines[1:]) for place in range(len(COLUMNS))]
    text = [_over(lines[0], widths)]
    before = None
    for line in lines[1:]:
        if before not in (None, line[0]):
            text.append("")
        before = line[0]
        text.append("  ".join(_aligned(place, cell, widths) for place, cell in enumerate(line)))
    return "\n".join([head, "", *(line.rstrip() for line in text)])


def _aligned(place: int, cell: str, widths: list[int]) -> str:
    return cell.ljust(widths[place]) if place < 3 else cell.rjust(widths[place])


def _over(headings: list[str], widths: list[int]) -> str:
    line = ""
    for place, heading in enumerate(headings):
        start = sum(widths[:place]) + 2 * place
        if heading:
            line = line.ljust(start) + heading
    return line


def _cells(row: dict[str, Any]) -> list[str]:
    task, group, shifts = row["task"], row["group"], row["shifts"]
    others, itself = (row["curves"].get(name, {}) for name in ("others", "self"))
    low, high = task["interval"]
    lead = row.get("lead_over_pixels", {}).get("tau")
    return [
        row["encoder"],
        row["option"],
        row["centers"],
        f"{_number(task['tau'])} [{_number(low)}, {_number(high)}]",
        "" if lead is None else f"{lead:+.2f}",
        _number(task["tau_of_final"]),
        _number(task["accuracy"]),
        _number(task["accuracy_within_a_stage"]),
        _number(task["accuracy_a_stage_apart"]),
        "| " + _number(group["tau"]),
        _number(group.get("overpaid")),
        _number(group.get("correlation_paper")),
        _number(group.get("correlation_siirl")),
        "| " + _number(others.get("spearman")),
        _number(itself.get("spearman")),
        _number(others.get("monotonicity")),
        _number(others.get("mmd")),
        _number(others.get("js")),
        _number(others.get("smd"), "{:.1f}"),
        "| " + _number(_shift(shifts, "camera")),
        _number(_shift(shifts, "light")),
        _number(_shift(shifts, "noise")),
        _number(_shift(shifts, "placement")),
    ]


def _shift(shifts: dict[str, Any], name: str) -> float | None:
    tau: float | None = shifts.get(name, {}).get("task", {}).get("tau")
    return tau


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)


# --- The picture ----------------------------------------------------------------------------------


def draw(results: dict[str, dict[str, Any]]) -> Figure:
    """Draws how well failures are ranked, by option and encoder, and what shifts do to it."""
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
            f"{TITLES[name]}: {episodes['failures']} beside {episodes['successes']} successes, "
            f"{episodes['tasks']} tasks, {episodes['assets']} assets\n\nwithin a task",
            fontsize=10,
            loc="left",
        )
        middle.set_title("within a group", fontsize=10, loc="left")
        right.set_title("within a task, the least under shift", fontsize=10, loc="left")
        for axes in (left, middle, right):
            _dress(axes, len(options))
    panels[0][0].set_yticks(range(len(options)), options)
    panels[0][0].invert_yaxis()
    for axes in panels[-1]:
        axes.set_xlabel("Kendall's tau with true progress")
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
        label = "_"  # once in the legend


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
        if len(taus) > 1:  # of states, placement alone; nothing to compare
            axes.plot([min(taus)], [place + offset], markersize=6, **style)
