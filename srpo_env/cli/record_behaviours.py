"""Records episodes of many kinds, with true progress: for world models and for judging rewards.

The expert succeeds in several ways; failures stop short at every stage, miss, drop, take another
object, or move at random. One HDF5 file per task and set of assets (LIBERO's or the stand-ins,
whichever is in use), so both can go to one folder. A file that is there is complete; run the
command again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from pathlib import Path

from tqdm import tqdm

from srpo_env.cli.demos import numbers
from srpo_env.libero.assets import resolve_assets
from srpo_env.libero.behaviour_recording import (
    SUITE,
    BehaviourRecording,
    RecordedBehaviours,
    record_behaviours,
)
from srpo_env.libero.suites import get_task, tasks_of

DEFAULTS = BehaviourRecording()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to record, and where to."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("episodes"), help="folder for the files")
    parser.add_argument(
        "--tasks", default="all", help="tasks of libero_object, as in 0-4,7; or all"
    )
    parser.add_argument(
        "--successes", type=int, default=DEFAULTS.successes, help="of each task, over all kinds"
    )
    parser.add_argument(
        "--failures", type=int, default=DEFAULTS.failures, help="of each task, over all kinds"
    )
    parser.add_argument(
        "--init-states",
        default=f"{DEFAULTS.init_states[0]}-{DEFAULTS.init_states[-1]}",
        help="initial states to start from, as in 0-39; evaluation keeps 40-49 for itself",
    )
    parser.add_argument(
        "--max-steps",
        type=int,
        default=DEFAULTS.max_steps,
        help="control steps after which a failure is cut off; LIBERO's limit is 280",
    )
    parser.add_argument("--image-size", type=int, default=DEFAULTS.image_size, help="pixels")
    parser.add_argument(
        "--visuals",
        choices=["exact", "fast"],
        default=argparse.SUPPRESS,
        help="LIBERO's images to the pixel, or ten times as fast (default: what suits here)",
    )
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="of all that is drawn")
    parser.add_argument("--workers", type=int, default=1, help="tasks that are recorded at a time")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files recorded with other settings"
    )


def run(args: argparse.Namespace) -> int:
    """Records the tasks, with a progress bar."""
    every_task = range(len(tasks_of(SUITE)))
    task_ids = list(every_task) if args.tasks == "all" else numbers(args.tasks, "--tasks")
    for task_id in task_ids:
        get_task(SUITE, task_id)  # so that a wrong one is known before hours of recording
    if args.workers < 1:
        raise ValueError(f"`--workers` must be at least 1, got {args.workers}")
    recording = BehaviourRecording(
        successes=args.successes,
        failures=args.failures,
        init_states=tuple(numbers(args.init_states, "--init-states")),
        max_steps=args.max_steps,
        image_size=args.image_size,
        visuals=getattr(args, "visuals", None),
        seed=args.seed,
    )
    assets = resolve_assets().kind
    record = functools.partial(
        record_behaviours, folder=args.out, recording=recording, overwrite=args.overwrite
    )
    per_task = recording.successes + recording.failures
    recorded: list[RecordedBehaviours] = []
    with tqdm(total=len(task_ids) * per_task, unit="episode") as bar:
        if args.workers == 1:
            for task_id in task_ids:
                recorded.append(record(task_id, progress=lambda _: bar.update()))
                bar.update(per_task * recorded[-1].skipped)
        else:
            # Spawned: a simulator that renders does not survive a fork.
            with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
                for done in pool.imap_unordered(record, task_ids):
                    recorded.append(done)
                    bar.update(per_task)
    rejected = sum(done.rejected for done in recorded)
    print(
        f"{len(task_ids)} files in {args.out} ({assets} assets), {per_task} episodes each; "
        f"ended otherwise than meant, not stored: {rejected}"
    )
    return 0
