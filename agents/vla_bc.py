"""Behaviour cloning of the small vision-language-action policy in one file.

The supervised warm start of SRPO (https://arxiv.org/abs/2511.15605v2): the policy learns from a
few demonstrations per task, and `agents/vla_grpo.py` goes on from there. Demonstrations are HDF5
files in LIBERO's layout: LIBERO's own, or those that `srpo-env demos` records.

    srpo-env demos --out demos --demos-per-task 4 --noise 0.2
    python agents/vla_bc.py --demos demos --demos-per-task 4

What is logged:

* ``loss/cross_entropy``: of the action tokens against soft labels, nats per token;
* ``loss/waypoint_error``: of the predicted grasp and release positions, metres;
* ``charts/learning_rate``, ``charts/frames_per_second``;
* ``eval/success_rate``: greedy, on initial states 40-49 of every task; do not train on those.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import nn
from tqdm import tqdm

import srpo_env
from srpo_env.libero.demos import read_demos
from srpo_env.policy import SmallPolicy
from srpo_env.policy.cloning import ClonedFrames, augment, cloning_loss
from srpo_env.training.evaluation import Evaluation, evaluate, held_out_episodes
from srpo_env.training.run_log import RunLog

LOG_EVERY = 20

# A bar for people; a line now and then for log files.
BAR_SECONDS = 0.2 if sys.stderr.isatty() else 30.0


@dataclass
class Args:
    """All settings of a run; ``--help`` prints this list."""

    demos: tuple[Path, ...] = (Path("demos"),)
    """files or folders of demonstrations; several are mixed"""
    demos_per_task: int | None = None
    """how many to use of each file, the first ones; default: all"""
    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "libero-object"
    """LIBERO suite that the policy is evaluated in"""
    seed: int = 1
    """of the weights, the batches and the augmentation"""

    steps: int = 2000
    """gradient steps"""
    batch_size: int = 48
    """frames per step"""
    learning_rate: float = 1.5e-3
    """highest of AdamW's one-cycle schedule"""
    weight_decay: float = 0.01
    """of AdamW"""
    label_width: float = 1.5
    """standard deviation of the action labels, in bins of 1/127; wider explores more"""
    stride: int = 2
    """every so many control steps of a demonstration is a frame to learn from"""
    shift: int = 2
    """augmentation: pixels by which images move"""
    jitter: float = 0.3
    """augmentation: relative change of brightness, contrast and colours"""
    max_grad_norm: float = 1.0
    """gradient norm is cut to this"""

    eval_episodes: int = 100
    """held-out episodes at the end, spread evenly over the tasks; 0 for none"""
    num_envs: int = 16
    """environments of the evaluation"""
    exp_name: str = "vla_bc"
    """first part of the run's name"""
    run_dir: str = "runs"
    """where the run's folder is made"""
    torch_threads: int = 2
    """threads of a gradient step"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one"""
    track: bool = False
    """send the curves to Weights & Biases too"""
    wandb_project_name: str = "srpo-env"
    """its project"""
    wandb_entity: str | None = None
    """its team"""

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        for name in ("steps", "batch_size", "num_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "label_width"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")

    @property
    def gym_id(self) -> str:
        """The environment's name in Gymnasium's registry."""
        return self.env_id if "/" in self.env_id else f"srpo_env/{self.env_id.replace('_', '-')}"

    def new_folder(self) -> Path:
        """Where a run that starts now writes to; no two runs share a folder."""
        env = self.gym_id.split("/")[-1]
        return Path(self.run_dir) / f"{env}__{self.exp_name}__{self.seed}__{int(time.time())}"


def train(policy: SmallPolicy, frames: ClonedFrames, args: Args, log: RunLog) -> int:
    """Clones the demonstrations; returns the steps done, fewer than asked for after Ctrl-C."""
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1
    )
    started = time.monotonic()
    step = 0
    progress = tqdm(total=args.steps, desc="cloning", unit="step", mininterval=BAR_SECONDS)
    try:
        for step in range(1, args.steps + 1):
            rows = torch.randint(len(frames), (args.batch_size,), generator=generator)
            batch = frames.select(rows)
            batch.inputs = augment(batch.inputs, generator, args.shift, args.jitter)
            loss, parts = cloning_loss(policy, batch, args.label_width)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optimizer.step()
            rate = schedule.get_last_lr()[0]
            schedule.step()
            progress.update()
            if step % LOG_EVERY == 0 or step == args.steps:
                speed = step * args.batch_size / (time.monotonic() - started)
                values = {f"loss/{name}": float(value) for name, value in parts.items()}
                values |= {"charts/learning_rate": float(rate), "charts/frames_per_second": speed}
                log.write({"step": step}, values, step)
                progress.set_postfix(
                    nats=f"{values['loss/cross_entropy']:.2f}",
                    waypoints=f"{100 * values['loss/waypoint_error']:.1f} cm",
                )
    except KeyboardInterrupt:
        step -= 1  # the one under way
        print(f"\nStopped after {step} of {args.steps} steps.")
    finally:
        progress.close()
    return step


def held_out(policy: SmallPolicy, args: Args) -> Evaluation:
    """Greedy success on initial states that are kept from training."""
    envs = gymnasium.make_vec(
        args.gym_id, num_envs=args.num_envs, autoreset_mode=AutoresetMode.DISABLED
    )
    try:
        episodes = held_out_episodes(envs.num_tasks, args.eval_episodes)
        with tqdm(
            total=len(episodes), desc="held-out", unit="episode", mininterval=BAR_SECONDS
        ) as progress:
            return evaluate(policy.act, envs, episodes, lambda _: progress.update())
    finally:
        envs.close()


def provenance(args: Args, frames: ClonedFrames, steps: int) -> dict[str, Any]:
    """How the policy came about, for its checkpoint."""
    return {
        "agent": "vla_bc",
        "srpo_env": srpo_env.__version__,
        "torch": torch.__version__,
        "args": json.loads(json.dumps(asdict(args), default=str)),
        "steps": steps,
        "frames": len(frames),
        "demonstrations": dict(frames.demos),
    }


def main(args: Args) -> None:
    """Trains a policy from demonstrations, writes its checkpoint and evaluates it."""
    # --- Setup: seeds, policy, demonstrations, logger ---
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = SmallPolicy().to(device)
    demos = read_demos(args.demos, demos_per_task=args.demos_per_task)
    demos = tqdm(demos, desc="reading", unit="demo", mininterval=BAR_SECONDS)
    frames = ClonedFrames.from_demos(demos, policy, args.stride)
    folder = args.new_folder()
    log = RunLog(folder, asdict(args), {"demonstrations": dict(frames.demos)})
    print(
        f"{folder}: {sum(frames.demos.values())} demonstrations "
        f"of {len(frames.demos)} tasks, {len(frames)} frames",
        flush=True,
    )
    # --- Training ---
    steps = train(policy, frames, args, log)
    story = provenance(args, frames, steps)
    checkpoint = folder / "policy"
    policy.save(checkpoint, story)
    print(f"checkpoint {checkpoint}", flush=True)
    # --- Evaluation; not of a run that was stopped ---
    if args.eval_episodes and steps == args.steps:
        result = held_out(policy, args)
        log.write({"step": steps}, {"eval/success_rate": result.success_rate}, steps)
        tasks = result.by_task().values()
        shares = " ".join(f"{task.num_successes}/{len(task.episodes)}" for task in tasks)
        print(f"held-out success {result} episodes; by task {shares}")
        policy.save(checkpoint, story | {"held_out": str(result), "held_out_by_task": shares})
    log.close()


if __name__ == "__main__":
    main(tyro.cli(Args))
