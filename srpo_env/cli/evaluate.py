"""Measures a policy's success rate on LIBERO, from initial states that training does not use."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from srpo_env.cli.demos import add_look_argument, numbers
from srpo_env.cli.output_files import check_image_file, check_output_file
from srpo_env.training.evaluation import (
    Act,
    Evaluation,
    check_initial_states,
    evaluate,
    held_out_episodes,
)
from srpo_env.training.report import ASSETS

if TYPE_CHECKING:
    from srpo_env.policy import Policy
    from srpo_env.training.perturbed_evaluation import Cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``srpo-env evaluate``."""
    parser.add_argument(
        "--checkpoint",
        "--policy",
        default="libero-object",
        help="path of a policy, name of a bundled one, folder or Hugging Face id of a published "
        "OpenVLA-OFT, or lerobot:PATH, a folder or Hugging Face id of a policy of lerobot "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="name of an observation in a policy of lerobot, as in "
        "observation.images.image=observation.images.camera1; may be given several times",
    )
    parser.add_argument(
        "--suite",
        "--env",
        default="libero-object",
        help="LIBERO suite, or MODULE:NAME of a suite of your own that the module registers "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=100,
        help="number of episodes, spread evenly over the tasks (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="sampling temperature; 0 (default): greedy"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--num-envs", type=int, default=16, help="number of environments (default: %(default)s)"
    )
    parser.add_argument(
        "--num-workers", type=int, help="number of simulator processes (default: one per CPU core)"
    )
    parser.add_argument(
        "--physics",
        choices=("exact", "fast"),
        default="exact",
        help="fast: equal to LIBERO's up to 1e-9 per control step (default: %(default)s)",
    )
    parser.add_argument(
        "--fixtures",
        choices=("fixed", "random"),
        default="fixed",
        help="random: cabinets, stoves and racks stand somewhere else in each episode, as in "
        "LIBERO's own evaluations; where, depends on --seed and --num-envs (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device of the policy; auto (default): cuda if available",
    )
    add_look_argument(parser)
    parser.add_argument("--json", type=Path, help="file to write the result of each episode to")
    parser.add_argument(
        "--perturbations",
        metavar="DIMENSIONS",
        help="all, or some of camera,robot,language,light,background,noise,layout: the same "
        "episodes without a perturbation and under each, at each level of --severity",
    )
    parser.add_argument(
        "--severity",
        default="1..5",
        metavar="LEVELS",
        help="levels of the perturbations, such as 1..5, 3 or 1,3,5 (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/perturbations"),
        help="folder of evaluation.json, table.txt and picture.png with --perturbations; an "
        "interrupted evaluation continues there (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the episodes and prints a table, one line per task."""
    from srpo_env.libero.suites import check_suite_name, get_suite, tasks_of
    from srpo_env.libero.vector import LiberoVectorEnv
    from srpo_env.registration import import_suite
    from srpo_env.training.progress_bar import count_on, long_bar
    from srpo_env.training.settings import torch_device

    device = torch_device(args.device)
    if args.json is not None:
        check_output_file(args.json)  # before minutes of evaluation
    cells = None
    if args.perturbations is not None:
        cells = _cells(args)
        if args.fixtures == "random":
            raise ValueError(
                "`--fixtures random` is for evaluations without `--perturbations`, which compare "
                "episodes from the same places: leave one of them out"
            )
        if args.json is not None:
            raise ValueError("`--json` is for evaluations without `--perturbations`: use `--out`")
        check_image_file(args.out / "picture.png")
    suite = check_suite_name(import_suite(args.suite))
    check_initial_states(get_suite(suite))
    make_actor, env_settings = _load(args, device)
    episodes = held_out_episodes(len(tasks_of(suite)), args.episodes)
    envs = LiberoVectorEnv(
        suite,
        min(args.num_envs, len(episodes)),
        num_workers=args.num_workers,
        autoreset_mode=AutoresetMode.DISABLED,
        physics=args.physics,
        fixtures=args.fixtures,
        look=args.look,
        **env_settings,
    )
    try:
        if cells is not None:
            return _run_perturbed(args, envs, make_actor, cells, episodes)
        with long_bar("evaluating", "episode", total=len(episodes)) as bar:
            result = evaluate(make_actor(), envs, episodes, on_step=count_on(bar), seed=args.seed)
        conditions = {**envs.conditions, "gl": envs.gl}
    finally:
        envs.close()
    kind: str = envs.assets
    print(_table(suite, result))
    seen = f"look={conditions['look']}, visuals={conditions['visuals']}"
    print(f"\n{args.checkpoint} on {suite}, {ASSETS[kind]}, {seen}: {result} episodes")
    if kind != "libero":
        print(f"Results on {ASSETS[kind]} are not LIBERO results.")
    if args.json is not None:
        _write_json(args, suite, conditions, result)
    return 0


def _cells(args: argparse.Namespace) -> list[Cell]:
    from srpo_env.libero.perturbations import DIMENSIONS
    from srpo_env.training.perturbed_evaluation import cells_of

    names = args.perturbations.split(",")
    names = list(DIMENSIONS) if names == ["all"] else [name.strip() for name in names]
    return cells_of(names, numbers(args.severity.replace("..", "-"), "--severity"))


def _in_two_lines(title: str) -> str:
    """Returns a title that fits above a picture: a long path keeps its last three parts."""
    checkpoint, _, rest = title.partition(" on ")
    parts = Path(checkpoint).parts
    name = checkpoint if len(parts) <= 3 else "/".join(("...", *parts[-3:]))
    return f"{name}\non {rest}"


def _run_perturbed(
    args: argparse.Namespace,
    envs: Any,
    make_actor: Callable[[], Act],
    cells: Sequence[Cell],
    episodes: Sequence[tuple[int, int]],
) -> int:
    """Evaluates all cells, prints the table and writes the files."""
    from srpo_env.policy.checkpoint import resolve_checkpoint
    from srpo_env.system.files import sha256_of
    from srpo_env.training.perturbation_report import draw, table
    from srpo_env.training.perturbed_evaluation import PerturbedEvaluation
    from srpo_env.training.progress_bar import count_on, long_bar

    weights = resolve_checkpoint(args.checkpoint)
    settings = {
        "weights": sha256_of(weights.with_name(f"{weights.name}.safetensors")),
        "suite": envs.suite,
        "episodes": len(episodes),
        "num_envs": envs.num_envs,
        "temperature": args.temperature,
        "seed": args.seed,
        **envs.conditions,
        "gl": envs.gl,
    }
    evaluation = PerturbedEvaluation.start(args.out / "evaluation.json", settings)
    total = len(cells) * len(episodes)
    with long_bar("evaluating", "episode", total=total) as bar:
        evaluation.run(
            cells,
            episodes,
            envs,
            make_actor,
            args.seed,
            count_on(bar),
        )
    results = {cell: evaluation.results[cell] for cell in cells}
    seen = f"look={envs.conditions['look']}, visuals={envs.conditions['visuals']}"
    title = f"{args.checkpoint} on {envs.suite}, {ASSETS[envs.assets]}, {seen}"
    text = (
        f"{title}, {len(episodes)} episodes in each cell\n\n{table(results)}\n\n"
        "Perturbations of srpo-env; these are not LIBERO-Plus scores."
    )
    print(text)
    (args.out / "table.txt").write_text(text + "\n")
    draw(results, _in_two_lines(title)).savefig(args.out / "picture.png")
    print(f"\nevaluation.json, table.txt and picture.png written to {args.out}")
    return 0


LEROBOT = "lerobot:"
"""Start of the name of a policy of lerobot."""


def _load(args: argparse.Namespace, device: Any) -> tuple[Callable[[], Act], dict[str, Any]]:
    """Loads the policy; returns what makes it a function, and its settings of environments."""
    if args.temperature < 0:
        raise ValueError(f"`temperature` must not be negative, got {args.temperature}")
    path: str = args.checkpoint
    if not path.startswith(LEROBOT):
        from srpo_env.policy import load_policy
        from srpo_env.policy.checkpoint import warn_about_look

        if args.rename:
            raise ValueError(f"--rename is for policies of lerobot, got the policy {path!r}")
        policy = load_policy(path).to(device)
        warn_about_look(path, args.look)
        return lambda: _Actor(policy, args.temperature, args.seed), policy.env_settings
    import torch

    from srpo_env.adapters.lerobot_policy import LerobotPolicy

    if args.perturbations is not None:
        raise ValueError(f"--perturbations is for policies of srpo-env, got {path!r}")
    if args.temperature:
        raise ValueError(
            f"a policy of lerobot has no temperature: leave out --temperature, got "
            f"{args.temperature}"
        )
    pairs = [pair.partition("=") for pair in args.rename]
    if any(not (ours and theirs) for ours, _, theirs in pairs):
        raise ValueError(f"--rename must be OURS=THEIRS, got {args.rename}")
    torch.manual_seed(args.seed)  # policies of lerobot draw from torch's global generator
    lerobot = LerobotPolicy(
        path.removeprefix(LEROBOT), rename={ours: theirs for ours, _, theirs in pairs}
    )
    return lambda: lerobot.act, {"chunk": lerobot.chunk, "image_size": lerobot.image_size}


class _Actor:
    """Acts greedily at temperature 0, and samples otherwise."""

    def __init__(self, policy: Policy, temperature: float, seed: int) -> None:
        import torch

        self._policy, self._temperature = policy, temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, observations: dict[str, npt.NDArray[Any]], instructions: list[str]
    ) -> npt.NDArray[np.float32]:
        if self._temperature == 0:
            return self._policy.act(observations, instructions)
        inputs = self._policy.prepare(observations, instructions)
        tokens, _ = self._policy.sample(inputs, self._temperature, self._generator)
        return self._policy.actions(tokens)


def _table(suite: str, result: Evaluation) -> str:
    from srpo_env.libero.suites import tasks_of

    tasks = tasks_of(suite)
    lines = [
        f"{task_id:2}  {part.num_successes:3}/{len(part.episodes):<3}  {tasks[task_id].instruction}"
        for task_id, part in result.by_task().items()
    ]
    return "\n".join(lines)


def _write_json(
    args: argparse.Namespace, suite: str, conditions: dict[str, str], result: Evaluation
) -> None:
    content = {
        "checkpoint": str(args.checkpoint),
        "suite": suite,
        **conditions,
        "temperature": args.temperature,
        "seed": args.seed,
        "success_rate": result.success_rate,
        "wilson_95": result.interval,
        "episodes": [asdict(episode) for episode in result.episodes],
    }
    args.json.write_text(json.dumps(content, indent=2) + "\n")
