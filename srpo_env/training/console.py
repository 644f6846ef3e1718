"""What a run of reinforcement learning prints: one line per iteration, and what goes wrong."""

from __future__ import annotations

from typing import Any

from srpo_env.training.diagnosis import SUCCESS_RATE, diagnose, new_findings
from srpo_env.training.run import TrainingRun

PACE_RECORDS = 11
"""number of newest records from which the remaining time is estimated"""


def print_iteration(run: TrainingRun, iterations: int) -> None:
    """Prints the newest record of a run, which is an iteration.

    As long as something is wrong, the line ends with its name.

    Args:
        run: The run. Its record needs the metrics that ``agents/vla_grpo.py`` logs.
        iterations: Number of iterations until the end.
    """
    record = run.log.records[-1]
    num_groups = round(record["rollout/num_groups"])
    with_signal = round((1 - record["rollout/without_signal"]) * num_groups)
    wrong = [finding.name for finding in diagnose(run.log.records, run.settings.as_json())]
    print(
        f"{run.iteration:4d}/{iterations}"
        f"  success {record['rollout/success_rate']:4.0%} of {record['rollout/num_episodes']:3.0f}"
        f"  held-out {run.log.latest(SUCCESS_RATE):.0%}  signal {with_signal:2d}/{num_groups:2d}"
        f"  kl {record.get('losses/kl', 0):.2f}"
        f"  {record['charts/steps_per_second']:3.0f} steps/s"
        f"  {record['seconds'] / 60:.0f} min, {_minutes_left(run, iterations)} to go"
        + (f"  [{', '.join(wrong)}]" if wrong else ""),
        flush=True,
    )
    print_new_findings(run)


def print_new_findings(run: TrainingRun) -> None:
    """Prints what is wrong since the newest record of a run, and which setting to change."""
    for finding in new_findings(run.log.records, run.settings.as_json()):
        print(f"{finding.name}: {finding}", flush=True)


def _minutes_left(run: TrainingRun, iterations: int) -> str:
    """Estimates the remaining minutes from the newest records, as text."""
    records: list[dict[str, Any]] = run.log.records[-PACE_RECORDS:]
    finished = records[-1]["iteration"] - records[0]["iteration"]
    if finished == 0:
        return "?"
    minutes = (records[-1]["seconds"] - records[0]["seconds"]) / 60
    return f"{minutes / finished * (iterations - run.iteration):.0f}"
