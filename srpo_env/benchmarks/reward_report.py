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


def table(result: dict[str, Any]) -> str:
    """All rows, with a heading."""
    episodes = result["episodes"]
    groups = "one initial state each" * episodes["groups_of_one_state"] or "mixed initial states"
    head = (
        f"{episodes['successes']} successes and {episodes['failures']} failures of "
        f"{episodes['tasks']} tasks, {episodes['assets']} assets; {episodes['groups']} groups of "
        f"up to {result['settings']['group_size']}, {groups}"
    )
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
    return "\n".join([head, "", *(line.rstrip() for line in text), "", LEGEND])


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


def draw(result: dict[str, Any]) -> Figure:
    """Draws how well failures are ranked, by option and encoder, and what shifts do to it."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if row["centers"] == "dbscan"]
    options = list(dict.fromkeys(row["option"] for row in rows))
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    figure = Figure(figsize=(12, 1.6 + 0.55 * len(options)), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    for number, encoder in enumerate(encoders):
        mine = {row["option"]: row for row in rows if row["encoder"] == encoder}
        offset = 0.7 * ((number + 0.5) / len(encoders) - 0.5)
        style = {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "none",
        }
        _draw_column(left, mine, options, offset, style, "task", encoder)
        _draw_column(middle, mine, options, offset, style, "group", encoder)
        _draw_shifts(right, mine, options, offset, style)
    left.set_yticks(range(len(options)), options)
    left.invert_yaxis()
    left.set_title("failures of a task", fontsize=11)
    middle.set_title("failures of a group", fontsize=11)
    right.set_title("of a task, least under shift", fontsize=11)
    for axes in (left, middle, right):
        axes.axvline(0, color="#cccccc", linewidth=1, zorder=0)
        axes.set_xlabel("Kendall's tau with true progress")
        axes.set_xlim(-0.3, 1.0)
        axes.spines[["top", "right"]].set_visible(False)
        for place in range(1, len(options)):
            axes.axhline(place - 0.5, color="#eeeeee", linewidth=1, zorder=0)
    episodes = result["episodes"]
    figure.suptitle(
        f"Ranking of {episodes['failures']} failures by their distance from "
        f"{episodes['successes']} successes, {episodes['tasks']} tasks, {episodes['assets']} assets"
    )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(encoders)), frameon=False
    )
    return figure


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
