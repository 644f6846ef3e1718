"""Records demonstrations of the scripted experts in LIBERO's HDF5 layout, one file per task.

An existing file is always complete. After an interruption, run the same command again: files that
were recorded with the same settings are kept.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the output folder and the settings of the recording."""
    add_recording_arguments(parser, out="demos")
    add_suite_argument(parser)
    parser.add_argument(
        "--demos-per-task",
        type=int,
        default=5,
        help="number of successful episodes per task",
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="standard deviation of the noise on executed actions, for more robust policies; "
        "`actions` holds the expert's actions without noise, `executed_actions` those with noise",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="folder for an MP4 video of each demonstration",
    )


def add_max_steps_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max-steps``; the namespace has none if it is not given, see `default_max_steps`."""
    parser.add_argument(
        "--max-steps",
        type=int,
        default=argparse.SUPPRESS,
        help="control steps after which a failure is truncated (default: 160 in libero_object, "
        "else LIBERO's limit of the suite)",
    )


def add_suite_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--suite``, which can be written as ``--env`` as in the agents."""
    parser.add_argument(
        "--suite",
        "--env",
        default="libero_object",
        help="libero_spatial, libero_object, libero_goal or libero_10",
    )


def add_recording_arguments(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Adds the arguments that all recording commands have."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--out", type=Path, default=Path(out), help="output folder")
    parser.add_argument("--tasks", default="all", help="task ids, for example 0-4,7; or all")
    parser.add_argument(
        "--init-states",
        default="0-39",
        help="initial states to start from, for example 0-39; 40-49 are reserved for evaluation",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=128,
        help="height and width of the images in pixels; 128 in LIBERO's files",
    )
    parser.add_argument(
        "--visuals",
        choices=["exact", "fast"],
        default=argparse.SUPPRESS,
        help="exact: LIBERO's meshes and textures; fast: decimated, ten times faster "
        "(default: exact where a GPU renders, else fast)",
    )
    add_look_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files recorded with other settings"
    )


def add_look_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--look``, which all commands have that render."""
    parser.add_argument(
        "--look",
        choices=("libero", "mujoco"),
        default="libero",
        help="colours of the images. libero: those of LIBERO's demonstrations; mujoco: those of "
        "the installed MuJoCo, darker since its version 3.3.3 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Records the tasks one after the other, with a progress bar."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from srpo_env.libero.demo_recording import DemoRecording, record_demos
    from srpo_env.libero.suites import check_suite_name, get_task

    suite = check_suite_name(args.suite)
    task_ids = chosen_tasks(suite, args.tasks)
    recording = DemoRecording(
        demos_per_task=args.demos_per_task,
        init_states=tuple(numbers(args.init_states, "--init-states")),
        noise=args.noise,
        image_size=args.image_size,
        visuals=getattr(args, "visuals", None),
        look=args.look,
        seed=args.seed,
    )
    videos: Path | None = getattr(args, "videos", None)
    if videos is not None:
        videos.mkdir(parents=True, exist_ok=True)
    num_failures = 0
    total = len(task_ids) * recording.demos_per_task
    with logging_redirect_tqdm(), tqdm(total=total, unit="demo") as bar:
        for task_id in task_ids:
            bar.set_description(get_task(suite, task_id).instruction.split(" and ")[0])
            recorded = record_demos(
                suite, task_id, args.out, recording, overwrite=args.overwrite, progress=bar.update
            )
            if recorded.skipped:
                bar.update(recorded.num_episodes)
            num_failures += recorded.num_rejected
            if videos is not None:
                write_videos(recorded.file, videos)
            bar.set_postfix(failures=num_failures)
    print(
        f"{len(task_ids)} files in {args.out}, {recording.demos_per_task} demonstrations each; "
        f"failed episodes, not stored: {num_failures}"
    )
    return 0


def write_videos(file: Path, folder: Path) -> None:
    """Writes a video of each demonstration of a file, ``<task>_demo_0.mp4``; cameras side by side.

    Raises:
        OSError: If a video cannot be written.
    """
    import numpy as np

    from srpo_env.libero.demos import FILE_ENDING, read_demos
    from srpo_env.libero.video import write_video

    for number, demo in enumerate(read_demos(file)):
        frames = np.concatenate(list(demo.images.values()), axis=2)
        name = file.name.removesuffix(FILE_ENDING)
        write_video(folder / f"{name}_demo_{number}.mp4", frames)


def chosen_tasks(suite: str, text: str) -> list[int]:
    """Returns the ids that ``--tasks`` names, after checking that they exist.

    Raises:
        ValueError: If the text is not a list of numbers, or there is no such task.
    """
    from srpo_env.libero.suites import get_task, tasks_of

    task_ids = list(range(len(tasks_of(suite)))) if text == "all" else numbers(text, "--tasks")
    for task_id in task_ids:
        get_task(suite, task_id)
    return task_ids


def numbers(text: str, option: str) -> list[int]:
    """Returns the numbers in a list such as ``0-4,7``, sorted and without repetitions.

    Raises:
        ValueError: If the text is not such a list.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ValueError(
                f"`{option}` must be numbers and ranges, for example 0-4,7, got {text!r}"
            )
        found.update(range(first, last + 1))
    return sorted(found)
