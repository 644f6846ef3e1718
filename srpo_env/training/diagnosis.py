"""Finds out from the metrics of a run why it does not learn, and which setting to change.

Pure functions over the records of a history; `srpo_env.training.console` prints what they find
during training, and ``srpo-env report`` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srpo_env.training.evaluation import wilson_interval

Records = Sequence[Mapping[str, Any]]
Settings = Mapping[str, Any]

NUM_UPDATES = 3
"""number of newest iterations, or evaluations of a task, that a finding rests on"""

LITTLE_SIGNAL = 0.25
"""fraction of groups with signal below which there is too little of it"""

EARLY_END = 0.5
"""fraction of an update's gradient steps below which the KL limit has ended it early"""

COLLAPSED_ENTROPY = 0.25
"""fraction of the first updates' entropy below which exploration has ended"""

SOLVED = 0.95
"""held-out success rate from which missing signal or entropy is no fault"""

DEAD = 0.5
"""fraction of the other tasks' success rate; a task is dead if its own is below it with 95%"""

SUCCESS_RATE = "eval/success_rate"
"""name of the held-out success rate"""
TASK = "eval/task_"
"""beginning of the names of the tasks' held-out success rates"""


@dataclass(frozen=True)
class Finding:
    """One reason why a run does not learn."""

    name: str
    """a few words, the same as long as the reason lasts"""
    observation: str
    """what the metrics show"""
    advice: str
    """which setting to change"""

    def __str__(self) -> str:
        """Returns one sentence."""
        return f"{self.observation}: {self.advice}"


def diagnose(records: Records, settings: Settings) -> list[Finding]:
    """Returns what is wrong with a run as it is after its newest record.

    Args:
        records: Records of its history, in order.
        settings: Its settings by name, as ``args.json`` holds them. Advice names the values of
            those that are known.
    """
    findings = (check(records, settings) for check in CHECKS)
    return [finding for finding in findings if finding is not None]


def new_findings(records: Records, settings: Settings) -> list[Finding]:
    """Returns what is wrong since the newest record, and was not before."""
    known = {finding.name for finding in diagnose(records[:-1], settings)}
    return [finding for finding in diagnose(records, settings) if finding.name not in known]


def no_signal(records: Records, settings: Settings) -> Finding | None:
    """Finds that few groups have episodes with different rewards."""
    newest = [record for record in records if "rollout/num_groups" in record]
    newest = _newest(newest, "rollout/without_signal")
    num_groups = sum(record["rollout/num_groups"] for record in newest)
    if not num_groups or _rate(records) >= SOLVED or settings.get("update_epochs") == 0:
        return None  # imitation needs no comparison of episodes

    def mean(metric: str) -> float:
        parts = (record.get(metric, 0.0) * record["rollout/num_groups"] for record in newest)
        return float(sum(parts) / num_groups)

    if not 1 - mean("rollout/without_signal") < LITTLE_SIGNAL:
        return None
    failed, succeeded = mean("rollout/all_failed"), mean("rollout/all_succeeded")
    seen = (
        f"only {1 - mean('rollout/without_signal'):.0%} of the last {num_groups:.0f} groups carry "
        f"signal, in {failed:.0%} all episodes failed and in {succeeded:.0%} all succeeded"
    )
    if failed >= succeeded:
        advice = (
            f"the policy is too weak for {_setting(settings, 'group_size')}: start from a better "
            f"--checkpoint (agents/vla_bc.py clones one), draw larger groups, lower "
            f"{_setting(settings, 'temperature')}, or imitate the rare successes more "
            f"({_setting(settings, 'replay_steps')})"
        )
    else:
        advice = (
            "the sampled episodes hardly fail any more: stop here (--stop-at), or train on another "
            f"--env; a higher {_setting(settings, 'temperature')} explores more"
        )
    return Finding("no signal", seen, advice)


def kl_limit(records: Records, settings: Settings) -> Finding | None:
    """Finds that updates end early, one after the other, because they reach the KL limit."""
    newest = _newest(records, "charts/update_completed")
    if any(not record["charts/update_completed"] < EARLY_END for record in newest) or not newest:
        return None
    rate = newest[-1].get("charts/learning_rate")
    now = "" if rate is None else f", and the learning rate has come to {rate:.1g}"
    return Finding(
        "KL limit",
        f"{NUM_UPDATES} updates in a row ended at {_setting(settings, 'target_kl')} before half of "
        f"their gradient steps{now}",
        f"a lower {_setting(settings, 'learning_rate')} may learn more steadily; if it fell that "
        f"far already, more groups per update ({_setting(settings, 'groups_per_iteration')}) make "
        "gradients less noisy",
    )


def entropy_collapse(records: Records, settings: Settings) -> Finding | None:
    """Finds that the entropy of the policy is a fraction of what it began with."""
    name = "losses/entropy"
    entropies = [float(record[name]) for record in records if name in record]
    if len(entropies) < 2 * NUM_UPDATES or _rate(records) >= SOLVED:
        return None
    first = sum(entropies[:NUM_UPDATES]) / NUM_UPDATES
    now = sum(entropies[-NUM_UPDATES:]) / NUM_UPDATES
    if not now < COLLAPSED_ENTROPY * first:
        return None
    return Finding(
        "entropy collapse",
        f"the entropy per token has fallen from {first:.2g} to {now:.2g} nats, so the episodes of "
        "a group are nearly alike",
        f"raise {_setting(settings, 'temperature')} or {_setting(settings, 'clip_high')}, or lower "
        f"{_setting(settings, 'learning_rate')}, from a checkpoint before the fall",
    )


def dead_task(records: Records, settings: Settings) -> Finding | None:
    """Finds tasks that never succeed, while the others do clearly more often."""
    newest = _newest(records, SUCCESS_RATE)
    episodes = settings.get("eval_episodes")
    names = [name for name in (newest[-1] if newest else {}) if name.startswith(TASK)]
    rates = {
        name.removeprefix(TASK): sum(x.get(name, math.nan) for x in newest) / NUM_UPDATES
        for name in names
    }
    dead = [task for task, rate in rates.items() if rate == 0]
    others = [rate for rate in rates.values() if rate > 0]
    if not dead or not others or not isinstance(episodes, int):
        return None
    num_episodes = NUM_UPDATES * (episodes // len(rates))  # of each task
    others_rate = sum(others) / len(others)
    if not num_episodes or not wilson_interval(0, num_episodes)[1] < DEAD * others_rate:
        return None
    named = (
        f"task{'s' * (len(dead) > 1)} {', '.join(sorted(dead, key=lambda task: (len(task), task)))}"
    )
    return Finding(
        f"{named} dead",
        f"{named} had no success in the last {NUM_UPDATES} evaluations, of {num_episodes} episodes "
        f"each, and the others {others_rate:.0%}",
        f"groups larger than {_setting(settings, 'group_size')} hold a rare success more often, "
        f"{_setting(settings, 'replay_steps')} imitates it, and "
        f"{_setting(settings, 'rollout_steps')} must leave time for it",
    )


def success_falls(records: Records, settings: Settings) -> Finding | None:
    """Finds that held-out success is below its best, beyond both 95% intervals."""
    points = [record for record in records if SUCCESS_RATE in record]
    episodes = settings.get("eval_episodes")
    if not points or not isinstance(episodes, int) or episodes < 1:
        return None

    def interval(point: Mapping[str, Any]) -> tuple[float, float]:
        return wilson_interval(round(point[SUCCESS_RATE] * episodes), episodes)

    best = max(points, key=lambda point: float(point[SUCCESS_RATE]))
    if not interval(points[-1])[1] < interval(best)[0]:
        return None
    return Finding(
        "success falls",
        f"held-out success has fallen from {best[SUCCESS_RATE]:.0%} at iteration "
        f"{best['iteration']} to {points[-1][SUCCESS_RATE]:.0%}",
        f"start again from that policy (--checkpoint RUN/checkpoints/iteration_"
        f"{best['iteration']:04d}/policy) with a lower {_setting(settings, 'learning_rate')} or "
        f"{_setting(settings, 'target_kl')}",
    )


CHECKS: tuple[Callable[[Records, Settings], Finding | None], ...] = (
    no_signal, kl_limit, entropy_collapse, dead_task, success_falls
)  # fmt: skip


def _newest(records: Records, metric: str) -> list[Mapping[str, Any]]:
    """Returns the newest records that have a metric; none if there are fewer than needed."""
    found = [record for record in records if metric in record][-NUM_UPDATES:]
    return found if len(found) == NUM_UPDATES else []


def _rate(records: Records) -> float:
    """Returns the newest held-out success rate; 0 without one."""
    rates = [float(x[SUCCESS_RATE]) for x in records if SUCCESS_RATE in x]
    return rates[-1] if rates else 0.0


def _setting(settings: Settings, name: str) -> str:
    """Returns a setting as on the command line, with its value if it is known."""
    flag = f"--{name.replace('_', '-')}"
    return f"{flag} {settings[name]}" if settings.get(name) is not None else flag
