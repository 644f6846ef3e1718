"""Records successes and failures of many kinds with their oracle progress.

The episodes are used to train world models and to evaluate rewards. The expert succeeds in several
ways; in failures it stops in one of the stages (fifths of the progress), drops the object, or moves
at random, and in libero_object it also misses the object or grasps another one. There is one HDF5
file per task and kind of assets, so that several kinds can share a folder. An existing file is
always complete: after an interruption, run the same command again.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing

from srpo_env.cli.demos import (
    add_max_steps_argument,
    add_recording_arguments,
    add_suite_argument,
    chosen_tasks,
    numbers,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the output folder and the settings of the recording."""
    add_recording_arguments(parser, out="episodes")
    add_suite_argument(parser)
    parser.add_argument(
        "--successes",
        type=int,
        default=32,
        help="number of successes per task, over all kinds",
    )
    parser.add_argument(
        "--failures",
        type=int,
        default=36,
        help="number of failures per task, over all kinds",
    )
    add_max_steps_argument(parser)
    parser.add_argument(
        "--workers", type=int, default=1, help="number of tasks recorded in parallel"
    )


def run(args: argparse.Namespace) -> int:
    """Records the tasks, with a progress bar."""
    from tqdm import tqdm

    from srpo_env.libero.assets import resolve_assets
    from srpo_env.libero.behaviour_recording import (
        BehaviourRecording,
        default_max_steps,
        record_behaviours,
    )
    from srpo_env.libero.recording import Recorded
    from srpo_env.libero.suites import check_suite_name

    suite = check_suite_name(args.suite)
    task_ids = chosen_tasks(suite, args.tasks)
    if args.workers < 1:
        raise ValueError(f"`--workers` must be at least 1, got {args.workers}")
    recording = BehaviourRecording(
        successes=args.successes,
        failures=args.failures,
        init_states=tuple(numbers(args.init_states, "--init-states")),
        max_steps=getattr(args, "max_steps", default_max_steps(suite)),
        image_size=args.image_size,
        visuals=getattr(args, "visuals", None),
        look=args.look,
        seed=args.seed,
    )
    assets = resolve_assets().kind
    record = functools.partial(
        record_behaviours,
        folder=args.out,
        recording=recording,
        suite=suite,
        overwrite=args.overwrite,
    )
    per_task = recording.successes + recording.failures
    recorded: list[Recorded] = []
    with tqdm(total=len(task_ids) * per_task, unit="episode") as bar:
        if args.workers == 1:
            for task_id in task_ids:
                recorded.append(record(task_id, progress=lambda _: bar.update()))
                bar.update(per_task * recorded[-1].skipped)
        else:
            # Spawned, because a simulator that renders does not survive a fork.
            with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
                for done in pool.imap_unordered(record, task_ids):
                    recorded.append(done)
                    bar.update(per_task)
    num_rejected = sum(done.num_rejected for done in recorded)
    print(
        f"{len(task_ids)} files in {args.out} ({assets} assets), {per_task} episodes each; "
        f"rejected because they did not end as intended: {num_rejected}"
    )
    return 0
