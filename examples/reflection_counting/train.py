"""Train a tiny model from scratch to answer, reflect and answer again, with several rewards.

    python examples/reflection_counting/train.py --reward paper released --seed 1
    nice python examples/reflection_counting/train.py    # all rewards and controls, seeds 6 to 10
    python examples/reflection_counting/report.py        # the table

Results that exist in --folder are kept, so an interrupted study continues with the run at which it
was stopped. Needs `pip install torch tyro`. Uses one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from model import Model, decode, encode, mask_of
from task import Problems, draw_problems, first_text
from teacher import oracle
from torch import Tensor

from srpo_env.reflection import ReflectionReward
from srpo_env.reflection.data import reflection_data

NO_EFFECTIVENESS = {"keep": 0.0, "fix": 0.0, "mislead": 0.0}
ONLY_FIRST = NO_EFFECTIVENESS | {"format": 0.0, "reflection_format": 0.0, "brevity": 0.0}

REWARDS: dict[str, Callable[[], ReflectionReward]] = {
    "paper": ReflectionReward.paper,
    "no_brevity": lambda: ReflectionReward(brevity=0.0),
    "no_effectiveness": lambda: ReflectionReward(**NO_EFFECTIVENESS),
    "final_only": ReflectionReward.final_only,
    "released": ReflectionReward.released,
}
"""Rewards that continue from the model after reflection SFT."""
CONTROLS = ("no_rl", "plain_grpo", "plain_sft")
"""The model after reflection SFT; the weak base model with GRPO on one answer; the base model with
SFT on right reasoning, as many examples and steps as reflection SFT."""
RUNS = (*REWARDS, *CONTROLS)


@dataclass(frozen=True)
class Args:
    """Settings of the study."""

    reward: tuple[str, ...] = RUNS
    """Rewards and controls to run."""
    seed: tuple[int, ...] = (6, 7, 8, 9, 10)
    """Seeds of the problems, the model and the sampling."""
    steps: int = 400
    """Steps of reinforcement learning."""
    folder: Path = Path("runs/reflection_counting")
    """Where the models after stages 0 and 1 and the results are written."""

    # Stage 0: a weak base model.
    base_accuracy: float = 0.45
    """Share of right samples at which the training of the base model ends."""
    base_steps: int = 2500
    """Steps after which it is an error not to have reached it."""

    # Stage 1: reflection SFT.
    sft_examples: int = 10000
    """Number of examples, 30% of them with a right first answer."""
    sft_steps: int = 900
    """Steps of reflection SFT."""

    # Stage 2: GRPO.
    prompts: int = 32
    """Problems per step."""
    group_size: int = 8
    """Responses to each problem."""
    learning_rate: float = 3e-4
    """Learning rate of Adam in stage 2; in the others it is 1e-3."""
    warmup_steps: int = 20
    """Steps in which it rises. Without, the first steps of Adam spoil what stage 1 taught."""

    eval_problems: int = 1000
    """Held-out problems, answered without sampling."""

    def __post_init__(self) -> None:
        """Checks the names of the rewards."""
        for name in self.reward:
            if name not in RUNS:
                raise ValueError(f"--reward must be among {RUNS}, got {name!r}")


@dataclass
class Stream:
    """Random numbers of one stage of one seed."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int, stage: str) -> Stream:
        """Returns generators that depend on the seed and the stage only."""
        sequence = np.random.SeedSequence([seed, *stage.encode()])
        return cls(
            np.random.default_rng(sequence),
            torch.Generator().manual_seed(int(sequence.generate_state(1)[0])),
        )


# --- Supervised stages ---


def supervised_step(
    model: Model, optimizer: torch.optim.Optimizer, problems: Problems, tokens: Tensor
) -> float:
    """Maximises the likelihood of whole responses, the first answer included (Eq. 1)."""
    loss = -model.log_probs(problems, tokens).sum() / mask_of(tokens).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_base(args: Args, seed: int) -> Model:
    """Stage 0: learns to count, and stops while most answers are still wrong."""
    stream = Stream.of(seed, "base")
    torch.manual_seed(seed)  # of the initial weights
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(1, args.base_steps + 1):
        problems = draw_problems(128, stream.numpy)
        texts = [first_text(*pair) for pair in zip(problems.counts, problems.answers, strict=True)]
        supervised_step(model, optimizer, problems, encode(texts))
        if step % 25 == 0:
            problems = draw_problems(500, stream.numpy)
            texts = decode(model.sample(problems, generator=stream.torch))
            reward = ReflectionReward()
            right = [
                reward.assess(text, answer).first_correct
                for text, answer in zip(texts, problems.answers, strict=True)
            ]
            if np.mean(right) >= args.base_accuracy:
                print(
                    f"  base: {step} steps, {np.mean(right):.2f} of the samples right", flush=True
                )
                return model
    raise RuntimeError(f"The base model must reach --base-accuracy in {args.base_steps} steps")


def train_reflection(args: Args, seed: int, model: Model) -> None:
    """Stage 1: samples the model's own first answers, has the teacher reflect, and imitates."""
    stream = Stream.of(seed, "reflection")
    problems = draw_problems(2 * args.sft_examples, stream.numpy)
    texts = []
    for rows in np.array_split(np.arange(len(problems)), max(1, len(problems) // 1000)):
        texts += decode(model.sample(problems[rows], generator=stream.torch))
    responses = zip(range(len(problems)), texts, problems.answers, strict=True)
    teacher = oracle(problems, stream.numpy)
    examples = list(reflection_data(responses, teacher, args.sft_examples, stream.numpy))
    fit(
        model,
        problems[np.array([example.problem for example in examples])],
        [spaced(example.text) for example in examples],
        args.sft_steps,
        stream,
    )


def train_plain(args: Args, seed: int, model: Model) -> None:
    """The control of stage 1: as many examples and steps, but right reasoning and one answer."""
    stream = Stream.of(seed, "plain")
    problems = draw_problems(args.sft_examples, stream.numpy)
    texts = [first_text(*pair) for pair in zip(problems.counts, problems.answers, strict=True)]
    fit(model, problems, texts, args.sft_steps, stream)


def fit(model: Model, problems: Problems, texts: list[str], steps: int, stream: Stream) -> None:
    """Supervised fine-tuning on batches of 128."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tokens = encode(texts)
    for _ in range(steps):
        rows = stream.numpy.integers(len(problems), size=128)
        batch = tokens[rows]
        longest = int(mask_of(batch).sum(dim=1).max())
        supervised_step(model, optimizer, problems[rows], batch[:, :longest])


def spaced(text: str) -> str:
    """Puts spaces around tags, which are words of the model."""
    return text.replace("<", " <").replace(">", "> ").strip()


# --- Reinforcement learning ---


def train_rl(args: Args, seed: int, model: Model, reward: ReflectionReward) -> list[dict]:
    """Stage 2: GRPO, one on-policy step per batch, without a KL term.

    Returns:
        The mean metrics of the reward in every step.
    """
    stream = Stream.of(seed, "rl")
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1 / args.warmup_steps, total_iters=args.warmup_steps
    )
    history: list[dict[str, float]] = []
    for _ in range(args.steps):
        problems = draw_problems(args.prompts, stream.numpy)
        tokens = model.sample(problems, args.group_size, stream.torch)
        metrics: dict[str, float] = {}
        rewards = torch.tensor(
            reward(  # as TRL calls it
                completions=decode(tokens),
                answer=np.repeat(problems.answers, args.group_size).tolist(),
                log_metric=metrics.__setitem__,
            )
        ).view(args.prompts, args.group_size)
        centered = rewards - rewards.mean(dim=1, keepdim=True)
        advantages = (centered / (rewards.std(dim=1, keepdim=True) + 1e-4)).flatten()
        # On-policy: the ratio of the probabilities is 1, so its gradient is that of the log.
        log_probs = model.log_probs(problems, tokens, args.group_size).sum(dim=1)
        loss = -(advantages * log_probs / mask_of(tokens).sum(dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append({"loss": loss.item(), "reward": rewards.mean().item(), **metrics})
    return history


@torch.no_grad()
def evaluate(args: Args, model: Model) -> dict[str, object]:
    """Answers held-out problems, the same for all runs, with the most probable words."""
    problems = draw_problems(args.eval_problems, np.random.default_rng(2**32))
    texts = decode(model.sample(problems))
    reward = ReflectionReward()
    rows = [reward.assess(text, label) for text, label in zip(texts, problems.answers, strict=True)]
    cases = [f"{'wr'[row.first_correct]}{'wr'[row.final_correct]}" for row in rows]
    words = [[len((block or "").split()) for block in row.trace.blocks] for row in rows]
    return {
        "first": float(np.mean([row.first_correct for row in rows])),
        "final": float(np.mean([row.final_correct for row in rows])),
        "well_formed": float(np.mean([row.trace.well_formed for row in rows])),
        "cases": {case: cases.count(case) for case in ("rr", "wr", "rw", "ww")},
        "lengths": [sum(row) for row in words],
        "first_lengths": [sum(row[:2]) for row in words],
        "example": texts[0],
    }


# --- The study ---


def run(args: Args, seed: int, name: str) -> None:
    """Trains and evaluates one model, and writes its result."""
    target = args.folder / f"seed_{seed}" / f"{name}.json"
    if target.exists():
        return
    start = time.process_time()
    model = Model()
    stage = "base" if name.startswith("plain") else "reflection"
    model.load_state_dict(torch.load(stage_file(args, seed, stage), weights_only=True))
    history: list[dict] = []
    if name in REWARDS:
        history = train_rl(args, seed, model, REWARDS[name]())
    elif name == "plain_grpo":
        history = train_rl(args, seed, model, ReflectionReward(**ONLY_FIRST))
    elif name == "plain_sft":
        train_plain(args, seed, model)
    result = evaluate(args, model)
    result |= {"seed": seed, "run": name, "history": history}
    result |= {"settings": {k: str(v) for k, v in asdict(args).items()}}
    result["cpu_seconds"] = time.process_time() - start
    write(target, lambda file: file.write_text(json.dumps(result) + "\n"))
    print(
        f"  {name}: first {result['first']:.2f}, final {result['final']:.2f}, "
        f"length {np.mean(result['lengths']):.1f}, {result['cpu_seconds']:.0f} s",
        flush=True,
    )


def stage_file(args: Args, seed: int, stage: str) -> Path:
    """Returns the file of the model after stage 0 ("base") or 1 ("reflection"), made if missing."""
    file = args.folder / f"seed_{seed}" / f"{stage}.pt"
    if not file.exists():
        if stage == "base":
            model = train_base(args, seed)
        else:
            model = Model()
            model.load_state_dict(torch.load(stage_file(args, seed, "base"), weights_only=True))
            train_reflection(args, seed, model)
        write(file, lambda draft: torch.save(model.state_dict(), draft))
    return file


def write(file: Path, save: Callable[[Path], object]) -> None:
    """Writes a file in one step, so that a run that was stopped leaves no half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}")
    save(draft)
    draft.replace(file)


def main(args: Args) -> None:
    """Runs what is missing."""
    torch.set_num_threads(1)
    for seed in args.seed:
        print(f"seed {seed}", flush=True)
        for name in args.reward:
            run(args, seed, name)


if __name__ == "__main__":
    main(tyro.cli(Args))
