"""Profiles training iterations, and compares their speed with that of MuJoCo alone.

    python -m tests.benchmarks.training --physics fast --overlap --iterations 4

The arguments are those of ``agents/vla_grpo.py``. Evaluations are left out, and the first iteration
is not counted, because tasks are compiled in it. After each iteration, two processes replay some
of its episodes: with nothing but ``mj_step``, which gets the same controls and must end in the same
state, and with timers. Prints the results and asserts no speed.

While other programs use the machine, only processor times say something: ``at most`` is the ratio
that training would have if no core ever waited.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from agents import vla_grpo
from srpo_env.benchmarks.sim.step_profile import Stopwatch
from srpo_env.encoders.timed import TimedEncoder
from srpo_env.libero.vector import LiberoVectorEnv
from srpo_env.policy import SmallPolicy
from srpo_env.system.machine import usable_cores
from tests.benchmarks.replayed_steps import replay

NUM_PROCESSES = 2
NUM_EPISODES = 8
"""Number of episodes that each process replays after an iteration."""

PARTS = (
    (SmallPolicy, "policy", ("prepare", "sample", "actions")),
    (LiberoVectorEnv, "messages to simulators", ("reset", "step", "start_step", "await_step")),
    (TimedEncoder, "encoding", ("encode",)),
    (vla_grpo, "update", ("update",)),
    (vla_grpo.SuccessReplay, "imitation", ("imitate",)),
)
"""Parts of the agent's process; what remains is bookkeeping."""


class Profile:
    """Measures each iteration of the agent."""

    def __init__(self, executors: list[ProcessPoolExecutor]) -> None:
        """Puts timers into the agent.

        Args:
            executors: One for each process that replays episodes.
        """
        self._executors = executors
        self._watch = Stopwatch(time.process_time)
        self.rows: list[dict[str, Any]] = []
        for owner, part, names in PARTS:
            for name in names:
                setattr(owner, name, self._watch.timed(part, getattr(owner, name)))
        collect, show = vla_grpo.Rollout.collect, vla_grpo.print_iteration

        def measured_collect(rollout: Any) -> Any:
            if not self.rows:
                self._rollout = rollout
                self._begin()
            self._batch, self._steps = collect(rollout)
            return self._batch, self._steps

        def measured_show(*args: Any) -> None:
            self._end()
            show(*args)

        agent: Any = vla_grpo
        agent.Rollout.collect, agent.print_iteration = measured_collect, measured_show
        agent.HeldOutEvaluation = NoEvaluation

    def _begin(self) -> None:
        self._libero = self._rollout.envs.env
        self._watch.reset()
        self._wall, self._workers = time.perf_counter(), self._worker_seconds()

    def _end(self) -> None:
        """Stops the clocks, and replays some of the iteration's episodes."""
        libero = self._libero
        self._watch.read()
        row: dict[str, Any] = {
            "wall": time.perf_counter() - self._wall,
            "steps": self._steps,
            "main": Counter(self._watch.seconds),
            "workers": self._worker_seconds() - self._workers,
        }
        trajectories = [trajectory for _, group in self._batch for trajectory in group]
        every = max(1, len(trajectories) // (NUM_PROCESSES * NUM_EPISODES))
        policy = self._rollout.decider.policy
        episodes = [trajectory.beginning(policy) for trajectory in trajectories[::every]]
        running = [
            executor.submit(
                replay, libero.suite, libero.conditions["physics"],
                episodes[first::NUM_PROCESSES][:NUM_EPISODES],
            )
            for first, executor in enumerate(self._executors)
        ]  # fmt: skip
        row["replays"] = [future.result() for future in running]
        self.rows.append(row)
        self._begin()

    def _worker_seconds(self) -> float:
        """Returns the processor time of the simulators so far."""
        ticks = 0
        for pid in self._libero.worker_pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system time
        return ticks / os.sysconf("SC_CLK_TCK")


class NoEvaluation:
    """Replaces `HeldOutEvaluation`."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def is_due(self, _: Any) -> bool:
        return False


def show(rows: list[dict[str, Any]]) -> None:
    """Prints milliseconds per control step by part, and the ratios of the iterations."""
    steps = sum(row["steps"] for row in rows)
    replays = [part for row in rows for part in row["replays"]]
    simulated = sum((Counter(part["parts"]) for part in replays), Counter())
    workers = sum(row["workers"] for row in rows)
    seconds = {
        f"simulators: {part}": workers * value / simulated.total()
        for part, value in simulated.most_common()
    }
    main = sum((row["main"] for row in rows), Counter())
    main["bookkeeping"] = main.pop("rest", 0.0)
    seconds |= dict(main.most_common())
    available = usable_cores() * sum(row["wall"] for row in rows)
    busy = sum(seconds.values())
    for part, value in {**seconds, "waiting, other programs": available - busy}.items():
        print(f"{part:30s} {1e3 * value / steps:7.2f} ms {value / available:7.1%}")
    alone = [sum(part["steps"] / part["raw"] for part in row["replays"]) for row in rows]
    rates = [row["steps"] / row["wall"] for row in rows]
    ratios = np.divide(rates, alone)
    print(f"training: {np.median(rates):.0f} control steps/s, all counted")
    print(f"mj_step in {NUM_PROCESSES} processes: {np.median(alone):.0f} control steps/s")
    print(f"ratio: {np.median(ratios):.3f} [{ratios.min():.3f}, {ratios.max():.3f}]")
    raw = sum(part["raw_cpu"] for part in replays) / sum(part["steps"] for part in replays)
    print(f"at most: {raw * steps / busy:.3f}")


def main() -> None:
    """Trains, and prints the profile."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        executors = [
            stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(NUM_PROCESSES)
        ]
        profile = Profile(executors)
        vla_grpo.main(vla_grpo.Args.parse(sys.argv[1:]))
    show(profile.rows[1:] or profile.rows)


if __name__ == "__main__":
    main()
