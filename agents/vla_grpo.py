"""SRPO for a vision-language-action policy in one file: roll out, score, update, imitate.

Paper: https://arxiv.org/abs/2511.15605v2; its equation numbers are used below.

    python agents/vla_grpo.py --env libero-object
    python agents/vla_grpo.py --reward binary         # failures earn 0; oracle: true progress
    torchrun --nproc-per-node 2 agents/vla_grpo.py    # two learners
    python agents/vla_grpo.py --resume runs/NAME      # continue a run

A group is eight episodes of one task from one initial state. Its failures are rewarded for how
close their video comes to the successes of the same group, each decision by the progress it made.
The policy also imitates its own successes. ``--credit episode --replay-steps 0 --correlation 0
--target-kl 1 --learning-rate 1.5e-4`` is the paper's algorithm, with other latents.

Metrics (also in TensorBoard and in runs/NAME/history.jsonl):

* ``rollout/...``: success rate and group statistics, see `srpo_env.rewards.diagnostics`;
* ``losses/...``: surrogate, KL per decision of the update (``kl``), with ``--kl-coef`` the KL per
  token to the reference policy, fraction of clipped tokens, entropy, loss of the imitation;
* ``eval/success_rate``, ``eval/task_N``: greedy, on initial states that are never trained on;
* ``charts/...``: control steps per second over the whole run, fraction of an iteration's time that
  encoding takes, learning rate, gradient steps of an update, and the fraction of them that it
  completed before ``--target-kl`` ended it, number of successes to imitate.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from srpo_env import Group, ProgressReward, SelfReferentialProgressWrapper, group_statistics
from srpo_env.cli.main import closed_output_ends_the_program, errors_as_sentences
from srpo_env.encoders.named import WORLD_MODEL
from srpo_env.encoders.timed import TimedEncoder
from srpo_env.policy import Policy, ReferencePolicy, load_policy
from srpo_env.policy.checkpoint import warn_about_look
from srpo_env.rewards.diagnostics import has_signal
from srpo_env.training.console import print_iteration
from srpo_env.training.credit import dense_advantages, encoder_for, rewarded
from srpo_env.training.decisions import Decider
from srpo_env.training.distributed import Ranks
from srpo_env.training.evaluation import TRAINING_STATES
from srpo_env.training.held_out import HeldOutEvaluation
from srpo_env.training.minibatches import SharedDecisions
from srpo_env.training.progress_bar import progress_bar, with_progress
from srpo_env.training.replay import replay as continue_episodes
from srpo_env.training.run import TrainingRun
from srpo_env.training.sampled_episodes import record_episodes
from srpo_env.training.settings import SuiteSettings
from srpo_env.training.shared_groups import share_groups
from srpo_env.training.simulators import Simulators, make_simulators
from srpo_env.training.success_replay import SuccessReplay
from srpo_env.training.task_sampler import Start, TaskSampler, reset_options
from srpo_env.training.trajectories import Chunk, Trajectory, pack, unpack
from srpo_env.training.trust_region import TrustRegion

Batch = list[tuple[Group, list[Trajectory]]]  # closed groups, the trajectories of their episodes

PROBE_SIZE = 96  # decisions on which the KL of an update is measured


@dataclass(frozen=True, kw_only=True)
class Args(SuiteSettings):
    """SRPO and GRPO for vision-language-action policies on LIBERO."""

    fixed = ("gym_id", "look", "checkpoint", "reward", "encoder", "physics", "seed")
    """settings that --resume cannot change"""

    checkpoint: str = "libero-object"  # initial policy: name of a bundled one, path, or hub id
    reward: Literal["srpo", "binary", "oracle"] = "srpo"
    """reward of a failure: srpo compares videos, binary is 0 (as in plain GRPO), oracle uses the
    simulator's ground-truth progress (an upper bound for any video reward)"""
    iterations: int = 60  # number of policy updates
    stop_at: float | None = None  # stop when the held-out success rate reaches this, in (0, 1]
    exp_name: str = "vla_grpo"  # part of the run's name

    num_envs: int = 32  # number of environments
    num_workers: int | None = None  # number of simulator processes; None: one per CPU core
    simulators: Simulators = "local"  # processes of this machine, or actors of a Ray cluster
    physics: Literal["exact", "fast"] = "exact"  # fast: up to 1e-9 per step; evaluation is exact
    overlap: bool = False  # simulate some environments while deciding for others; other draws
    group_size: int = 8  # episodes per group; M in the paper
    groups_per_iteration: int = 12  # groups with signal to collect before an update
    max_groups_per_iteration: int = 24  # groups after which the update starts in any case
    rollout_steps: int | None = 160
    """control steps of a training episode at most; None: the suite's limit, as in evaluations"""
    encoder: str = WORLD_MODEL
    """world model that compares videos: a V-JEPA 2 (a bundled one by name, a folder, or an id of
    the Hugging Face hub), with the suffix @mean for the paper's pooling and distance; pixels (both
    need --credit episode); or MODULE:NAME of a class"""
    reference: Literal["group", "task", "memory"] = "group"  # successes to compare failures with
    formula: Literal["paper", "siirl"] = "paper"  # Eq. 5 of the paper, or of its authors' code
    credit: Literal["episode", "dense"] = "dense"
    """episode: the advantage of a decision is that of its episode in its group, Eq. 6 of the paper;
    dense: every decision has its own, by how much progress it made"""

    learning_rate: float = 7e-5  # maximum of AdamW; falls while updates end by --target-kl
    target_kl: float = 0.5
    """maximum KL of a decision (all tokens of a chunk), in nats, between the policies before and
    after an update; a gradient step beyond it is undone and ends the update"""
    update_epochs: int = 2  # passes over the chunks of an iteration; 0: no policy gradient
    minibatch_size: int = 128  # chunks per gradient step
    clip_low: float = 0.2  # ratios are clipped below 1 - clip_low; epsilon in Eq. 7
    clip_high: float = 0.28  # ratios are clipped above 1 + clip_high; larger, to keep exploration
    kl_coef: float = 0.0  # weight of the KL to the initial policy; beta in Eq. 8
    dual_clip: float = 3.0  # bound of the ratio where the advantage is negative
    temperature: float = 1.0  # sampling temperature of rollouts; evaluation is greedy
    correlation: float = 0.9  # of the sampling noise of neighbouring steps of a chunk, in [0, 1)
    max_grad_norm: float = 1.0  # maximum norm of the gradient

    replay_steps: int = 400
    """gradient steps per iteration that imitate own successes, as long as no task succeeds; the
    higher the success rate, the fewer. 0: none, as in the paper"""
    replay_learning_rate: float = 5e-4  # of imitation, AdamW; falls to 0 over its gradient steps

    perturb: str = ""  # all, or dimensions to draw a perturbation from per group: camera,light,...
    eval_every: int = 10  # iterations between evaluations, whose checkpoints are kept
    eval_episodes: int = 100  # episodes of an evaluation, spread evenly over the tasks

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        groups = {"group_size": 2, "max_groups_per_iteration": self.groups_per_iteration}
        zero = ("iterations", "kl_coef", "replay_steps", "update_epochs", "correlation")
        min_values = {**dict.fromkeys(zero, 0), "dual_clip": 1, **groups}
        self.check_numbers(min_values, max_values={"stop_at": 1, "correlation": 0.999})
        if not self.update_epochs and not self.replay_steps:
            raise ValueError("--update-epochs 0 learns nothing unless --replay-steps is above 0")


# --- Rollout: which episodes are run, and what is kept of them ---


@dataclass
class Rollout:
    """Runs groups of episodes and keeps all environments busy.

    An environment whose episode has ended starts the next one in the queue at once. Episodes that
    are running when enough groups are closed continue in the next iteration; each chunk keeps the
    log-probabilities of the policy that chose it.
    """

    envs: SelfReferentialProgressWrapper
    decider: Decider
    sampler: TaskSampler
    args: Args

    def __post_init__(self) -> None:
        """Starts without episodes."""
        self.restart()

    def restart(self) -> None:
        """Drops all episodes and open groups."""
        num_envs = self.envs.num_envs
        self._queue: deque[Start] = deque()  # (task_id, init_state_id, perturbation)
        self.trajectories: dict[int, Trajectory] = {}  # by episode_id, until the group is closed
        self._idle = np.ones(num_envs, dtype=bool)  # environments without a running episode
        self._steps, self._episode_ids = np.zeros((2, num_envs), dtype=int)  # of running episodes
        self._instructions = [""] * num_envs
        self.envs.close_groups()
        self.envs.pop_groups()

    def collect(self) -> tuple[Batch, int]:
        """Runs until enough groups with signal are closed, and the simulators are idle.

        Returns:
            All groups that were closed, and the number of control steps.
        """
        args, enough = self.args, self.args.groups_per_iteration
        batch: Batch = []
        with_signal, ended, control_steps, is_done = 0, 0, 0, False
        with progress_bar("rollout, groups", enough) as show:
            while not is_done or self.decider.is_ahead:
                show(with_signal, f"{control_steps} control steps")
                if self._idle.any():
                    self.start_episodes()
                control_steps += self.step(ahead=not is_done)
                ended += int(self._idle.sum())
                if args.reference == "task" and ended >= enough * args.group_size:
                    self.envs.close_groups()  # this reference scores nothing before
                    ended = 0
                for group in self.envs.pop_groups():
                    self.sampler.update(group)
                    trajectories = [self.trajectories.pop(e.episode_id) for e in group.episodes]
                    batch.append(
                        (rewarded(group, trajectories, args.reward, args.formula), trajectories)
                    )
                    with_signal += has_signal(batch[-1][0])
                is_done = with_signal >= enough or len(batch) >= args.max_groups_per_iteration
        return batch, control_steps

    def start_episodes(self) -> None:
        """Starts the next episodes of the queue in the idle environments."""
        slots, starts = np.flatnonzero(self._idle), {}
        for slot in slots:
            if not self._queue:
                self._queue.extend([self.sampler.sample()] * self.args.group_size)
            starts[slot] = self._queue.popleft()
        options = reset_options(starts, self.envs.num_envs)
        self._observations, infos = self.envs.reset(options=options)
        for slot in slots:
            self._instructions[slot] = infos["task"][slot]
            self._episode_ids[slot] = infos["episode_id"][slot]
            self.trajectories[int(self._episode_ids[slot])] = Trajectory.of(starts[slot])
        self._steps[slots] = 0

    def step(self, ahead: bool = False) -> int:
        """Executes one chunk in every environment; returns the number of control steps."""
        decided, results = self.decider.step(self._observations, self._instructions, ahead)
        self._observations, _, terminations, truncations, infos = results
        failed = infos.get("_worker_error", np.zeros(self.envs.num_envs, dtype=bool))
        executed = np.where(failed, 0, infos["control_steps"] - self._steps)
        executed_tokens = torch.as_tensor(executed * self.decider.policy.action_dim)
        masks = torch.arange(decided.tokens.shape[1]) < executed_tokens[:, None]
        progress = infos.get("max_progress", np.full(self.envs.num_envs, math.nan))
        measured = (torch.as_tensor(infos["positions"]), torch.as_tensor(progress))
        chunks = Chunk(*decided[1:], masks, *measured).select(slice(None))
        for slot, episode_id in enumerate(map(int, self._episode_ids)):
            trajectory = self.trajectories[episode_id]
            trajectory.chunks.append(chunks.select(slot))
            if failed[slot]:  # its simulator crashed, so the episode is run again
                del self.trajectories[episode_id]
                self._queue.appendleft(trajectory.start)
        self._steps = infos["control_steps"].copy()
        self._idle = terminations | truncations
        return int(executed.sum())

    def state_dict(self) -> dict[str, Any]:
        """Returns everything but the simulators and what the wrapper holds."""
        arrays = {"idle": self._idle, "steps": self._steps, "episode_ids": self._episode_ids}
        lists = {"queue": list(self._queue), "success_rates": self.sampler.success_rates}
        return {**lists, **arrays, **pack(self.trajectories)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, and the simulators by repeating the actions."""
        self._queue, self.trajectories = deque(map(tuple, state["queue"])), unpack(state)
        self.sampler.success_rates = state["success_rates"]
        policy, names = self.decider.policy, ("idle", "steps", "episode_ids")
        self._idle, self._steps, self._episode_ids = (np.array(state[name]) for name in names)
        running = {
            int(slot): self.trajectories[int(self._episode_ids[slot])].beginning(policy)
            for slot in np.flatnonzero(~self._idle)
        }
        if running:
            self._observations, self._instructions = continue_episodes(self.envs.env, running)


# --- Maths ---


def group_advantages(rewards: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Computes the advantage of each episode within its group, shape of ``rewards``. Eq. 6."""
    return (rewards - rewards.mean()) / (rewards.std() + eps)


def surrogate_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Tensor:
    """Computes the clipped surrogate over executed tokens, to be minimised. Eqs. 7 and 8.

    Args:
        log_probs: Log-probabilities of the sampled tokens under the policy, shape ``(B, 56)``.
        old_log_probs: The same under the policy that acted.
        advantages: Advantage of each chunk, shape ``(B,)``.
        weights: Weight of each token, shape ``(B, 56)``; 0 for tokens that were not executed.
        clip_low: Ratios are clipped below ``1 - clip_low``.
        clip_high: Ratios are clipped above ``1 + clip_high``.
        dual_clip: Ratios are clipped above it where the advantage is negative: tokens that have
            become likely since they were sampled would dominate the gradient (arXiv:1912.09729).
    """
    ratio = (log_probs - old_log_probs).exp()
    advantages = advantages[:, None]  # the same for all tokens of a chunk
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.min(ratio.clamp(max=dual_clip) * advantages, clipped * advantages)
    # Averaged over executed tokens: counting the others would shrink the last chunks of episodes.
    return -(surrogate * weights).sum() / weights.sum()


def kl_to(log_probs: Tensor, other_log_probs: Tensor, mask: Tensor) -> Tensor:
    """Estimates the KL to another policy per token from sampled tokens (Schulman's k3, >= 0)."""
    log_ratio = other_log_probs - log_probs
    return ((log_ratio.exp() - 1 - log_ratio) * mask).sum() / mask.sum()


def advantages_of(batch: Batch, args: Args, ranks: Ranks) -> list[np.ndarray]:
    """Computes the advantage of each decision of each episode, in the order of the batch."""
    if args.credit == "dense":
        return dense_advantages(batch, args.reward, args.rollout_steps, ranks)
    return [
        np.full(len(trajectory.chunks), advantage)
        for group, trajectories in batch
        for advantage, trajectory in zip(group_advantages(group.rewards), trajectories, strict=True)
    ]


# --- Update ---


def update(
    policy: Policy,
    reference_policy: ReferencePolicy | None,
    region: TrustRegion,
    batch: Batch,
    args: Args,
    generator: torch.Generator,
) -> dict[str, float]:
    """Takes gradient steps on the groups with signal; returns metrics, none without signal."""
    padding = batch[0][1][0].chunks[0]  # for a rank whose groups have no signal
    batch = [(group, trajectories) for group, trajectories in batch if has_signal(group)]
    trajectories = [t for _, ts in batch for t in ts]
    # Every episode has the same weight, as in the authors' code. With the same weight per token,
    # failures would dominate, because they are longer.
    weights = [1 / max(t.executed, 1) for t in trajectories]
    device, advantages = next(policy.parameters()).device, advantages_of(batch, args, region.ranks)
    data = SharedDecisions(trajectories, advantages, weights, padding, region.ranks, device)
    if not data.total:
        return {}
    probe = data.draw(PROBE_SIZE, generator)
    region.begin(probe.inputs, probe.mask, args.temperature, probe.row_share)
    minibatches = data.minibatches(args.update_epochs, args.minibatch_size, generator)
    total = args.update_epochs * math.ceil(data.total / args.minibatch_size)
    clips = (args.clip_low, args.clip_high, args.dual_clip)
    logs: list[dict[str, float]] = []
    inside = True
    for part in with_progress("update, minibatches", total, minibatches):
        tokens, old, mask = part.tokens, part.log_probs, part.mask
        log_probs, entropy = policy.log_probs(part.inputs, tokens, args.temperature)
        loss = surrogate_loss(log_probs, old, part.advantages, part.weights, *clips) * part.share
        with torch.no_grad():
            ratio = (log_probs - old).exp()
            outside = ((ratio < 1 - args.clip_low) | (ratio > 1 + args.clip_high)) & mask
            log = {
                "losses/surrogate": float(loss),
                "losses/clipped": part.token_share * float(outside.sum() / mask.sum()),
                "losses/entropy": part.token_share * float((entropy * mask).sum() / mask.sum()),
            }
        if reference_policy is not None:
            reference, _ = reference_policy.log_probs(part.inputs, tokens, args.temperature)
            penalty = part.token_share * kl_to(log_probs, reference, mask)
            loss = loss + args.kl_coef * penalty  # omega in Eq. 8
            log["losses/kl_reference"] = float(penalty.detach())
        logs.append(log)
        if not (inside := region.step(loss, args.max_grad_norm)):
            break
    done, rate = len(logs) - (not inside), region.last_rate
    charts = {"learning_rate": rate, "gradient_steps": done, "update_completed": done / total}
    region.end(total)
    metrics = region.ranks.mean_logs(logs) | {"losses/kl": region.kl}
    return metrics | {f"charts/{name}": value for name, value in charts.items()}


# --- Main ---


def main(args: Args) -> None:
    """Trains a policy; an iteration is a rollout, its rewards and a few gradient steps."""
    # --- Setup: policy, optimizer, environments, the run with its log and checkpoints ---
    with errors_as_sentences("vla_grpo.py"):
        ranks = Ranks.join()
        own = ranks.split(args, "num_envs", "groups_per_iteration", "max_groups_per_iteration")
        device = args.set_up_torch()
        policy = load_policy(args.checkpoint).to(device)
        warn_about_look(args.checkpoint, args.look)
        reference_policy = ReferencePolicy(policy) if args.kl_coef else None
        optimizer, imitator = (
            torch.optim.AdamW(policy.parameters(), lr=rate, eps=1e-5, weight_decay=0.0)
            for rate in (args.learning_rate, args.replay_learning_rate)
        )
        region = TrustRegion(policy, optimizer, args.target_kl, args.learning_rate, ranks)
        encoder = TimedEncoder(encoder_for(args.reward, args.credit, args.encoder))
        libero = make_simulators(
            args.simulators, args.gym_id, ranks, num_envs=own.num_envs,
            num_workers=args.num_workers, max_steps=args.rollout_steps,
            physics=args.physics, true_progress=args.reward == "oracle", look=args.look,
            **policy.env_settings,
        )  # fmt: skip
        envs = SelfReferentialProgressWrapper(
            libero, encoder, reward=ProgressReward(args.formula),
            group_size=args.group_size, reference=args.reference,
        )  # fmt: skip
        seed = ranks.seed(args.seed)
        generator = torch.Generator().manual_seed(seed)
        sampler = TaskSampler(libero.num_tasks, TRAINING_STATES, seed, args.perturb)
        decider = Decider(envs, policy, generator, args.temperature, args.overlap, args.correlation)
        rollout = Rollout(envs, decider, sampler, own)
        replay = SuccessReplay(libero.num_tasks, ranks=ranks)
        schedule = {"every": args.eval_every, "last": args.iterations, "ranks": ranks}
        evaluation = HeldOutEvaluation(libero, policy, args.eval_episodes, **schedule)
        run = TrainingRun(
            "vla_grpo", f"{args.suite}__{args.exp_name}__{args.reward}__{args.seed}", args,
            parts={"optimizer": optimizer, "imitator": imitator, "region": region},
            own_parts={"generator": generator, "sampler": sampler.rng, "wrapper": envs,
                       "rollout": rollout, "replay": replay},
            ranks=ranks, policy=policy, conditions=libero.conditions, machine={"gl": libero.gl},
            counters=("control_steps", "episodes"),
        )  # fmt: skip
    with run, closing(envs):
        while True:
            # --- Evaluation: greedy, on initial states that are never trained on ---
            if evaluation.is_due(run):
                rollout.restart()
                evaluation.evaluate(run)
                run.save()
            reached = run.log.latest("eval/success_rate") >= (args.stop_at or math.inf)
            if reached or run.iteration >= args.iterations:
                break
            # --- Rollout: whole episodes and their progress rewards (Eqs. 2-5) ---
            began, encoder.seconds = time.monotonic(), 0.0
            batch, control_steps = rollout.collect()
            batch, groups = share_groups(ranks, envs, sampler, batch, args.reward)
            # --- Update: clipped surrogate over the sampled action tokens (Eqs. 6-8) ---
            metrics: dict[str, float] = {}
            if args.update_epochs:
                metrics = update(policy, reference_policy, region, batch, args, generator)
            if args.replay_steps:  # --- Imitation of own successes ---
                for group, trajectories in batch:
                    replay.add_successes(group, trajectories)
                rates = sampler.success_rates
                metrics |= replay.imitate(policy, imitator, rates, args.replay_steps, generator)
            # --- Log and checkpoint ---
            statistics, control_steps = group_statistics(groups), int(ranks.sum(control_steps)[0])
            run.count(iteration=1, control_steps=control_steps, episodes=statistics.num_episodes)
            metrics["charts/steps_per_second"] = run.counters["control_steps"] / run.seconds
            metrics["charts/encoding_share"] = encoder.seconds / (time.monotonic() - began)
            run.write({**statistics.as_dict("rollout/"), **metrics})
            record_episodes(run, batch, envs.reward, args.reward, args.eval_every)
            print_iteration(run, args.iterations)
            run.save(keep=False)
    print(f"The policy is in {run.policy_path}")


if __name__ == "__main__":
    with closed_output_ends_the_program():
        main(Args.parse())
