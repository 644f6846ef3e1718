"""Measures how often the scripted experts succeed; prints one row of a Markdown table per task."""

from __future__ import annotations

import argparse

from srpo_env.cli.demos import chosen_tasks, numbers
from srpo_env.libero.experts.attempts import run_expert
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import check_suite_name, get_task


def main() -> None:
    """Plays the chosen tasks from the chosen initial states, without rendering."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_object", help="suite of LIBERO")
    parser.add_argument("--tasks", default="all", help="task ids, for example 0-4,7; or all")
    parser.add_argument("--init-states", default="0-49", help="initial states, for example 0-49")
    parser.add_argument("--physics", choices=("exact", "fast"), default="exact")
    args = parser.parse_args()
    suite = check_suite_name(args.suite)
    states = numbers(args.init_states, "--init-states")
    print("| suite | task | successes | control steps | failed initial states |")
    print("| --- | --- | --- | --- | --- |")
    for task_id in chosen_tasks(suite, args.tasks):
        simulation = Simulation(get_task(suite, task_id), physics=args.physics)
        attempts = {state: run_expert(simulation, state) for state in states}
        steps = [len(attempt.actions) for attempt in attempts.values() if attempt.success]
        failed = [str(state) for state, attempt in attempts.items() if not attempt.success]
        mean = f"{sum(steps) / len(steps):.0f}" if steps else "-"
        print(
            f"| {suite} | {task_id}: {simulation.task.instruction} | {len(steps)} of {len(states)} "
            f"| {mean} | {', '.join(failed)} |",
            flush=True,
        )
        simulation.close()


if __name__ == "__main__":
    main()
