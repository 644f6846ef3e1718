"""Formats and draws the results of ``srpo-env benchmark sim``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from srpo_env.benchmarks.sim.step_profile import PARTS
from srpo_env.benchmarks.text_table import aligned_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "physics": "#0072B2",
    "extra forward": "#56B4E9",
    "controller": "#009E73",
    "observations": "#F0E442",
    "rendering": "#D55E00",
    "rest": "#999999",
}
"""Okabe and Ito's palette, which is safe for colour-blind readers."""

GET_LEROBOT = "run `pip install 'lerobot>=0.6.1'` with Python 3.12 or newer to compare with it"

SLOW = 5.0
"""Bars longer than this multiple of our slowest bar are left out of the lower, enlarged panel."""


def header(result: dict[str, Any]) -> str:
    """Returns the settings, the assets and the machine as text."""
    settings, machine, assets = result["settings"], result["machine"], result["assets"]
    opengl = machine["opengl"]
    size = settings["image_size"]
    lines = [
        f"assets   {assets['kind']} ({assets['source']})"
        + ("; results on them are not LIBERO results" * (assets["kind"] != "libero")),
        f"task     {settings['suite']} {settings['task_id']}: {settings['task']}",
        f"work     {settings['steps']} control steps of random actions in chunks of "
        f"{settings['chunk']}, two cameras of {size} x {size}; {settings['repeats']} repeats",
        "peers    LIBERO's own environment; "
        + (
            f"lerobot {result['lerobot']}, one process per environment"
            if result["lerobot"]
            else f"without lerobot's: {GET_LEROBOT}"
        ),
        "threads  one per worker of srpo-env; peers: "
        + ("the same" if settings["limit_upstream_threads"] else "its defaults"),
        f"machine  {machine['cpu']}, {machine['cores']:g} cores, {machine['memory_gib']:g} GiB; "
        f"load {machine['load_average']:.1f} before the start",
        f"OpenGL   {opengl['renderer']} ({opengl['backend']})" if opengl else "OpenGL   none",
        "versions Python {python}, MuJoCo {mujoco}, robosuite {robosuite}, hf-libero {hf-libero}, "
        "srpo-env {srpo-env}, commit {commit}".format_map(machine),
    ]
    return "\n".join(lines)


def tables(result: dict[str, Any]) -> str:
    """Returns all results as text, repeated measurements as ``median [min, max]``."""
    parts = []
    if "speed" in result:
        for rows, other, owner in (
            (result["speed"], "upstream", "LIBERO's own"),
            (result["speed_lerobot"], "lerobot", "lerobot's"),
        ):
            if not rows:
                continue
            columns = ["", "workers", owner, "srpo-env", "speed-up"]
            speed = _speed_rows(rows, other, "steps_per_second", "speedup", "{:.0f}")
            resets = _speed_rows(rows, other, "reset_seconds", "reset_speedup", "{:.3g}")
            parts.append(_table("control steps per second", columns, speed))
            parts.append(_table("reset to a stored state, in seconds", columns, resets))
    if result.get("scaling"):
        rows = [
            [_name(row), f"{row['workers']}", _spread(row["speedup"], "{:.2f}")]
            for row in result["scaling"]
        ]
        columns = ["steps per second relative to one worker", "workers", "ratio"]
        parts.append(_table("", columns, rows))
    if "memory" in result:
        parts.append(_table("", MEMORY_COLUMNS, list(_memory_rows(result["memory"]))))
    if "images" in result:
        parts.append(_images(result["images"]))
    if "profile" in result:
        rows = [
            [
                _name(row),
                *(f"{row['milliseconds'][part]:.2f}" for part in PARTS),
                f"{sum(row['milliseconds'].values()):.2f}",
            ]
            for row in result["profile"]
        ]
        parts.append(_table("", ["one control step, in ms", *PARTS, "total"], rows))
    return "\n\n".join(parts)


MEMORY_COLUMNS = ["memory, in MB", "environments", "workers", "tasks compiled", "per environment"]


def _speed_rows(
    rows: list[dict[str, Any]], other: str, figure: str, ratio: str, form: str
) -> list[list[str]]:
    return [
        [
            row["kind"],
            str(row["workers"]),
            _spread(row[other][figure], form),
            _spread(row["ours"][figure], form),
            _spread(row[ratio], "{:.1f}"),
        ]
        for row in rows
    ]


def _memory_rows(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        size = row["bytes_per_env"]
        yield [
            _name(row),
            *(str(row[name]) for name in ("envs", "workers", "tasks")),
            "not measured: needs Linux" if size is None else f"{size / 1e6:.0f}",
        ]


def _images(images: dict[str, Any]) -> str:
    exact, fast = (sum(task[kind] for task in images["tasks"]) for kind in ("exact", "fast"))
    rows = [
        [
            camera,
            *(
                form.format(images[camera][name][key])
                for name, form in (("psnr", "{:.1f}"), ("ssim", "{:.3f}"))
                for key in ("mean", "worst")
            ),
        ]
        for camera in ("agentview", "wrist")
    ]
    columns = ["fast compared with exact", "PSNR, dB", "worst", "SSIM", "worst"]
    num_tasks = len(images["tasks"])
    return _table("", columns, rows) + (
        f"\n{images['num_images']} images of each camera; faces, mean of {num_tasks} "
        f"task{'s' * (num_tasks > 1)}: {exact / num_tasks:,.0f} exact, {fast / num_tasks:,.0f} fast"
    )


def _name(row: dict[str, Any]) -> str:
    if row["implementation"] == "upstream":
        return "LIBERO's own, " + ("no camera" if row["kind"] == "no camera" else "two cameras")
    if row["implementation"] == "lerobot":
        return "lerobot's, two cameras"
    return f"srpo-env, {row['kind']}"


def _spread(values: dict[str, Any], form: str) -> str:
    median, minimum, maximum = (form.format(values[key]) for key in ("median", "min", "max"))
    return f"{median} [{minimum}, {maximum}]"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    columns = [title or columns[0], *columns[1:]]
    return "\n".join(aligned_rows([columns, *rows]))


# --- Picture ------------------------------------------------------------------------------------


def draw_profile(result: dict[str, Any]) -> Figure:
    """Draws the time of one control step by part, of upstream and ours, as stacked bars.

    Raises:
        ValueError: If the profile was not measured.
        ModuleNotFoundError: If matplotlib is not installed.
    """
    if "profile" not in result:
        raise ValueError("the picture needs the profile: measure it with `--parts profile`")
    from matplotlib.figure import Figure

    rows = sorted(result["profile"], key=_total, reverse=True)
    ours = max(_total(row) for row in rows if row["implementation"] == "ours")
    fast_rows = [row for row in rows if _total(row) < SLOW * ours]
    figure = Figure(figsize=(9, 4.2), dpi=160, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[len(rows), max(1, len(fast_rows))])
    _draw_bars(above, rows)
    _draw_bars(below, fast_rows)
    below.set_xlabel("milliseconds per control step, one environment")
    above.set_title("all", loc="left", fontsize=10)
    below.set_title("fast ones, enlarged", loc="left", fontsize=10)
    settings, machine = result["settings"], result["machine"]
    figure.suptitle(
        f"{settings['suite']}, chunks of {settings['chunk']}, {result['assets']['kind']} assets, "
        f"{machine['cpu']}",
        fontsize=11,
    )
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), frameon=False)
    return figure


def _draw_bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = [_name(row) for row in rows]
    left = [0.0] * len(rows)
    for part in PARTS:
        widths = [row["milliseconds"][part] for row in rows]
        axes.barh(names, widths, left=left, color=COLORS[part], label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:.1f}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * max(left))
    axes.spines[["top", "right"]].set_visible(False)


def _total(row: dict[str, Any]) -> float:
    return float(sum(row["milliseconds"].values()))
