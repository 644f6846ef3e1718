"""SRPO for a vision-language-action policy in one file: roll out, score, update.

Paper: https://arxiv.org/abs/2511.15605v2, whose equation numbers are used below.

    python agents/vla_grpo.py --env libero-object
    python agents/vla_grpo.py --env libero-object --reward binary    # plain GRPO, all else equal
    python agents/vla_grpo.py --env libero-object --reward truth     # the simulator's own progress
    python agents/vla_grpo.py --resume runs/NAME                     # goes on with a run

A group is eight episodes of one task from one initial state. Its failures earn a reward by how near
their video comes to the group's own successes, and the group's mean is the baseline of all of them.

What is logged:

* ``rollout/success_rate``: of the episodes that an update learns from;
* ``signal/...``: the fractions of groups whose returns differ (``with_signal``), whose failures
  were paid for progress (``shaped``), and that have ``no_success``;
* ``loss/...``: surrogate, KL per token to the old policy (``kl_old``) and, if it is held to it, to
  the reference policy, the fraction of clipped tokens, entropy, the number of gradient steps and
  the fraction ``completed`` before ``--target-kl`` ended the update;
* ``eval/success_rate``, ``eval/task_N``: greedy, on initial states that are never trained on;
* ``charts/steps_per_second``: control steps over all of the time, updates included;
  ``charts/encoding_share``: share of an iteration's time in which videos were encoded.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from tqdm import tqdm

from srpo_env import Group, ProgressReward, SelfReferentialProgressWrapper
from srpo_env.cli.main import errors_as_sentences
from srpo_env.encoders.named import WORLD_MODEL, named_encoder
from srpo_env.encoders.timed import TimedEncoder
from srpo_env.libero.suites import MAX_STEPS
from srpo_env.policy import Policy, load_policy
from srpo_env.training.checkpoint import load_training, newest_checkpoint, save_training
from srpo_env.training.evaluation import TRAINING_STATES, Evaluation, evaluate, held_out_episodes
from srpo_env.training.run_log import RunLog

STEP_TOKENS = 7  # a control step is seven tokens: position, orientation, gripper


@dataclass
class Args:
    """All settings of a run; ``--help`` prints this list."""

    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "libero-object"
    """LIBERO suite: libero-object, -spatial, -goal, -10 or -90"""
    checkpoint: str = "libero-object"  # policy to start from: the name of one that ships, or a path
    reward: Literal["srpo", "binary", "truth"] = "srpo"
    """what failures earn: by their video; nothing (plain GRPO); or by how far they truly came, as
    the simulator knows it (the ceiling of any video, for libero-object)"""
    seed: int = 1  # of the tasks drawn, the tokens sampled and the minibatches
    iterations: int = 60  # updates of the policy
    stop_at: float | None = None  # ends the run when the held-out success rate has reached this
    resume: str | None = None  # folder of a run to go on with; its settings are the defaults then

    num_envs: int = 32  # environments; any number of them share a process
    num_workers: int | None = None  # simulator processes; default: one per core
    group_size: int = 8  # episodes per group; M in the paper
    groups_per_iteration: int = 12  # groups with signal that an update waits for
    max_groups_per_iteration: int = 24  # groups after which the update comes all the same
    rollout_steps: int | None = 160
    """control steps after which a training episode is cut off (successes take about 85); None for
    the suite's limit, which evaluations keep"""
    encoder: str = WORLD_MODEL
    """what compares videos: a V-JEPA 2 (one that ships, a folder, an id of the Hugging Face hub),
    with @mean after it for the paper's pooling and distance; pixels; or MODULE:NAME"""
    reference: Literal["group", "task", "memory"] = "group"
    """which successes a failure is compared with"""
    formula: Literal["paper", "siirl"] = "paper"  # the paper's Eq. 5, or its authors' code

    learning_rate: float = 1.5e-4
    """of AdamW, constant after the warm-up; give a policy that seldom succeeds a third of it, lest
    it unlearns"""
    warmup_steps: int = 20
    """gradient steps over which it rises to that: Adam's first ones know no scale, move every
    weight alike, and can unlearn in one step what imitation has taught"""
    update_epochs: int = 2  # passes over the chunks of an iteration
    minibatch_size: int = 128  # chunks per gradient step
    clip_low: float = 0.2  # lower half-width of the ratio's clipping range; epsilon in Eq. 7
    clip_high: float = 0.28  # upper half-width; larger, as in the authors' code, to keep exploring
    kl_coef: float = 0.0  # weight of the KL to the policy that the run started from; beta in Eq. 8
    target_kl: float = 0.02  # KL per token to the old policy at which an update ends early
    temperature: float = 1.0  # of the tokens in rollouts and in the ratio; evaluation is greedy
    max_grad_norm: float = 1.0  # gradient norm is cut to this

    eval_every: int = 10  # iterations between held-out evaluations and checkpoints
    eval_episodes: int = 100  # episodes of an evaluation, spread evenly over the tasks
    exp_name: str = "vla_grpo"  # part of the run's name
    run_dir: str = "runs"  # where the run's folder is made
    torch_threads: int = 2  # threads of an update; the simulators wait meanwhile
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is one
    track: bool = False  # send the curves to Weights & Biases too
    wandb_project_name: str = "srpo-env"  # its project
    wandb_entity: str | None = None  # its team

    @property
    def gym_id(self) -> str:
        """The environment's name in Gymnasium's registry."""
        namespace, _, name = self.env_id.rpartition("/")
        return f"{namespace or 'srpo_env'}/{name.replace('_', '-')}"

    def new_folder(self) -> Path:
        """Where a run that starts now writes to; no two runs share a folder."""
        env = self.gym_id.split("/")[-1]
        name = f"{env}__{self.exp_name}__{self.reward}__{self.seed}__{int(time.time())}"
        return Path(self.run_dir) / name

    def check(self) -> None:
        """Raises an error that says what is out of range, before anything is started."""
        least = {"seed": 0, "iterations": 0, "kl_coef": 0, "group_size": 2}
        least["max_groups_per_iteration"] = self.groups_per_iteration
        numbers = {name: x for name, x in asdict(self).items() if type(x) in (int, float)}
        for name, value in numbers.items():
            low = least.get(name)
            if not (value > 0 if low is None else value >= low):
                rule = "above 0" if low is None else f"at least {low}"
                raise ValueError(f"--{name.replace('_', '-')} must be {rule}, got {value}")
        if self.stop_at is not None and self.stop_at > 1:
            raise ValueError(f"--stop-at must be a rate, at most 1, got {self.stop_at}")
        if self.gym_id not in gymnasium.registry:
            known = sorted(name for name in gymnasium.registry if name.startswith("srpo_env/"))
            raise ValueError(f"--env must be one of {', '.join(known)}, got {self.env_id!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda needs a GPU that torch can use, and it finds none")
        if self.track and importlib.util.find_spec("wandb") is None:
            raise ModuleNotFoundError("--track needs Weights & Biases: run `pip install wandb`")


def parse_args(arguments: Sequence[str] | None = None) -> Args:
    """Reads the command line; with ``--resume``, the run's own settings are the defaults."""
    args = tyro.cli(Args, args=arguments)
    if args.resume is None:
        return args
    with errors_as_sentences("vla_grpo.py"):
        newest_checkpoint(Path(args.resume))  # says so if there is none
        content = json.loads((Path(args.resume) / "args.json").read_text())
        # Runs from before there was a choice compared pixels.
        saved = Args(**{"encoder": "pixels", **content})
        args = tyro.cli(Args, args=arguments, default=saved)
        for name in ("gym_id", "checkpoint", "reward", "encoder", "seed"):
            had, has = getattr(saved, name), getattr(args, name)
            if has != had:
                raise ValueError(f"--resume keeps {name} at {had!r}, got {has!r}: start a new run")
    return args


# --- Environments: which episodes are run, and what is kept of them ---


@dataclass
class TaskSampler:
    """Draws groups where they are likely to carry signal: at tasks neither hopeless nor solved."""

    num_tasks: int
    states: range
    rng: np.random.Generator
    success: list[float] = field(default_factory=list)
    """moving average of each task's success rate"""

    def __post_init__(self) -> None:
        """Knows nothing yet of tasks whose success is not given."""
        self.success = self.success or [0.5] * self.num_tasks

    def draw(self) -> tuple[int, int]:
        """A task and an initial state."""
        rates = np.array(self.success)
        # The spread of a group's outcomes, p (1 - p), but more for the tasks that do not work yet:
        # a few of their groups hold the first success. A solved task is still looked after.
        weights = np.maximum((1 - rates) * (rates + 0.1), 0.02)
        task = self.rng.choice(self.num_tasks, p=weights / weights.sum())
        return int(task), int(self.rng.choice(self.states))

    def learn(self, group: Group) -> None:
        """Takes note of a group's outcomes."""
        task = group.key[0]
        self.success[task] += 0.2 * (group.num_successes / len(group.episodes) - self.success[task])


@dataclass
class Chunk:
    """One decision of the policy: what it saw, what it did, how likely that was."""

    inputs: dict[str, Tensor]
    tokens: Tensor  # (56,)
    log_probs: Tensor  # (56,), of the policy that acted
    mask: Tensor  # (56,), true for the control steps that were executed


class ScoredGroup(NamedTuple):
    """A closed group, and what an update learns from it."""

    group: Group
    chunks: list[list[Chunk]]  # of each episode
    returns: np.ndarray  # of each episode, (len(group.episodes),)

    @property
    def has_signal(self) -> bool:
        """Whether its episodes differ in their returns; else all advantages are zero."""
        return bool(np.ptp(self.returns) > 0)


class Rollout:
    """Keeps every environment busy with episodes of the groups that are wanted.

    An environment whose episode has ended takes the next one from the queue at once, whether or
    not the others have ended. Episodes that are under way when enough groups are closed go on in
    the next iteration; each chunk remembers the probabilities of the policy that chose it.
    """

    def __init__(
        self, envs: SelfReferentialProgressWrapper, policy: Policy, sampler: TaskSampler, args: Args
    ) -> None:
        """Starts no episode yet."""
        self.envs, self.policy, self.sampler, self.args = envs, policy, sampler, args
        self.cut()

    def cut(self) -> None:
        """Drops the episodes under way, so that nothing but the policy carries over."""
        self._queue: deque[tuple[int, int]] = deque()
        self._chunks: dict[int, list[Chunk]] = {}
        self._furthest: dict[int, float] = {}  # true progress of episodes under way
        self._idle = np.ones(self.envs.num_envs, dtype=bool)
        self._steps = np.zeros(self.envs.num_envs, dtype=int)
        self._instructions: list[str] = [""] * self.envs.num_envs
        self.envs.close_groups()
        self.envs.pop_groups()

    def collect(self, state: TrainingState) -> list[ScoredGroup]:
        """Runs until enough groups with signal are closed; returns all closed ones."""
        args = self.args
        batch: list[ScoredGroup] = []
        with_signal = ended = 0
        enough = args.groups_per_iteration
        with live(f"rollout {state.iteration + 1}, groups", enough) as bar:
            while with_signal < enough and len(batch) < args.max_groups_per_iteration:
                if self._idle.any():
                    self._refill()
                state.control_steps += self._step(state.generator)
                ended += int(self._idle.sum())
                if args.reference == "task" and ended >= enough * args.group_size:
                    self.envs.close_groups()  # with this reference nothing is scored before
                    ended = 0
                for group in self.envs.pop_groups():
                    self.sampler.learn(group)
                    ids = [episode.episode_id for episode in group.episodes]
                    furthest = np.array([self._furthest.pop(i, math.nan) for i in ids])
                    returns = returns_of(group, args, furthest)
                    batch.append(ScoredGroup(group, [self._chunks.pop(i) for i in ids], returns))
                    with_signal += batch[-1].has_signal
                bar.n = with_signal
                bar.set_postfix_str(f"{state.control_steps} control steps in all")
        return batch

    def _refill(self) -> None:
        slots = np.flatnonzero(self._idle)
        ids = np.zeros((2, self.envs.num_envs), dtype=int)
        for slot in slots:
            if not self._queue:
                self._queue.extend([self.sampler.draw()] * self.args.group_size)
            ids[:, slot] = self._queue.popleft()
        options = {"reset_mask": self._idle.copy(), "task_id": ids[0], "init_state_id": ids[1]}
        self._observations, infos = self.envs.reset(options=options)
        for slot in slots:
            self._instructions[slot] = infos["task"][slot]
            self._chunks[int(infos["episode_id"][slot])] = []
        self._steps[slots] = 0

    def _step(self, generator: torch.Generator) -> int:
        inputs = self.policy.prepare(self._observations, self._instructions)
        tokens, log_probs = self.policy.sample(inputs, self.args.temperature, generator)
        actions = self.policy.actions(tokens)
        self._observations, _, terminations, truncations, infos = self.envs.step(actions)
        failed = infos.get("_worker_error", np.zeros(self.envs.num_envs, dtype=bool))
        executed = np.where(failed, 0, infos["control_steps"] - self._steps)
        masks = torch.arange(tokens.shape[1]) < torch.as_tensor(executed * STEP_TOKENS)[:, None]
        for slot, episode_id in enumerate(map(int, infos["episode_id"])):
            x = {name: value[slot] for name, value in inputs.items()}
            self._chunks[episode_id].append(Chunk(x, tokens[slot], log_probs[slot], masks[slot]))
            if "furthest_progress" in infos:
                self._furthest[episode_id] = infos["furthest_progress"][slot]
            if failed[slot]:  # its simulator broke: another episode has to take its place
                del self._chunks[episode_id]
                self._furthest.pop(episode_id, None)
                again = int(infos["task_id"][slot]), int(infos["init_state_id"][slot])
                self._queue.appendleft(again)
        self._steps = infos["control_steps"].copy()
        self._idle = terminations | truncations
        return int(executed.sum())


# --- Maths ---


def returns_of(group: Group, args: Args, furthest: np.ndarray) -> np.ndarray:
    """Return of each episode, shape ``(len(group.episodes),)``: Eq. 5, or what it is compared with.

    ``furthest`` is the true progress of each, NaN where nobody knows it.
    """
    if args.reward == "srpo":
        return group.rewards
    returns = np.array([float(episode.success) for episode in group.episodes])
    if args.reward == "truth" and group.num_successes:
        failed = returns == 0
        returns[failed] = ProgressReward(args.formula).rewards_of(1 - furthest[failed])
    return returns


def group_advantages(returns: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Advantage of each episode within its group, shape of ``returns``. Eq. 6."""
    return (returns - returns.mean()) / (returns.std() + eps)


def surrogate_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Clipped surrogate over the tokens that were executed, to be minimised. Eqs. 7 and 8.

    Args:
        log_probs: Of the sampled tokens under the policy that learns, shape ``(B, 56)``.
        old_log_probs: The same under the policy that acted.
        advantages: One for each chunk's episode, shape ``(B,)``.
        weights: How much a token counts, shape ``(B, 56)``; 0 if it was never executed.
        clip_low: How far below 1 the ratio may go.
        clip_high: How far above.
    """
    ratio = (log_probs - old_log_probs).exp()
    advantages = advantages[:, None]  # one value for all tokens of an episode
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.min(ratio * advantages, clipped * advantages)
    # The mean over tokens that were executed: counting the rest would shrink chunks cut short.
    return -(surrogate * weights).sum() / weights.sum()


def kl_to(log_probs: Tensor, other_log_probs: Tensor, mask: Tensor) -> Tensor:
    """KL of the policy to another per token, estimated at sampled tokens; Schulman's k3, >= 0."""
    log_ratio = other_log_probs - log_probs
    return ((log_ratio.exp() - 1 - log_ratio) * mask).sum() / mask.sum()


def warm_up(optimizer: torch.optim.Optimizer, args: Args) -> None:
    """Sets the learning rate of the next gradient step; counts those that Adam has done."""
    done = max((int(moments["step"]) for moments in optimizer.state.values()), default=0)
    for group in optimizer.param_groups:
        group["lr"] = args.learning_rate * min(1.0, (done + 1) / args.warmup_steps)


def update(
    policy: Policy,
    reference_policy: Policy | None,
    optimizer: torch.optim.Optimizer,
    batch: list[ScoredGroup],
    args: Args,
    generator: torch.Generator,
) -> dict[str, float]:
    """A few epochs of gradient steps on the groups that carry signal; returns what to log."""
    chunks: list[Chunk] = []
    factors: list[tuple[float, float]] = []  # of each chunk: its advantage, the weight of a token
    for scored in batch:
        if not scored.has_signal:
            continue
        for advantage, episode in zip(group_advantages(scored.returns), scored.chunks, strict=True):
            # Every episode counts the same, as in the authors' code: failures last longer, and per
            # token they would drown what the successes show.
            executed = sum(int(chunk.mask.sum()) for chunk in episode)
            chunks.extend(episode)
            factors.extend([(float(advantage), 1 / max(executed, 1))] * len(episode))
    if not chunks:
        return {}
    device = next(policy.parameters()).device
    inputs = {name: torch.stack([c.inputs[name] for c in chunks]) for name in chunks[0].inputs}
    tokens = torch.stack([c.tokens for c in chunks])
    old_log_probs = torch.stack([c.log_probs for c in chunks])
    masks = torch.stack([c.mask for c in chunks])
    advantages, weights = torch.tensor(factors).T
    minibatches = (
        rows
        for _ in range(args.update_epochs)
        for rows in torch.randperm(len(chunks), generator=generator).split(args.minibatch_size)
    )
    logs: list[dict[str, float]] = []
    total = args.update_epochs * math.ceil(len(chunks) / args.minibatch_size)
    for rows in live("update, minibatches", total, minibatches):
        x = {name: values[rows].to(device) for name, values in inputs.items()}
        columns = (tokens, old_log_probs, masks, advantages, weights)
        token, old, mask, advantage, weight = (values[rows].to(device) for values in columns)
        log_probs, entropy = policy.log_probs(x, token, args.temperature)
        weight = mask * weight[:, None]
        loss = surrogate_loss(log_probs, old, advantage, weight, args.clip_low, args.clip_high)
        with torch.no_grad():
            ratio = (log_probs - old).exp()
            outside = ((ratio < 1 - args.clip_low) | (ratio > 1 + args.clip_high)) & mask
            log = {
                "surrogate": float(loss),
                "kl_old": float(kl_to(old, log_probs, mask)),
                "clipped": float(outside.sum() / mask.sum()),
                "entropy": float((entropy * mask).sum() / mask.sum()),
            }
        if reference_policy is not None:
            with torch.no_grad():
                reference, _ = reference_policy.log_probs(x, token, args.temperature)
            penalty = kl_to(log_probs, reference, mask)
            loss = loss + args.kl_coef * penalty  # omega in Eq. 8
            log["kl_reference"] = float(penalty)
        logs.append(log)
        if log["kl_old"] > args.target_kl:
            break
        warm_up(optimizer, args)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
        optimizer.step()
    means = {name: float(np.mean([log[name] for log in logs])) for name in logs[0]}
    done = len(logs) - (logs[-1]["kl_old"] > args.target_kl)
    return {**means, "gradient_steps": done, "completed": done / total}


# --- Checkpoints: the policy for whoever wants it, and what this run needs to go on ---


@dataclass
class TrainingState:
    """All that a run carries from one iteration to the next, between two cuts of its rollouts."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    sampler: TaskSampler
    iteration: int = 0
    control_steps: int = 0
    episodes: int = 0
    seconds: float = 0.0

    def counters(self) -> dict[str, float]:
        """How far the run has come."""
        names = ("iteration", "control_steps", "episodes", "seconds")
        return {name: getattr(self, name) for name in names}

    def save(self, folder: Path, interrupted: bool = False) -> None:
        """Writes a checkpoint into the run's folder."""
        progress = {"agent": "vla_grpo", **self.counters(), "task_success": self.sampler.success}
        progress["sampler_rng"] = self.sampler.rng.bit_generator.state
        parts = (self.policy, self.optimizer, self.generator)
        save_training(folder, *parts, progress, interrupted=interrupted)

    def restore(self, folder: Path) -> None:
        """Takes over the newest checkpoint, so that the run goes on as if it had never stopped."""
        checkpoint = newest_checkpoint(folder)
        progress = load_training(checkpoint, self.policy, self.optimizer, self.generator)
        for name in self.counters():
            setattr(self, name, progress[name])
        self.sampler.success = progress["task_success"]
        self.sampler.rng.bit_generator.state = progress["sampler_rng"]


# --- What a person sees ---


def live(what: str, total: int, steps: Iterable[Any] | None = None) -> tqdm:
    """A progress bar that leaves no trace; nothing at all where the output is not a terminal."""
    line = "{desc} |{bar:24}| {n_fmt}/{total_fmt}, {elapsed}{postfix}"
    return tqdm(steps, what, total, leave=False, file=sys.stdout, disable=None, bar_format=line)


class Log:
    """One line per iteration, and the same figures for files, TensorBoard and Weights & Biases."""

    def __init__(self, args: Args, folder: Path, state: TrainingState, assets: str) -> None:
        """Makes the run's folder; of a run that goes on, forgets what came after its checkpoint."""
        self.args, self.state = args, state
        at = {"iteration": state.iteration, "step": state.control_steps} if args.resume else None
        self.run = RunLog(folder, asdict(args), {"assets": assets}, resume_at=at)
        evaluations = [record for record in self.run.past if "eval/success_rate" in record]
        self.evaluated = {record["iteration"] for record in evaluations}
        self.success_rate = evaluations[-1]["eval/success_rate"] if evaluations else math.nan
        self.started = time.monotonic() - state.seconds
        self.ends: deque[tuple[int, float]] = deque(maxlen=11)  # of iterations: number, seconds
        self.cut_short = 0  # updates in a row that ended before half of their gradient steps
        print(f"{folder}, from iteration {state.iteration}", flush=True)

    def iteration(
        self, batch: list[ScoredGroup], losses: dict[str, float], encoding_share: float
    ) -> None:
        """Prints and logs an iteration."""
        state, total = self.state, self.args.iterations
        groups = [scored.group for scored in batch]
        episodes = [episode for group in groups for episode in group.episodes]
        state.episodes += len(episodes)
        state.seconds = time.monotonic() - self.started
        signal = sum(scored.has_signal for scored in batch)
        success = float(np.mean([episode.success for episode in episodes]))
        speed = state.control_steps / state.seconds
        figures = {
            "rollout/success_rate": success,
            "signal/with_signal": signal / len(groups),
            "signal/shaped": sum(group.shaped for group in groups) / len(groups),
            "signal/no_success": sum(group.num_successes == 0 for group in groups) / len(groups),
            "charts/steps_per_second": speed,
            "charts/encoding_share": encoding_share,
            **{f"loss/{name}": value for name, value in losses.items()},
        }
        self.run.write(state.counters(), figures, state.control_steps)
        self.ends.append((state.iteration, state.seconds))
        (first, start), (last, end) = self.ends[0], self.ends[-1]
        pace = (end - start) / (last - first) / 60 if last > first else None
        to_go = "?" if pace is None else f"{pace * (total - last):.0f}"
        print(
            f"{state.iteration:4d}/{total}  success {success:4.0%} of {len(episodes):3d}"
            f"  held-out {self.success_rate:.0%}  signal {signal:2d}/{len(groups):2d}"
            f"  kl {losses.get('kl_old', 0):.4f}  {speed:3.0f} steps/s"
            f"  {state.seconds / 60:.0f} min, {to_go} to go",
            flush=True,
        )
        # Few steps, each so far that it moves what the policy knows: some runs unlearned like that.
        self.cut_short = self.cut_short + 1 if losses.get("completed", 1) < 0.5 else 0
        if self.cut_short == 3:
            print(
                "Three updates in a row ended at --target-kl before half of their gradient steps: "
                f"a --learning-rate below {self.args.learning_rate:g} learns more steadily",
                flush=True,
            )

    def evaluation(self, result: Evaluation) -> None:
        """Prints and logs a held-out evaluation."""
        self.state.seconds = time.monotonic() - self.started
        self.evaluated.add(self.state.iteration)
        self.success_rate = result.success_rate
        self.ends.append((self.state.iteration, self.state.seconds))
        tasks = result.by_task()
        by_task = {f"eval/task_{task}": part.success_rate for task, part in tasks.items()}
        figures = {"eval/success_rate": result.success_rate, **by_task}
        self.run.write(self.state.counters(), figures, self.state.control_steps)
        shares = " ".join(f"{part.num_successes}/{len(part.episodes)}" for part in tasks.values())
        print(f"held-out success {result} episodes; by task {shares}", flush=True)

    def is_evaluation_due(self) -> bool:
        """Whether the policy is to be evaluated now, and has not been yet."""
        iteration, args = self.state.iteration, self.args
        due = iteration % args.eval_every == 0 or iteration == args.iterations
        return due and iteration not in self.evaluated

    def is_done(self) -> bool:
        """Whether all iterations are done, or the policy is as good as asked for."""
        stop_at = math.inf if self.args.stop_at is None else self.args.stop_at
        return self.state.iteration >= self.args.iterations or self.success_rate >= stop_at


# --- Main ---


def main(args: Args) -> None:
    """Trains a policy; an iteration is a rollout, its rewards and a few gradient steps."""
    # --- Setup: seeds, policy, optimizer, environments, logger ---
    with errors_as_sentences("vla_grpo.py"):
        args.check()
        torch.manual_seed(args.seed)
        torch.set_num_threads(args.torch_threads)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = auto if args.device == "auto" else args.device
        policy = load_policy(args.checkpoint).to(device)
        reference_policy = load_policy(args.checkpoint).to(device) if args.kl_coef else None
        optimizer = torch.optim.AdamW(
            policy.parameters(), lr=args.learning_rate, eps=1e-5, weight_decay=0.0
        )
        # Only a reward from video looks at it.
        encoder = TimedEncoder(named_encoder(args.encoder if args.reward == "srpo" else "pixels"))
        libero = gymnasium.make_vec(
            args.gym_id, num_envs=args.num_envs, num_workers=args.num_workers,
            autoreset_mode=AutoresetMode.DISABLED, max_steps=args.rollout_steps,
            true_progress=args.reward == "truth",
        )  # fmt: skip
        envs = SelfReferentialProgressWrapper(
            libero, encoder,
            group_size=args.group_size, reference=args.reference,
            reward=ProgressReward(args.formula),
        )  # fmt: skip
        held_out = held_out_episodes(libero.num_tasks, args.eval_episodes)
        sampler = TaskSampler(libero.num_tasks, TRAINING_STATES, np.random.default_rng(args.seed))
        state = TrainingState(policy, optimizer, torch.Generator().manual_seed(args.seed), sampler)
        folder = Path(args.resume) if args.resume else args.new_folder()
        if args.resume:
            state.restore(folder)
        log = Log(args, folder, state, libero.assets)
    rollout = Rollout(envs, policy, sampler, args)
    try:
        while True:
            # --- Evaluation: greedy, on initial states that are never trained on ---
            if log.is_evaluation_due():
                # A clean cut: a run resumed here starts the same episodes as one that goes on.
                rollout.cut()
                with live("held-out episodes", len(held_out)) as bar:
                    libero.set_attr("max_steps", MAX_STEPS[libero.suite])
                    log.evaluation(evaluate(policy.act, libero, held_out, lambda _: bar.update()))
                    libero.set_attr("max_steps", args.rollout_steps or MAX_STEPS[libero.suite])
                state.save(folder)
            if log.is_done():
                break
            # --- Rollout: whole episodes; their returns are the progress rewards (Eqs. 2-5) ---
            began, encoder.seconds = time.monotonic(), 0.0
            batch = rollout.collect(state)
            # --- Update: clipped surrogate over the action tokens that were sampled (Eqs. 6-8) ---
            losses = update(policy, reference_policy, optimizer, batch, args, state.generator)
            state.iteration += 1
            log.iteration(batch, losses, encoder.seconds / (time.monotonic() - began))
        print(f"The policy is in {newest_checkpoint(folder) / 'policy'}")
    except KeyboardInterrupt:
        state.save(folder, interrupted=True)
        print(f"\nStopped. Go on with: python agents/vla_grpo.py --resume {folder}")
        raise SystemExit(130) from None  # 128 + SIGINT, as shells have it
    finally:
        envs.close()
        log.run.close()


if __name__ == "__main__":
    main(parse_args())
