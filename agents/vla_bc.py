"""Behaviour cloning of a vision-language-action policy in one file.

The supervised warm start of SRPO (https://arxiv.org/abs/2511.15605v2): the policy imitates a few
demonstrations per task, and `agents/vla_grpo.py` continues with reinforcement learning.
Demonstrations are HDF5 files in LIBERO's format: LIBERO's own, or recorded by `srpo-env demos`.

    srpo-env demos --out demos --demos-per-task 4 --noise 0.2
    python agents/vla_bc.py --demos demos --demos-per-task 4
    python agents/vla_bc.py --demos demos --checkpoint policies/smolvlm    # another policy
    python agents/vla_bc.py --resume runs/NAME               # continue a run

Metrics (also in TensorBoard and in runs/NAME/history.jsonl):

* ``losses/cross_entropy``: cross-entropy of the action tokens with soft labels, nats per token;
* ``losses/waypoint_error``: error of the predicted grasp and release positions, metres, of the
  small policy;
* ``charts/learning_rate``, ``charts/frames_per_second``;
* ``eval/success_rate``, ``eval/task_N``: greedy, on initial states 40-49, which training must not
  use.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode

import srpo_env
from srpo_env.cli.main import closed_output_ends_the_program, errors_as_sentences
from srpo_env.libero.demos import read_demos
from srpo_env.policy import Policy, SmallPolicy, load_policy
from srpo_env.policy.cloning import ClonedFrames
from srpo_env.training.evaluation import Evaluation, evaluate, held_out_episodes
from srpo_env.training.gradients import clip_gradients
from srpo_env.training.held_out import log_evaluation
from srpo_env.training.progress_bar import count_on, long_bar
from srpo_env.training.run import TrainingRun
from srpo_env.training.settings import SuiteSettings

LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Args(SuiteSettings):
    """Behaviour cloning of a vision-language-action policy."""

    fixed = (
        "gym_id", "look", "checkpoint", "demos", "demos_per_task", "seed", "steps", "learning_rate"
    )  # fmt: skip

    checkpoint: str | None = None
    """initial policy, as of `srpo-env prepare-policy`; None: a small policy with random weights"""

    demos: tuple[Path, ...] = (Path("demos"),)
    """files or folders with demonstrations"""
    demos_per_task: int | None = None
    """number of demonstrations to use of each file, from its start; None: all"""
    exp_name: str = "vla_bc"  # part of the run's name

    steps: int = 2000  # number of gradient steps
    batch_size: int = 48  # frames per gradient step
    learning_rate: float = 1.5e-3  # maximum of AdamW's one-cycle schedule
    weight_decay: float = 0.01  # weight decay of AdamW
    label_width: float = 1.5
    """standard deviation of the soft action labels, in bins of 1/127; larger explores more"""
    stride: int = 2  # every stride-th control step of a demonstration is a training frame
    shift: int = 2  # augmentation: maximum shift of images in pixels
    jitter: float = 0.3
    """augmentation: maximum relative change of brightness, contrast and colours"""
    max_grad_norm: float = 1.0  # maximum norm of the gradient
    save_every: int = 250  # gradient steps between checkpoints

    eval_episodes: int = 100
    """held-out episodes at the end, spread evenly over the tasks; 0: no evaluation"""
    num_envs: int = 16  # number of environments of the evaluation

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        self.check_numbers({"weight_decay": 0, "shift": 0, "jitter": 0, "eval_episodes": 0})


def held_out(policy: Policy, envs: Any, episodes: list[tuple[int, int]]) -> Evaluation:
    """Evaluates the policy on initial states that training does not use."""
    with long_bar("held-out", "episode", total=len(episodes)) as bar:
        return evaluate(policy.act, envs, episodes, on_step=count_on(bar))


def provenance(args: Args, frames: ClonedFrames) -> dict[str, Any]:
    """Describes how the policy was trained, for its checkpoint."""
    return {
        "agent": "vla_bc",
        "srpo_env": srpo_env.__version__,
        "torch": torch.__version__,
        "args": args.as_json(full_paths=False),
        "steps": args.steps,
        "frames": len(frames),
        "demonstrations": dict(frames.demos),
        "conditions": {"look": args.look},
    }


def main(args: Args) -> Path:
    """Trains a policy from demonstrations and evaluates it; returns the path of its checkpoint."""
    # --- Setup: policy, demonstrations, optimizer, the run with its log and checkpoints ---
    with errors_as_sentences("vla_bc.py"), ExitStack() as exits:
        device = args.set_up_torch()
        policy = load_policy(args.checkpoint) if args.checkpoint else SmallPolicy()
        policy.to(device)
        demos = read_demos(
            args.demos, demos_per_task=args.demos_per_task, look=args.look, only_successes=True
        )
        frames = ClonedFrames.from_demos(long_bar("reading", "demo", demos), policy, args.stride)
        optimizer = torch.optim.AdamW(
            policy.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1
        )
        generator = torch.Generator().manual_seed(args.seed)
        envs: Any = None
        episodes: list[tuple[int, int]] = []
        if args.eval_episodes:  # before the training, so that nothing is missing after it
            envs = gymnasium.make_vec(
                args.gym_id, num_envs=args.num_envs, autoreset_mode=AutoresetMode.DISABLED,
                look=args.look, **policy.env_settings,
            )  # fmt: skip
            exits.enter_context(closing(envs))
            episodes = held_out_episodes(envs.num_tasks, args.eval_episodes)
        run = TrainingRun(
            "vla_bc", f"{args.suite}__{args.exp_name}__{args.seed}", args,
            parts={"optimizer": optimizer, "schedule": schedule, "generator": generator},
            policy=policy, conditions={"demonstrations": dict(frames.demos), "look": args.look},
            machine=None if envs is None else {"gl": envs.gl},
        )  # fmt: skip
        exits = exits.pop_all()
    print(
        f"{sum(frames.demos.values())} demonstrations of {len(frames.demos)} tasks, "
        f"{len(frames)} frames",
        flush=True,
    )
    started, first = time.monotonic(), run.iteration
    with exits, run, long_bar("cloning", "step", total=args.steps, initial=first) as bar:
        # --- Training ---
        while run.iteration < args.steps:
            run.safe_point()
            rows = torch.randint(len(frames), (args.batch_size,), generator=generator)
            batch = frames.select(rows, device)
            batch.inputs = policy.augment(batch.inputs, generator, args.shift, args.jitter)
            loss, parts = policy.imitation_loss(batch, args.label_width)
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(policy.parameters(), args.max_grad_norm)
            optimizer.step()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            run.count(iteration=1)
            bar.update()
            if run.iteration % LOG_EVERY == 0 or run.iteration == args.steps:
                done = (run.iteration - first) * args.batch_size
                values = {f"losses/{name}": float(value) for name, value in parts.items()}
                values["charts/learning_rate"] = rate
                values["charts/frames_per_second"] = done / (time.monotonic() - started)
                run.write(values)
                bar.set_postfix({name: f"{float(value):.2f}" for name, value in parts.items()})
            if run.iteration % args.save_every == 0 or run.iteration == args.steps:
                run.save(keep=run.iteration == args.steps)
        bar.close()
        # --- The policy, and its evaluation ---
        checkpoint, story = run.folder / "policy", provenance(args, frames)
        policy.save(checkpoint, story)
        print(f"The policy is in {checkpoint}", flush=True)
        if envs is not None:
            result = held_out(policy, envs, episodes)
            log_evaluation(run, result)
            by_task = result.counts_by_task()
            policy.save(checkpoint, story | {"held_out": str(result), "held_out_by_task": by_task})
    return checkpoint


if __name__ == "__main__":
    with closed_output_ends_the_program():
        main(Args.parse())
