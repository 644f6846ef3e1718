"""SRPO for a vision-language-action policy in one file: roll out, score, update.

Paper: https://arxiv.org/abs/2511.15605v2, whose equation numbers are used below.

    python agents/vla_grpo.py --env libero-object
    python agents/vla_grpo.py --env libero-object --reward binary    # plain GRPO, all else equal

A group is eight episodes of one task from one initial state. Its failures earn a reward by how near their
video comes to the group's own successes, and the group's mean is the baseline of all its episodes.

What is logged:

* ``rollout/success_rate``, ``rollout/episode_steps``: of the episodes of the iteration;
* ``signal/...``: the fractions of groups that carried signal, and the spread of the distances;
* ``loss/...``: surrogate, KL to the old policy (per token), KL to the reference policy, clipped tokens, entropy;
* ``eval/success_rate``: greedy, on initial states 40-49, which are never trained on;
* ``charts/steps_per_second``: control steps over all of the time, updates included.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from srpo_env import Group, PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.evaluation import TRAINING_STATES, Evaluation, evaluate, held_out_episodes
from srpo_env.policy import Policy, load_policy

STEP_TOKENS = 7  # a control step is seven tokens: position, orientation, gripper


@dataclass
class Args:
    """All settings of a run; ``--help`` prints this list."""

    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "libero-object"
    """LIBERO suite: libero-object, -spatial, -goal, -10 or -90"""
    checkpoint: str = "libero-object"
    """policy to start from: the name of one that ships, or a path"""
    reward: Literal["srpo", "binary"] = "srpo"
    """what a failed episode earns: its progress, or nothing (plain GRPO)"""
    seed: int = 1
    """of the tasks drawn, the tokens sampled and the minibatches"""
    iterations: int = 100
    """updates of the policy"""
    stop_at: float | None = None
    """ends the run when the held-out success rate has reached this"""
    resume: str | None = None
    """folder of a run to go on with, from its newest checkpoint"""

    num_envs: int = 32
    """environments; any number of them share a process"""
    num_workers: int | None = None
    """simulator processes; default: one per core"""
    group_size: int = 8
    """episodes per group; M in the paper"""
    groups_per_iteration: int = 12
    """groups with signal that an update waits for; groups without are skipped"""
    max_groups_per_iteration: int = 24
    """groups after which the update comes all the same"""
    rollout_steps: int | None = None
    """control steps after which a training episode is cut off; default: the suite's limit"""
    reference: Literal["group", "task", "memory"] = "group"
    """which successes a failure is compared with"""
    formula: Literal["paper", "siirl"] = "paper"
    """how a distance becomes a reward; the paper's Eq. 5, or its authors' code"""

    learning_rate: float = 7e-5
    """of AdamW, constant"""
    update_epochs: int = 2
    """passes over the chunks of an iteration"""
    minibatch_size: int = 128
    """chunks per gradient step"""
    clip_low: float = 0.2
    """lower half-width of the ratio's clipping range; epsilon in Eq. 7"""
    clip_high: float = 0.28
    """upper half-width; larger, as in the authors' code, to keep exploring"""
    kl_coef: float = 0.0
    """weight of the KL to the policy that the run started from; beta in Eq. 8"""
    target_kl: float = 0.012
    """KL per token to the old policy at which an iteration's update ends early"""
    temperature: float = 1.0
    """of the token distribution in rollouts and in the ratio; evaluation is greedy"""
    max_grad_norm: float = 1.0
    """gradient norm is cut to this"""

    eval_every: int = 10
    """iterations between held-out evaluations and checkpoints"""
    eval_episodes: int = 100
    """episodes of an evaluation, spread evenly over the tasks"""
    exp_name: str = "vla_grpo"
    """first part of the run's name"""
    run_dir: str = "runs"
    """where the run's folder is made"""
    torch_threads: int = 2
    """threads of an update; the simulators wait meanwhile"""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is one"""
    track: bool = False
    """send the curves to Weights & Biases too"""
    wandb_project_name: str = "srpo-env"
    """its project"""
    wandb_entity: str | None = None
    """its team"""

    @property
    def gym_id(self) -> str:
        """The environment's name in Gymnasium's registry."""
        return self.env_id if "/" in self.env_id else f"srpo_env/{self.env_id.replace('_', '-')}"

    @property
    def run_name(self) -> str:
        """Name of the run's folder."""
        return f"{self.env_id.split('/')[-1]}__{self.exp_name}__{self.reward}__{self.seed}"


# --- Environments: which episodes are run, and what is kept of them -----------------------------------


@dataclass
class TaskSampler:
    """Draws groups where they are likely to carry signal: at tasks neither hopeless nor solved."""

    num_tasks: int
    states: range
    rng: np.random.Generator
    success: list[float] = field(default_factory=list)
    """moving average of each task's success rate"""

    def __post_init__(self) -> None:
        self.success = self.success or [0.5] * self.num_tasks

    def draw(self) -> tuple[int, int]:
        """A task and an initial state."""
        rates = np.array(self.success)
        # The spread of a group's outcomes, with a floor: a task that is never tried is never solved.
        weights = np.maximum(rates * (1 - rates), 0.04)
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


ScoredGroup = tuple[Group, list[list[Chunk]]]
"""a closed group, and the chunks of each of its episodes"""


class Rollout:
    """Keeps every environment busy with episodes of the groups that are wanted.

    An environment whose episode has ended takes the next one from the queue at once, whether or
    not the others have ended. Episodes that are under way when enough groups are closed go on in the
    next iteration; each chunk remembers the probabilities of the policy that chose it.
    """

    def __init__(
        self, envs: SelfReferentialProgressWrapper, policy: Policy, sampler: TaskSampler, args: Args
    ) -> None:
        self.envs, self.policy, self.sampler, self.args = envs, policy, sampler, args
        self.cut()

    def cut(self) -> None:
        """Drops the episodes under way, so that nothing but the policy carries over."""
        self._queue: deque[tuple[int, int]] = deque()
        self._chunks: dict[int, list[Chunk]] = {}
        self._idle = np.ones(self.envs.num_envs, dtype=bool)
        self._steps = np.zeros(self.envs.num_envs, dtype=int)
        self._instructions: list[str] = [""] * self.envs.num_envs
        self.envs.close_groups()
        self.envs.pop_groups()

    def collect(self, state: TrainingState) -> list[ScoredGroup]:
        """Runs until enough groups with signal are closed; returns all closed ones with their chunks."""
        batch: list[ScoredGroup] = []
        with_signal = ended = 0
        while (
            with_signal < self.args.groups_per_iteration
            and len(batch) < self.args.max_groups_per_iteration
        ):
            self._refill()
            state.control_steps += self._step(state.generator)
            ended += int(self._idle.sum())
            if (
                self.args.reference == "task"
                and ended >= self.args.groups_per_iteration * self.args.group_size
            ):
                self.envs.close_groups()  # with this reference nothing is scored before
                ended = 0
            for group in self.envs.pop_groups():
                self.sampler.learn(group)
                with_signal += np.ptp(returns_of(group, self.args.reward)) > 0
                batch.append(
                    (group, [self._chunks.pop(episode.episode_id) for episode in group.episodes])
                )
        return batch

    def _refill(self) -> None:
        if not self._idle.any():
            return
        ids = np.zeros((2, self.envs.num_envs), dtype=int)
        for slot in np.flatnonzero(self._idle):
            if not self._queue:
                self._queue.extend([self.sampler.draw()] * self.args.group_size)
            ids[:, slot] = self._queue.popleft()
        options = {"reset_mask": self._idle.copy(), "task_id": ids[0], "init_state_id": ids[1]}
        self._observations, infos = self.envs.reset(options=options)
        for slot in np.flatnonzero(self._idle):
            self._instructions[slot] = infos["task"][slot]
            self._chunks[int(infos["episode_id"][slot])] = []
        self._steps[self._idle] = 0
        self._idle[:] = False

    def _step(self, generator: torch.Generator) -> int:
        inputs = self.policy.prepare(self._observations, self._instructions)
        tokens, log_probs = self.policy.sample(inputs, self.args.temperature, generator)
        actions = self.policy.actions(tokens)
        self._observations, _, terminations, truncations, infos = self.envs.step(actions)
        executed = infos["control_steps"] - self._steps
        for slot in range(self.envs.num_envs):
            mask = torch.arange(tokens.shape[1]) < executed[slot] * STEP_TOKENS
            chunk = Chunk(
                {k: v[slot] for k, v in inputs.items()}, tokens[slot], log_probs[slot], mask
            )
            self._chunks[int(infos["episode_id"][slot])].append(chunk)
        self._steps = infos["control_steps"].copy()
        self._idle = terminations | truncations
        return int(executed.sum())


# --- Maths --------------------------------------------------------------------------------------------


def returns_of(group: Group, reward: str) -> np.ndarray:
    """What each episode of a group earned, shape ``(len(group.episodes),)``. Eq. 5, or success alone."""
    if reward == "srpo":
        return group.rewards
    return np.array([float(episode.success) for episode in group.episodes])


def group_advantages(returns: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """Advantage of each episode within its group, shape of ``returns``. Eq. 6."""
    return (returns - returns.mean()) / (returns.std() + eps)


def surrogate_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Clipped surrogate over the tokens that were executed, to be minimised. Eqs. 7 and 8.

    Args:
        log_probs: Of the sampled tokens under the policy that learns, shape ``(B, 56)``.
        old_log_probs: The same under the policy that acted.
        advantages: One for each chunk's episode, shape ``(B,)``.
        mask: True for the tokens that count, shape ``(B, 56)``.
        clip_low: How far below 1 the ratio may go.
        clip_high: How far above.
    """
    ratio = (log_probs - old_log_probs).exp()
    advantages = advantages[:, None]  # one value for all tokens of an episode
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.min(ratio * advantages, clipped * advantages)
    # The mean over tokens that were executed: counting the rest would shrink chunks cut short.
    return -(surrogate * mask).sum() / mask.sum()


def kl_to(log_probs: Tensor, other_log_probs: Tensor, mask: Tensor) -> Tensor:
    """KL of the policy to another per token, estimated at sampled tokens; never negative (Schulman's k3)."""
    log_ratio = other_log_probs - log_probs
    return ((log_ratio.exp() - 1 - log_ratio) * mask).sum() / mask.sum()


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
    advantages: list[float] = []
    for group, episodes in batch:
        returns = returns_of(group, args.reward)
        if np.ptp(returns) == 0:
            continue  # nothing to compare: all advantages are zero
        for advantage, episode in zip(group_advantages(returns), episodes, strict=True):
            chunks.extend(episode)
            advantages.extend([float(advantage)] * len(episode))
    if not chunks:
        return {}
    device = next(policy.parameters()).device
    inputs = {k: torch.stack([c.inputs[k] for c in chunks]) for k in chunks[0].inputs}
    tokens = torch.stack([c.tokens for c in chunks])
    old_log_probs = torch.stack([c.log_probs for c in chunks])
    masks = torch.stack([c.mask for c in chunks])
    advantage = torch.tensor(advantages)
    logs: dict[str, list[float]] = {}
    for _ in range(args.update_epochs):
        for rows in torch.randperm(len(chunks), generator=generator).split(args.minibatch_size):
            x = {k: v[rows].to(device) for k, v in inputs.items()}
            token, old, mask = (
                tokens[rows].to(device),
                old_log_probs[rows].to(device),
                masks[rows].to(device),
            )
            log_probs, entropy = policy.log_probs(x, token, args.temperature)
            loss = surrogate_loss(
                log_probs, old, advantage[rows].to(device), mask, args.clip_low, args.clip_high
            )
            with torch.no_grad():
                kl = float(kl_to(old, log_probs, mask))
                ratio = (log_probs - old).exp()
                outside = ((ratio < 1 - args.clip_low) | (ratio > 1 + args.clip_high)) & mask
                log = {
                    "surrogate": float(loss),
                    "kl_old": kl,
                    "clipped": float(outside.sum() / mask.sum()),
                    "entropy": float((entropy * mask).sum() / mask.sum()),
                }
            if reference_policy is not None:
                with torch.no_grad():
                    reference, _ = reference_policy.log_probs(x, token, args.temperature)
                penalty = kl_to(log_probs, reference, mask)
                loss = loss + args.kl_coef * penalty  # omega in Eq. 8
                log["kl_reference"] = float(penalty)
            for name, value in log.items():
                logs.setdefault(name, []).append(value)
            if kl > args.target_kl:
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            optimizer.step()
        else:
            continue
        break
    return {name: float(np.mean(values)) for name, values in logs.items()} | {
        "gradient_steps": len(logs["kl_old"])
    }


# --- Checkpoints: the policy for whoever wants it, and what this run needs to go on ---------------------


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

    def progress(self) -> dict[str, Any]:
        """The part that is numbers, for JSON."""
        return {
            "iteration": self.iteration,
            "control_steps": self.control_steps,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "task_success": self.sampler.success,
            "sampler_rng": self.sampler.rng.bit_generator.state,
        }

    def restore(self, checkpoint: Path) -> None:
        """Takes over a checkpoint, so that the run goes on as if it had never stopped."""
        self.policy.load_state_dict(load_policy(checkpoint / "policy").state_dict())
        tensors = load_file(checkpoint / "training.safetensors")
        self.generator.set_state(tensors.pop("generator"))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        progress = json.loads((checkpoint / "training.json").read_text())
        self.iteration, self.control_steps = progress["iteration"], progress["control_steps"]
        self.episodes, self.seconds = progress["episodes"], progress["seconds"]
        self.sampler.success = progress["task_success"]
        self.sampler.rng.bit_generator.state = progress["sampler_rng"]


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Writes a checkpoint; the newest one is complete at any moment, Ctrl-C and power cuts included."""
    target = folder / "checkpoints" / f"iteration_{state.iteration:04d}"
    draft = folder / "checkpoints" / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    state.policy.save(draft / "policy", provenance={"agent": "vla_grpo", **state.progress()})
    tensors = {"generator": state.generator.get_state()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors.update(
            {f"{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        )
    save_file(tensors, draft / "training.safetensors")
    (draft / "training.json").write_text(json.dumps(state.progress(), indent=2))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)


def newest_checkpoint(folder: Path) -> Path:
    """The last one that a run wrote."""
    found = sorted((folder / "checkpoints").glob("iteration_*"))
    if not found:
        raise SystemExit(
            f"--resume must name the folder of a run with checkpoints, and {str(folder)!r} has none"
        )
    return found[-1]


# --- What a person sees -----------------------------------------------------------------------------------


class Log:
    """One line per iteration, and the same figures for TensorBoard (and Weights & Biases)."""

    def __init__(self, args: Args, folder: Path, state: TrainingState) -> None:
        self.args, self.state = args, state
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "args.json").write_text(json.dumps(asdict(args), indent=2))
        if args.track:
            import wandb

            wandb.init(
                project=args.wandb_project_name, entity=args.wandb_entity, name=args.run_name,
                config=asdict(args), sync_tensorboard=True,
            )  # fmt: skip
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("args", f"```json\n{json.dumps(asdict(args), indent=2)}\n```")
        self.success_rate: float | None = None
        self.held_out = "-"
        self.started = time.monotonic() - state.seconds
        self.history = folder / "history.jsonl"
        print(f"{args.run_name}: {folder}", flush=True)

    def iteration(self, batch: list[ScoredGroup], losses: dict[str, float]) -> None:
        """Prints and logs an iteration."""
        state, args = self.state, self.args
        groups = [group for group, _ in batch]
        episodes = [episode for group in groups for episode in group.episodes]
        state.episodes += len(episodes)
        state.seconds = time.monotonic() - self.started
        signal = sum(np.ptp(returns_of(group, args.reward)) > 0 for group in groups)
        values = {
            "rollout/success_rate": float(np.mean([episode.success for episode in episodes])),
            "signal/with_signal": signal / len(groups),
            "signal/shaped": sum(group.shaped for group in groups) / len(groups),
            "signal/no_success": sum(group.num_successes == 0 for group in groups) / len(groups),
            "charts/steps_per_second": state.control_steps / state.seconds,
            **{f"loss/{name}": value for name, value in losses.items()},
        }
        self.write(values)
        remaining = (args.iterations - state.iteration) * state.seconds / state.iteration
        print(
            f"{state.iteration:4d}/{args.iterations}  success {values['rollout/success_rate']:4.0%} of {len(episodes)}"
            f"  held-out {self.held_out}  signal {signal}/{len(groups)}  kl {losses.get('kl_old', 0):.4f}"
            f"  {values['charts/steps_per_second']:.0f} steps/s  {state.seconds / 60:.0f} min, {remaining / 60:.0f} to go",
            flush=True,
        )

    def evaluation(self, result: Evaluation) -> None:
        """Prints and logs a held-out evaluation."""
        self.success_rate = result.success_rate
        self.held_out = f"{result.success_rate:.0%}"
        self.state.seconds = time.monotonic() - self.started
        tasks = result.by_task()
        values = {"eval/success_rate": result.success_rate}
        values.update({f"eval/task_{task}": part.success_rate for task, part in tasks.items()})
        self.write(values)
        shares = " ".join(f"{part.num_successes}/{len(part.episodes)}" for part in tasks.values())
        print(f"held-out success {result} episodes; by task {shares}", flush=True)

    def write(self, values: dict[str, float]) -> None:
        """Logs figures at the present number of control steps."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, self.state.control_steps)
        record = {
            key: value
            for key, value in self.state.progress().items()
            if not isinstance(value, dict | list)
        }
        with self.history.open("a") as file:
            file.write(json.dumps(record | values) + "\n")

    def reached(self, success_rate: float | None) -> bool:
        """Whether the last evaluation was as good as asked for."""
        return (
            success_rate is not None
            and self.success_rate is not None
            and self.success_rate >= success_rate
        )

    def close(self) -> None:
        """Writes what is still buffered."""
        self.writer.close()


# --- Main -----------------------------------------------------------------------------------------------


def main(args: Args) -> None:
    """Trains a policy; an iteration is a rollout, its rewards and a few gradient steps."""
    # --- Setup: seeds, policy, optimizer, environments, logger ---
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.torch_threads)
    device = (
        args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    policy = load_policy(args.checkpoint).to(device)
    reference_policy = load_policy(args.checkpoint).to(device) if args.kl_coef else None
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=args.learning_rate, eps=1e-5, weight_decay=0.0
    )
    libero = gymnasium.make_vec(
        args.gym_id,
        num_envs=args.num_envs,
        num_workers=args.num_workers,
        autoreset_mode=AutoresetMode.DISABLED,
        max_steps=args.rollout_steps,
    )
    envs = SelfReferentialProgressWrapper(
        libero,
        PixelEncoder(),
        group_size=args.group_size,
        reference=args.reference,
        formula=args.formula,
    )
    sampler = TaskSampler(libero.num_tasks, TRAINING_STATES, np.random.default_rng(args.seed))
    state = TrainingState(policy, optimizer, torch.Generator().manual_seed(args.seed), sampler)
    folder = Path(args.resume) if args.resume else Path(args.run_dir) / args.run_name
    if args.resume:
        state.restore(newest_checkpoint(folder))
    log = Log(args, folder, state)
    rollout = Rollout(envs, policy, sampler, args)
    try:
        if not args.resume:
            log.evaluation(held_out(libero, policy, args))
            save_checkpoint(folder, state)
        while state.iteration < args.iterations and not log.reached(args.stop_at):
            # --- Rollout: whole episodes; their returns are the progress rewards (Eqs. 2-5) ---
            batch = rollout.collect(state)
            # --- Update: clipped surrogate over the action tokens that were sampled (Eqs. 6-8) ---
            losses = update(policy, reference_policy, optimizer, batch, args, state.generator)
            state.iteration += 1
            log.iteration(batch, losses)
            if state.iteration % args.eval_every == 0 or state.iteration == args.iterations:
                # A clean cut: a run that is resumed here starts the same episodes as one that goes on.
                rollout.cut()
                log.evaluation(held_out(libero, policy, args))
                save_checkpoint(folder, state)
    except KeyboardInterrupt:
        save_checkpoint(folder, state)
        print(f"\nStopped. Go on with: python agents/vla_grpo.py --resume {folder}")
    finally:
        envs.close()
        log.close()


def held_out(libero: gymnasium.vector.VectorEnv, policy: Policy, args: Args) -> Evaluation:
    """Greedy success on initial states that are never trained on."""
    episodes = held_out_episodes(libero.num_tasks, args.eval_episodes)
    return evaluate(policy.act, libero, episodes)


if __name__ == "__main__":
    main(tyro.cli(Args))
