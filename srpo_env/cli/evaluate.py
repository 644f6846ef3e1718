"""Measures a policy's success rate on LIBERO, from initial states that training does not use."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from srpo_env.cli.demos import add_look_argument
from srpo_env.cli.output_files import check_output_file
from srpo_env.training.evaluation import (
    Evaluation,
    check_initial_states,
    evaluate,
    held_out_episodes,
)
from srpo_env.training.report import ASSETS

if TYPE_CHECKING:
    from srpo_env.policy import Policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``srpo-env evaluate``."""
    parser.add_argument(
        "--checkpoint",
        default="libero-object",
        help="path of a policy, name of a bundled one, or folder or Hugging Face id of a published "
        "OpenVLA-OFT (default: %(default)s)",
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
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the sampling (default: %(default)s)"
    )
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
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device of the policy; auto (default): cuda if available",
    )
    add_look_argument(parser)
    parser.add_argument("--json", type=Path, help="file to write the result of each episode to")


def run(args: argparse.Namespace) -> int:
    """Runs the episodes and prints a table, one line per task."""
    from srpo_env.libero.suites import check_suite_name, get_suite, tasks_of
    from srpo_env.libero.vector import LiberoVectorEnv
    from srpo_env.policy import load_policy
    from srpo_env.policy.checkpoint import warn_about_look
    from srpo_env.registration import import_suite
    from srpo_env.training.progress_bar import count_on, long_bar
    from srpo_env.training.settings import torch_device

    device = torch_device(args.device)
    if args.json is not None:
        check_output_file(args.json)  # before minutes of evaluation
    suite = check_suite_name(import_suite(args.suite))
    check_initial_states(get_suite(suite))
    policy = load_policy(args.checkpoint).to(device)
    warn_about_look(args.checkpoint, args.look)
    episodes = held_out_episodes(len(tasks_of(suite)), args.episodes)
    actor = _Actor(policy, args.temperature, args.seed)
    envs = LiberoVectorEnv(
        suite,
        min(args.num_envs, len(episodes)),
        num_workers=args.num_workers,
        autoreset_mode=AutoresetMode.DISABLED,
        physics=args.physics,
        look=args.look,
        **policy.env_settings,
    )
    try:
        with long_bar("evaluating", "episode", total=len(episodes)) as bar:
            result = evaluate(actor, envs, episodes, on_step=count_on(bar))
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


class _Actor:
    """Acts greedily at temperature 0, and samples otherwise."""

    def __init__(self, policy: Policy, temperature: float, seed: int) -> None:
        import torch

        if temperature < 0:
            raise ValueError(f"`temperature` must not be negative, got {temperature}")
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
