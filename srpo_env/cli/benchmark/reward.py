"""Measures how well progress rewards rank failures, against the simulator's progress (the oracle).

Records scripted episodes (successes and failures of many kinds) and episodes of a policy, in groups
as in training. Encodes them with every encoder, and compares the failures' distances from the
successes with their oracle progress. Episodes and latents are cached in the folder, so a second run
is fast.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo_env.benchmarks.plain_data import to_json
from srpo_env.benchmarks.reward.distance_options import OPTIONS
from srpo_env.benchmarks.reward.encoder_rows import BASELINES, bundled_checkpoints, make_rows
from srpo_env.cli.demos import (
    add_look_argument,
    add_max_steps_argument,
    add_suite_argument,
    chosen_tasks,
    numbers,
)
from srpo_env.cli.output_files import check_image_file
from srpo_env.encoders.named import HELP

if TYPE_CHECKING:
    from tqdm import tqdm

SIZES = {"full": (70, 45, "40-49"), "small": (9, 18, "40-42")}
"""Number of scripted successes and of failures per task, and initial states, which training never
uses; from each of them, a policy plays eight episodes."""

SETS = ("scripted", "policy", "strategies")
"""Sets of episodes; the last one is used to count clusters of successes."""

OBJECT_ONLY = {"--sets": "strategies", "--encoder": "state"}
"""Choices that exist for libero_object only: another height of the carried object, and positions
relative to the basket."""

STRATEGIES_STATE, STRATEGIES_EPISODES = 45, 16
"""Initial state of the last set, and its number of episodes per task, half for each strategy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        [
            "encoders that need no training:",
            *(f"  {name:18} {description}" for name, description in BASELINES.items()),
            "",
            "options for the distance from the successes:",
            *(f"  {name:18} {option.description}" for name, option in OPTIONS.items()),
        ]
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/reward"),
        help="folder of episodes, latents, figures.json, table.txt and picture.png "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--episodes",
        type=Path,
        help="folder that `srpo-env record-behaviours` recorded (default: record episodes)",
    )
    add_suite_argument(parser)
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=SETS,
        help="what to record (default: all in libero_object, else scripted, and policy with "
        "--policy)",
    )
    parser.add_argument(
        "--policy",
        help="path of a checkpoint, or name of a bundled one (default: libero-object in its suite)",
    )
    parser.add_argument(
        "--encoder",
        action="append",
        metavar="NAME",
        help=f"one of those below, or {HELP}; may be repeated (default: all below and all bundled; "
        "state in libero_object only)",
    )
    parser.add_argument(
        "--options",
        nargs="+",
        choices=OPTIONS,
        default=list(OPTIONS),
        help="default: all",
    )
    parser.add_argument(
        "--all-centers",
        nargs="*",
        choices=OPTIONS,
        default=["mean"],
        help="options that are measured with DBSCAN's centers, with the nearest success and with "
        "the mean success (default: mean); the others use DBSCAN's centers only",
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="full",
        help="number of recorded episodes; full: 700 scripted successes, 450 scripted failures and "
        "800 episodes of a policy; small: 90, 180 and 240 (default: %(default)s)",
    )
    add_max_steps_argument(parser)
    parser.add_argument("--tasks", default="all", help="tasks to record, such as 0-4,7, or all")
    parser.add_argument(
        "--windows",
        type=int,
        default=10,
        help="windows of a progress curve (default: %(default)s)",
    )
    add_look_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Records episodes, measures, prints the tables and writes the files."""
    from tqdm import tqdm

    from srpo_env.benchmarks.reward.benchmark import Settings, measure, num_measurements
    from srpo_env.benchmarks.reward.report import draw, tables
    from srpo_env.benchmarks.reward.strategy_clusters import strategies_table
    from srpo_env.libero.assets import asset_warnings_silenced
    from srpo_env.libero.suites import check_suite_name

    args.suite = check_suite_name(args.suite)
    names = _encoders(args)
    sets_to_record = _sets(args)
    picture = args.out / "picture.png"
    check_image_file(picture)  # before hours of recording
    results = {}
    with asset_warnings_silenced():
        sets = (
            {"given": _existing(args.episodes)}
            if args.episodes
            else {name: _recorded(name, args) for name in sets_to_record if name != "strategies"}
        )
        for name, files in sets.items():
            settings = Settings(
                files=tuple(files),
                cache=args.out / "latents",
                encoders=tuple(names),
                options=tuple(args.options),
                all_centers=tuple(option for option in args.all_centers if option in args.options),
                num_windows=args.windows,
            )
            total = num_measurements(settings)
            with tqdm(total=total, desc=f"measuring, {name}", disable=None) as bar:
                results[name] = measure(settings, functools.partial(_report, bar))
        clusters = []
        if "strategies" in sets_to_record and not args.episodes:
            clusters = _clusters(_recorded("strategies", args), names, args.out / "latents")
    text = "\n\n".join([tables(results), *([strategies_table(clusters)] if clusters else [])])
    print(f"\n{text}")
    (args.out / "figures.json").write_text(to_json({**results, "strategies": clusters}))
    (args.out / "table.txt").write_text(text + "\n")
    if results:
        draw(results).savefig(picture)
    print(f"\nfigures.json, table.txt and picture.png written to {args.out}")
    return 0


def _encoders(args: argparse.Namespace) -> list[str]:
    """Returns the names of the encoders to measure.

    Raises:
        ValueError: If the suite has no such row.
    """
    from srpo_env.libero.behaviour_recording import SUITE

    if args.encoder is None:
        names = [*BASELINES, *bundled_checkpoints()]
        return [name for name in names if args.suite == SUITE or name != OBJECT_ONLY["--encoder"]]
    names = list(args.encoder)
    _check_suite_has("--encoder", names, args.suite)
    return names


def _sets(args: argparse.Namespace) -> list[str]:
    """Returns the names of the sets to record.

    Raises:
        ValueError: If the suite has no such set, or a set of a policy's episodes lacks the policy.
    """
    from srpo_env.libero.behaviour_recording import SUITE

    if args.suite == SUITE:
        return args.sets or list(SETS)
    names = args.sets or ["scripted", *(["policy"] if args.policy else [])]
    _check_suite_has("--sets", names, args.suite)
    if "policy" in names and args.policy is None:
        raise ValueError(f"`--policy` must name a policy for {args.suite}, got none")
    return list(names)


def _check_suite_has(option: str, names: list[str], suite: str) -> None:
    from srpo_env.libero.behaviour_recording import SUITE

    if suite != SUITE and OBJECT_ONLY[option] in names:
        raise ValueError(f"`{option} {OBJECT_ONLY[option]}` needs --suite {SUITE}, got {suite}")


def _clusters(files: list[Path], names: list[str], cache: Path) -> list[dict[str, Any]]:
    from tqdm import tqdm

    from srpo_env.benchmarks.reward.strategy_clusters import measure_strategies

    with tqdm(total=len(files) * len(names), desc="counting clusters", disable=None) as bar:
        return measure_strategies(files, make_rows(names), cache, functools.partial(_report, bar))


def _report(bar: tqdm, step: str) -> None:
    bar.set_postfix_str(step)
    bar.update()


def _existing(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.hdf5")) if folder.is_dir() else [folder]
    if not files or not files[0].is_file():
        raise FileNotFoundError(
            f"`--episodes` must be a folder with *.hdf5 files, got {str(folder)!r}: record them "
            "with `srpo-env record-behaviours`"
        )
    return files


def _recorded(name: str, args: argparse.Namespace) -> list[Path]:
    """Records the missing files of a set; each size has its own folder."""
    from tqdm import tqdm

    from srpo_env.benchmarks.reward.policy_episodes import PolicyRecording, record_policy
    from srpo_env.benchmarks.reward.strategy_clusters import ONE_STRATEGY, OTHER_STRATEGY
    from srpo_env.libero.behaviour_recording import (
        SUITE,
        BehaviourRecording,
        default_max_steps,
        record_behaviours,
    )

    max_steps = getattr(args, "max_steps", default_max_steps(args.suite))
    successes, failures, init_states = SIZES[args.size]
    states = tuple(numbers(init_states, "init states"))
    scripted = BehaviourRecording(
        successes=successes,
        failures=failures,
        init_states=states,
        max_steps=max_steps,
        look=args.look,
    )
    policy = PolicyRecording(
        policy=args.policy or "libero-object",
        init_states=states,
        max_steps=max_steps,
        look=args.look,
    )
    strategies = BehaviourRecording(
        successes=STRATEGIES_EPISODES,
        failures=0,
        init_states=(STRATEGIES_STATE,),
        success_kinds=(ONE_STRATEGY, OTHER_STRATEGY),
        max_steps=max_steps,
        look=args.look,
    )
    per_task = {
        "scripted": successes + failures,
        "policy": policy.per_state * len(states),
        "strategies": STRATEGIES_EPISODES,
    }[name]
    task_ids = chosen_tasks(args.suite, args.tasks)
    size = "" if name == "strategies" else f"-{args.size}"
    suite = "" if args.suite == SUITE else f"-{args.suite}"
    folder = args.out / f"episodes-{name}{size}{suite}"
    files = []
    total = len(task_ids) * per_task
    with tqdm(total=total, desc=f"recording, {name}", unit="episode", disable=None) as bar:
        for number, task_id in enumerate(task_ids, start=1):
            if name != "policy":
                recording = scripted if name == "scripted" else strategies
                done = record_behaviours(
                    task_id,
                    folder,
                    recording,
                    suite=args.suite,
                    progress=lambda _: bar.update(),
                )
                files.append(done.file)
            else:
                files.append(
                    record_policy(
                        task_id,
                        folder,
                        policy,
                        suite=args.suite,
                        progress=lambda _: bar.update(),
                    )
                )
            bar.update(number * per_task - bar.n)  # counts the episodes of an existing file
    return files
