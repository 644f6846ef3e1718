"""Records demonstrations of the scripted expert in LIBERO's HDF5 layout, one file per task.

A file that is there is complete. Run the command again to go on after an interruption: files
recorded with the same settings are kept.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from srpo_env.libero.recording import Recording, record_task
from srpo_env.libero.suites import check_suite_name, get_task, tasks_of

DEFAULTS = Recording()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to record, and where to."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("demos"), help="folder for the files")
    parser.add_argument("--suite", default="libero_object", help="the expert knows libero_object")
    parser.add_argument("--tasks", default="all", help="task ids, as in 0-4,7; or all")
    parser.add_argument(
        "--demos-per-task", type=int, default=DEFAULTS.demos_per_task, help="successes to record"
    )
    parser.add_argument(
        "--init-states",
        default=f"{DEFAULTS.init_states[0]}-{DEFAULTS.init_states[-1]}",
        help="initial states to draw from, as in 0-39; evaluation keeps 40-49 for itself",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=DEFAULTS.noise,
        help="standard deviation of the noise on executed actions, for more robust policies; "
        "`actions` keeps what the expert wanted, `executed_actions` what was done",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=DEFAULTS.image_size,
        help="pixels; LIBERO's files have 128",
    )
    parser.add_argument(
        "--visuals",
        choices=["exact", "fast"],
        default=argparse.SUPPRESS,
        help="LIBERO's images to the pixel, or ten times as fast (default: what suits here)",
    )
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="of starts and noise")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files recorded with other settings"
    )


def run(args: argparse.Namespace) -> int:
    """Records the tasks one after the other, with a progress bar."""
    suite = check_suite_name(args.suite)
    if suite != "libero_object":
        raise ValueError(f"`--suite` must be libero_object, the one the expert knows, got {suite}")
    every_task = range(len(tasks_of(suite)))
    task_ids = list(every_task) if args.tasks == "all" else numbers(args.tasks, "--tasks")
    for task_id in task_ids:
        get_task(suite, task_id)  # so that a wrong one is known before hours of recording
    recording = Recording(
        demos_per_task=args.demos_per_task,
        init_states=tuple(numbers(args.init_states, "--init-states")),
        noise=args.noise,
        image_size=args.image_size,
        visuals=getattr(args, "visuals", None),
        seed=args.seed,
    )
    failures = 0
    total = len(task_ids) * recording.demos_per_task
    with logging_redirect_tqdm(), tqdm(total=total, unit="demo") as bar:
        for task_id in task_ids:
            bar.set_description(get_task(suite, task_id).instruction.split(" and ")[0])
            recorded = record_task(
                suite, task_id, args.out, recording, overwrite=args.overwrite, progress=bar.update
            )
            if recorded.skipped:
                bar.update(recorded.num_demos)
            failures += recorded.failures
            bar.set_postfix(failures=failures)
    print(
        f"{len(task_ids)} files in {args.out}, {recording.demos_per_task} demonstrations each; "
        f"failed episodes, not stored: {failures}"
    )
    return 0


def numbers(text: str, option: str) -> list[int]:
    """The numbers that ``0-4,7`` stands for, each once, in order.

    Raises:
        ValueError: If the text is something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(f"`{option}` must be numbers and ranges, as in 0-4,7, got {text!r}")
        found.update(range(first, last + 1))
    return sorted(found)
