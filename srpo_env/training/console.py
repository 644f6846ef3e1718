"""What a run of reinforcement learning prints: one line per iteration, and a hint."""

from __future__ import annotations

from typing import Any

from srpo_env.training.held_out import SUCCESS_RATE
from srpo_env.training.run import TrainingRun

MANY_EARLY_ENDS = 3
"""number of updates in a row that end early before a lower learning rate is suggested"""

PACE_RECORDS = 11
"""number of newest records from which the remaining time is estimated"""


def print_iteration(run: TrainingRun, iterations: int, learning_rate: float) -> None:
    """Prints the newest record of a run, which is an iteration.

    Args:
        run: The run. Its record needs the metrics that ``agents/vla_grpo.py`` logs.
        iterations: Number of iterations until the end.
        learning_rate: Named in the hint that is printed when updates keep ending early.
    """
    record = run.log.records[-1]
    num_groups = round(record["rollout/num_groups"])
    with_signal = round((1 - record["rollout/without_signal"]) * num_groups)
    print(
        f"{run.iteration:4d}/{iterations}"
        f"  success {record['rollout/success_rate']:4.0%} of {record['rollout/num_episodes']:3.0f}"
        f"  held-out {run.log.latest(SUCCESS_RATE):.0%}  signal {with_signal:2d}/{num_groups:2d}"
        f"  kl {record.get('losses/kl', 0):.2f}"
        f"  {record['charts/steps_per_second']:3.0f} steps/s"
        f"  {record['seconds'] / 60:.0f} min, {_minutes_left(run, iterations)} to go",
        flush=True,
    )
    # Few steps that each move the policy far: some runs lost what they had learned this way.
    completed = [
        float(record.get("charts/update_completed", 1))
        for record in run.log.records
        if "rollout/num_groups" in record
    ]
    early_ends = [share < 0.5 for share in [1.0, *completed]][-MANY_EARLY_ENDS - 1 :]
    if early_ends == [False, *[True] * MANY_EARLY_ENDS]:
        print(
            f"{MANY_EARLY_ENDS} updates in a row ended at --target-kl before half of their "
            f"gradient steps: a --learning-rate below {learning_rate:g} may learn more steadily",
            flush=True,
        )


def _minutes_left(run: TrainingRun, iterations: int) -> str:
    """Estimates the remaining minutes from the newest records, as text."""
    records: list[dict[str, Any]] = run.log.records[-PACE_RECORDS:]
    finished = records[-1]["iteration"] - records[0]["iteration"]
    if finished == 0:
        return "?"
    minutes = (records[-1]["seconds"] - records[0]["seconds"]) / 60
    return f"{minutes / finished * (iterations - run.iteration):.0f}"
