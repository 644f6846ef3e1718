"""Makes one HTML page of a training run, which needs no other file and no network.

Charts are drawn in `page_charts`, sampled episodes are shown by `page_episodes`, and `diagnosis`
finds what is wrong. The page's form is ``page.html``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from srpo_env.libero.suites import get_suite
from srpo_env.system.files import read_json
from srpo_env.training import page_charts as charts
from srpo_env.training.diagnosis import NUM_UPDATES, SUCCESS_RATE, TASK, Records, diagnose
from srpo_env.training.episode_files import read_recordings
from srpo_env.training.page_episodes import episodes_html
from srpo_env.training.report import (
    ASSETS,
    CONDITIONS,
    NAMES,
    SETTINGS,
    Curve,
    read_curve,
    read_history,
)
from srpo_env.types import even_indices

TEMPLATE = Path(__file__).with_name("page.html")

MAX_COLUMNS = 12
"""number of evaluations in the table of tasks, the first and the newest among them"""

CHART_SIZE = (6.2, 3.3)
"""width and height of a chart in inches"""


def run_page(folder: str | Path) -> str:
    """Returns the page of a run of ``agents/vla_grpo.py``, finished or not, as HTML.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the run was not evaluated yet, or a file is damaged.
        ModuleNotFoundError: If Matplotlib is not installed.
    """
    folder = Path(folder)
    curve, records = read_curve(folder), read_history(folder)
    settings, conditions = (read_json(folder / name) for name in (SETTINGS, CONDITIONS))
    name_of = task_names(curve.env_id)
    contents = {
        "title": escape(folder.resolve().name),
        "subtitle": escape(
            f"{NAMES[curve.reward]} on {curve.env_id} with {ASSETS[curve.assets]}, "
            f"seed {curve.seed}"
        ),
        "tiles": _tiles(curve, records),
        "findings": _findings(records, settings),
        "charts": _charts(curve, records, settings),
        "tasks": _task_table(records, name_of),
        "episodes": episodes_html(read_recordings(folder), name_of),
        "settings": _values(settings),
        "conditions": _values(conditions),
        "footer": "Made by <code>srpo-env report</code>. Metrics are explained in docs/metrics.md.",
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(contents)


def task_names(env_id: str) -> Callable[[int | str], str]:
    """Returns a function that names a task of a suite; its number where LIBERO is not installed."""
    try:
        tasks = {str(task.task_id): task.instruction for task in get_suite(env_id).tasks}
    # A suite of the user's is not imported: a run's folder is data, also somebody else's.
    except (ValueError, ModuleNotFoundError):
        tasks = {}
    return lambda task: f"{task}: {tasks[str(task)]}" if str(task) in tasks else f"task {task}"


def _tiles(curve: Curve, records: Records) -> str:
    low, high = curve.intervals[-1]
    best = int(np.argmax(curve.success_rates))
    newest = records[-1]
    speed = [x["charts/steps_per_second"] for x in records if "charts/steps_per_second" in x]
    tiles = [
        (
            f"{curve.success_rates[0]:.0%} → {curve.success_rates[-1]:.0%}",
            f"held-out success, now [{low:.0%}, {high:.0%}] of {curve.num_episodes} episodes",
        ),
        (f"{curve.success_rates[best]:.0%}", f"best, at iteration {curve.iterations[best]}"),
        (f"{newest['iteration']}", "iterations"),
        (f"{newest.get('control_steps', 0):,.0f}", "control steps"),
        (f"{newest.get('seconds', 0) / 60:.0f} min", "duration"),
        (f"{speed[-1]:.0f}" if speed else "-", "control steps per second, all included"),
    ]
    return "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in tiles
    )


def _findings(records: Records, settings: Mapping[str, Any]) -> str:
    findings = diagnose(records, settings)
    if not findings:
        done = sum("rollout/num_groups" in record for record in records)
        text = (
            f"Too early to tell: what goes wrong is looked for after {NUM_UPDATES} iterations."
            if done < NUM_UPDATES
            else "Nothing wrong was found: groups carry signal, updates are not cut short, entropy "
            "and held-out success have not collapsed, and no task is known to be without success."
        )
        return f'<div class="card finding fine">{text}</div>'
    return "".join(
        f'<div class="card finding"><b>{escape(finding.name)}</b>'
        f"<p>{escape(finding.observation)}.</p>"
        f"<p><b>What to change:</b> {escape(finding.advice)}.</p></div>"
        for finding in findings
    )


def _charts(curve: Curve, records: Records, settings: Mapping[str, Any]) -> str:
    wanted = [
        ("Success over control steps", lambda axes: charts.success_chart(axes, curve, records))
    ]
    if any("rollout/without_signal" in record for record in records):
        wanted.append(("Share of groups with signal", lambda a: charts.signal_chart(a, records)))
    if any("losses/kl" in record for record in records):
        wanted.append(("KL per decision", lambda a: charts.kl_chart(a, records, settings)))
    for metric, label, title in (
        ("losses/entropy", "nats per token", "Entropy of the policy"),
        ("charts/learning_rate", "", "Learning rate"),
        ("rollout/distance_spread", "spread / mean", "How much failures differ in distance"),
    ):
        if any(metric in record for record in records):
            draw = partial(
                charts.metric_chart, records=records, metric=metric, label=label, title=title
            )
            wanted.append((title, draw))
    pictures = [(name, charts.svg(draw, CHART_SIZE)) for name, draw in wanted]
    return "".join(
        f'<div class="card"><img alt="{escape(name)}" src="{source}"></div>'
        for name, source in pictures
    )


def _task_table(records: Records, name_of: Callable[[int | str], str]) -> str:
    points = [record for record in records if SUCCESS_RATE in record]
    points = [points[row] for row in even_indices(len(points), min(len(points), MAX_COLUMNS))]
    names = {name for point in points for name in point if name.startswith(TASK)}
    if not names:
        return '<p class="soft">The evaluations hold no rates of single tasks.</p>'
    tasks = sorted((name.removeprefix(TASK) for name in names), key=lambda x: (len(x), x))
    head = "".join(f"<th>{point['iteration']}</th>" for point in points)
    rows = "".join(
        f"<tr><th>{escape(name_of(task))}</th>"
        + "".join(_rate_cell(point.get(TASK + task)) for point in points)
        + "</tr>"
        for task in tasks
    )
    total = "".join(_rate_cell(point[SUCCESS_RATE]) for point in points)
    return (
        '<div class="card scroll"><table class="tasks"><thead><tr><th>iteration</th>'
        f"{head}</tr></thead><tbody>{rows}<tr><th>all</th>{total}</tr></tbody></table></div>"
    )


def _rate_cell(rate: float | None) -> str:
    if rate is None:
        return "<td></td>"
    color = "#fff" if rate > 0.6 else "#1d2430"
    style = f"background: rgba(0, 114, 178, {0.06 + 0.94 * rate:.2f}); color: {color}"
    return f'<td style="{style}">{rate:.0%}</td>'


def _values(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="settings">{rows}</dl>'
