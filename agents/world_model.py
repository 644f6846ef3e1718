"""A small V-JEPA 2 from videos of robot episodes, in one file: hide, and predict the latents.

Its latents measure progress in `agents/vla_grpo.py`. The training is V-JEPA's own: the encoder sees
a clip with large blocks hidden throughout, the predictor says what a slowly moving average of the
encoder would make of them, and no label, action or reward is used.
Paper: https://arxiv.org/abs/2506.09985 (V-JEPA 2), its masks from https://arxiv.org/abs/2404.08471.

    srpo-env record-behaviours --out episodes
    python agents/world_model.py --videos episodes
    python agents/world_model.py --resume runs/NAME          # goes on with a run

What is logged:

* ``loss/training``, ``loss/held_out``: mean absolute error of the predicted latents, which have
  variance 1; the second on episodes that are never trained on;
* ``collapse/spread``: how much a token at one place differs from clip to clip, as a share of its
  size; ``collapse/dead_dimensions``: the share of latent dimensions that hardly vary;
* ``collapse/rank``: effective rank of the held-out clips' latents. A model that gives all clips the
  same latent has no loss either, and its rank is 1;
* ``charts/learning_rate``, ``charts/clips_per_second``.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from tqdm import tqdm
from transformers import VJEPA2Config, VJEPA2Model
from transformers.utils.logging import disable_progress_bar

from srpo_env.cli.main import errors_as_sentences
from srpo_env.encoders.clips import Clips, split_videos
from srpo_env.encoders.collapse import collapse_of
from srpo_env.encoders.preprocessing import VideoPreprocessing
from srpo_env.encoders.vjepa2 import load_model
from srpo_env.libero.behaviour_files import read_videos
from srpo_env.training.checkpoint import (
    load_optimizer,
    newest_checkpoint,
    optimizer_tensors,
)
from srpo_env.training.run_log import RunLog

LOG_EVERY = 10

# A bar for people; a line now and then for log files.
BAR_SECONDS = 0.2 if sys.stderr.isatty() else 60.0


class Blocks(NamedTuple):
    """A way to hide parts of a clip: so many blocks, each a share of the picture, at all times."""

    count: int
    area: float


MASKS = (Blocks(8, 0.15), Blocks(2, 0.7))
"""Every clip is hidden in both ways. Source: V-JEPA's short-range and long-range masks."""

ASPECTS = (0.75, 1.5)
"""Least and greatest height of a block over its width. Source: V-JEPA."""

LEAST_CONTEXT = 0.15
"""Share of a clip that stays visible at least. V-JEPA asks for one token only; but its grid is
finer, and here too all clips of a batch see as little as the one that sees least."""


@dataclass
class Args:
    """All settings of a run; ``--help`` prints this list."""

    videos: tuple[Path, ...] = (Path("episodes"),)
    """files or folders of episodes or demonstrations; several are mixed"""
    seed: int = 1  # of the weights, the clips and the masks
    resume: Path | None = None  # folder of a run to go on with; its settings are the defaults then

    steps: int = 3000  # gradient steps
    batch_size: int = 32  # clips per step
    learning_rate: float = 6e-4  # highest of AdamW's schedule: up linearly, down as a cosine
    warmup: float = 0.05  # share of the steps in which the learning rate rises
    weight_decay: float = 0.04  # of AdamW, on weight matrices
    ema: float = 0.998  # share of itself that the target encoder keeps in a step
    max_grad_norm: float = 1.0  # gradient norm is cut to this

    crop_size: int = 112
    """height and width in pixels of what the model sees, the middle 7/8 of a frame"""
    patch_size: int = 16  # height and width of a token in pixels
    frames_per_clip: int = 16  # frames that the model sees of an episode
    tubelet_size: int = 2  # frames that a token spans
    hidden_size: int = 192  # dimensions of a latent
    layers: int = 6  # of the encoder
    heads: int = 3  # of its attention
    predictor_size: int = 96  # dimensions inside the predictor
    predictor_layers: int = 3  # of the predictor
    predictor_heads: int = 3  # of its attention

    least_window: float = 0.5  # a clip is a random part of an episode, at least this share of it
    shift: int = 8  # augmentation: pixels by which a clip's crop is off the middle, at most
    jitter: float = 0.2
    """augmentation: relative change of brightness, and half of it of each colour"""

    held_out: int = 64  # episodes that are not trained on, for the checks
    check_every: int = 100  # steps between two checks
    save_every: int = 250  # steps between two checkpoints
    exp_name: str = "world_model"  # first part of the run's name
    run_dir: Path = Path("runs")  # where the run's folder is made
    torch_threads: int = 2  # threads of a gradient step
    device: str = "auto"  # cpu, cuda, or auto: cuda if there is one
    bf16: bool = False
    """compute in bfloat16 where it does no harm; faster where the hardware has it"""
    compile: bool = False
    """compile the layers first, which takes two minutes and a C++ compiler; 1.4 times as fast"""
    track: bool = False  # send the curves to Weights & Biases too
    wandb_project_name: str = "srpo-env"  # its project
    wandb_entity: str | None = None  # its team

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        at_least_one = ("steps", "batch_size", "check_every", "save_every")
        for name, least in (("held_out", 2), *((name, 1) for name in at_least_one)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.least_window <= 1:
            raise ValueError(f"`least_window` must be in (0, 1], got {self.least_window}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"`ema` must be in [0, 1), got {self.ema}")
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"`jitter` must be in [0, 0.5), got {self.jitter}")
        if self.crop_size < 4 * self.patch_size:
            raise ValueError(
                "`crop_size` must be at least 4 patches, or blocks would hide everything, got "
                f"{self.crop_size} with patches of {self.patch_size}"
            )
        for name, size, divisor in (
            ("crop_size", self.crop_size, self.patch_size),
            ("frames_per_clip", self.frames_per_clip, self.tubelet_size),
            ("hidden_size", self.hidden_size, self.heads),
            ("predictor_size", self.predictor_size, self.predictor_heads),
        ):
            if size % divisor:
                raise ValueError(f"`{name}` must be a multiple of {divisor}, got {size}")

    @property
    def grid(self) -> int:
        """Tokens along a side of the picture."""
        return self.crop_size // self.patch_size

    @property
    def times(self) -> int:
        """Tokens along a clip's time."""
        return self.frames_per_clip // self.tubelet_size

    def model_config(self) -> VJEPA2Config:
        """The model's settings in the words of ``transformers``."""
        return VJEPA2Config(
            crop_size=self.crop_size,
            patch_size=self.patch_size,
            frames_per_clip=self.frames_per_clip,
            tubelet_size=self.tubelet_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            pred_hidden_size=self.predictor_size,
            pred_num_hidden_layers=self.predictor_layers,
            pred_num_attention_heads=self.predictor_heads,
            pred_num_mask_tokens=1,
        )


# --- Clips: what is learnt from ---


def read_clips(args: Args) -> tuple[Clips, Clips]:
    """Clips to learn from and held-out ones."""
    preprocessing = VideoPreprocessing.for_crop(args.crop_size)
    videos = tqdm(read_videos(args.videos), "reading", unit="video", mininterval=BAR_SECONDS)
    training, held_out = split_videos(videos, preprocessing, args.held_out, args.seed)
    settings = {"preprocessing": preprocessing, "num_frames": args.frames_per_clip}
    augmentation = {
        "min_window": args.least_window, "shift": args.shift, "jitter": args.jitter,
    }  # fmt: skip
    return Clips(training, **settings, **augmentation), Clips(held_out, **settings)


# --- Masks: what is hidden ---


def hide(blocks: Blocks, grid: int, times: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which tokens of a clip are hidden, shape ``(times * grid * grid,)``."""
    while True:
        hidden = np.zeros((grid, grid), dtype=bool)
        for _ in range(blocks.count):
            aspect = rng.uniform(*ASPECTS)
            area = blocks.area * grid * grid
            height = int(np.clip(round(math.sqrt(area * aspect)), 1, grid))
            width = int(np.clip(round(math.sqrt(area / aspect)), 1, grid))
            top, left = rng.integers(grid - height + 1), rng.integers(grid - width + 1)
            hidden[top : top + height, left : left + width] = True
        if hidden.mean() <= 1 - LEAST_CONTEXT:
            return np.tile(hidden.ravel(), times)


def draw_masks(
    args: Args, blocks: Blocks, rng: np.random.Generator, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Ids of visible and of hidden tokens, ``(batch, num_visible)`` and ``(batch, num_hidden)``.

    Each clip has its own; of those that have more than another, some are left out at random.
    """
    hidden = [hide(blocks, args.grid, args.times, rng) for _ in range(batch_size)]
    ids = []
    for masks in ([~mask for mask in hidden], hidden):
        count = min(int(mask.sum()) for mask in masks)
        rows = [rng.choice(np.flatnonzero(mask), count, replace=False) for mask in masks]
        ids.append(torch.from_numpy(np.sort(np.stack(rows), axis=1)))
    return ids[0], ids[1]


# --- The objective ---


class WorldModel(nn.Module):
    """Encoder and predictor, which learn, and the target encoder, which follows."""

    def __init__(self, config: VJEPA2Config) -> None:
        """Draws the weights from torch's global generator."""
        super().__init__()
        self.online = VJEPA2Model(config)
        self.target = copy.deepcopy(self.online.encoder).requires_grad_(False)

    def loss(self, pixels: Tensor, masks: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean absolute error of what is predicted for hidden tokens.

        Args:
            pixels: Normalised clips, ``(batch, num_frames, 3, crop, crop)``.
            masks: Ids of visible and of hidden tokens, as from `draw_masks`.
        """
        cubes = cut_up(pixels, self.online.config)
        with torch.no_grad():
            targets = self.latents(pixels)
            # Without a size of their own, the targets cannot shrink to make the task easy.
            targets = layer_norm(targets, targets.shape[-1:])
        losses = []
        for visible, hidden in masks:
            # `VJEPA2Model.forward` would show the encoder all tokens and hide some afterwards; in
            # V-JEPA the encoder does not see what is hidden.
            context = encode(self.online.encoder, take(cubes, visible), visible)
            # The predictor takes the visible tokens out of a whole clip; the rest is never read.
            clip = context.new_zeros((*targets.shape[:2], context.shape[2]))
            clip = clip.scatter(1, visible[..., None].expand_as(context), context)
            predicted = self.online.predictor(clip, [visible], [hidden]).last_hidden_state
            losses.append((predicted.float() - take(targets, hidden)).abs().mean())
        return torch.stack(losses).mean()

    def latents(self, pixels: Tensor) -> Tensor:
        """Tokens of whole clips by the target encoder, ``(batch, tokens, hidden)``, float32."""
        return encode(self.target, cut_up(pixels, self.online.config)).float()

    def compile_layers(self) -> None:
        """Lets torch compile each layer when it first runs; what they compute stays the same."""
        for stack in (self.online.encoder, self.online.predictor, self.target):
            for layer in stack.layer:
                layer.compile(dynamic=True)  # each mask leaves another number of tokens

    @torch.no_grad()
    def follow(self, ema: float) -> None:
        """Moves the target encoder a little towards the encoder."""
        online = list(self.online.encoder.parameters())
        torch._foreach_lerp_(list(self.target.parameters()), online, 1 - ema)

    def product(self) -> VJEPA2Model:
        """What is kept in the end: the target encoder, with the predictor."""
        model = copy.deepcopy(self.online)
        model.encoder.load_state_dict(self.target.state_dict())
        return model


def cut_up(pixels: Tensor, config: VJEPA2Config) -> Tensor:
    """Clips cut into what a token sees, ``(batch, tokens, pixels of a token)``."""
    cubes = pixels.unflatten(1, (-1, config.tubelet_size))  # (batch, times, tubelet, 3, crop, crop)
    cubes = cubes.unflatten(5, (-1, config.patch_size)).unflatten(4, (-1, config.patch_size))
    return cubes.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)


def encode(encoder: nn.Module, cubes: Tensor, ids: Tensor | None = None) -> Tensor:
    """Encodes all tokens of clips, or those that have these ids; ``(batch, num_ids, hidden)``.

    As `transformers` does it, but for the convolution: its patches do not overlap, so it is a
    matrix product, which is several times as fast on a CPU and can be of some patches only.
    """
    convolution = encoder.embeddings.patch_embeddings.proj
    tokens = linear(cubes, convolution.weight.flatten(1), convolution.bias)
    for layer in encoder.layer:
        tokens = layer(tokens, ids)[0]
    encoded: Tensor = encoder.layernorm(tokens)
    return encoded


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """The tokens with these ids, ``(batch, num_ids, hidden)``."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


# --- Checkpoints ---


class Training:
    """All that a run needs to go on; every draw comes from the seed and the step's number."""

    def __init__(self, args: Args, device: str) -> None:
        """Begins anew."""
        torch.manual_seed(args.seed)
        self.args, self.device, self.step = args, device, 0
        self.model = WorldModel(args.model_config()).to(device)
        learning = [p for p in self.model.online.parameters() if p.requires_grad]
        # Biases, norms and the mask token are no matrices, and are not pulled to 0.
        groups = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))

    def autocast(self) -> torch.autocast:
        """Where the model computes, in the precision that was asked for."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.args.bf16)

    def learning_rate(self) -> float:
        """Of the step under way."""
        args = self.args
        rising = max(1.0, args.warmup * args.steps)
        done = (self.step - rising) / max(1.0, args.steps - rising)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
        return args.learning_rate * min(self.step / rising, 1.0) * max(falling, 0.01)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint in place of earlier ones; the newest is whole at any moment."""
        checkpoints = folder / "checkpoints"
        draft, target = checkpoints / ".draft", checkpoints / f"iteration_{self.step:06d}"
        shutil.rmtree(draft, ignore_errors=True)
        export(draft / "model", self, torch.float32)
        online = {f"online.{k}": v for k, v in self.model.online.state_dict().items()}
        state = {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        save_file(online | state, draft / "training.safetensors")
        (draft / "training.json").write_text(json.dumps({"iteration": self.step}))
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        for old in checkpoints.glob("iteration_*"):
            if old != target:
                shutil.rmtree(old)

    def restore(self, folder: Path) -> None:
        """Takes over a run's newest checkpoint."""
        checkpoint = newest_checkpoint(folder)
        parts: dict[str, dict[str, Tensor]] = {"online": {}, "optimizer": {}}
        for name, value in load_file(checkpoint / "training.safetensors").items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        self.model.online.load_state_dict(parts["online"])
        load_optimizer(self.optimizer, parts["optimizer"])
        target = load_model(checkpoint / "model", torch.float32).encoder
        self.model.target.load_state_dict(target.state_dict())
        self.step = json.loads((checkpoint / "training.json").read_text())["iteration"]


def export(
    folder: Path, training: Training, dtype: torch.dtype, story: dict[str, Any] | None = None
) -> None:
    """Writes the model as ``transformers`` and `VJEPA2Encoder` read it, and how it came about."""
    folder.mkdir(parents=True, exist_ok=True)
    training.model.product().to(dtype).save_pretrained(folder)
    VideoPreprocessing.for_crop(training.args.crop_size).write(folder)
    settings = json.loads(json.dumps(asdict(training.args), default=lambda path: path.name))
    content = {"agent": "world_model", "step": training.step, "args": settings, **(story or {})}
    (folder / "provenance.json").write_text(json.dumps(content, indent=2) + "\n")


# --- The run ---


@contextmanager
def finishing_the_step() -> Iterator[Callable[[], bool]]:
    """Ctrl-C lets the step under way end, so that a run goes on to the bit; twice is at once."""
    pressed = []

    def note(signum: int, frame: object) -> None:
        pressed.append(signum)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def parse_args(arguments: Sequence[str] | None = None) -> Args:
    """Reads the command line; with ``--resume``, the run's own settings are the defaults."""
    args = tyro.cli(Args, args=arguments)
    if args.resume is None:
        return args
    with errors_as_sentences("world_model.py"):
        newest_checkpoint(args.resume)  # says so if there is none
        content = json.loads((args.resume / "args.json").read_text())
        paths = {"videos": tuple(map(Path, content["videos"])), "run_dir": Path(content["run_dir"])}
        saved = Args(**{**content, **paths})
        args = tyro.cli(Args, args=arguments, default=saved)
        if args.model_config().to_dict() != saved.model_config().to_dict():
            raise ValueError("--resume keeps the model's size: start a new run for another")
    return args


@torch.no_grad()
def check(training: Training, held_out: Clips, device: str) -> dict[str, float]:
    """Loss and signs of collapse on the held-out episodes."""
    pixels = held_out.whole(device)
    rng = np.random.default_rng(0)  # the same masks each time
    batches = pixels.split(training.args.batch_size)
    losses = []
    for batch in batches:
        masks = [draw_masks(training.args, blocks, rng, len(batch)) for blocks in MASKS]
        on_device = [(visible.to(device), hidden.to(device)) for visible, hidden in masks]
        with training.autocast():
            losses.append(float(training.model.loss(batch, on_device)) * len(batch))
    with training.autocast():
        tokens = torch.cat([training.model.latents(batch) for batch in batches])
    collapse = collapse_of(tokens)
    values = {"loss/held_out": sum(losses) / len(pixels)}
    values |= {f"collapse/{name}": value for name, value in collapse._asdict().items()}
    tqdm.write(
        f"step {training.step:5d}: held-out loss {values['loss/held_out']:.3f}, "
        f"spread {collapse.spread:.3f}, effective rank {collapse.rank:.1f}, "
        f"dead dimensions {collapse.dead_dimensions:.0%}"
    )
    if collapse.is_real:
        tqdm.write(
            "WARNING: the model has COLLAPSED: different clips get the same latents, which measure "
            "nothing. Try a lower learning rate, or a higher --ema."
        )
    return values


def main(args: Args) -> Path:
    """Trains a world model and writes it out; returns the model's folder."""
    # --- Setup: seeds, videos, model, logger ---
    disable_progress_bar()  # that of transformers, for files that are written in no time
    torch.set_num_threads(args.torch_threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with errors_as_sentences("world_model.py"):
        clips, held_out = read_clips(args)
        training = Training(args, device)
        folder = args.resume or args.run_dir / f"{args.exp_name}__{args.seed}__{int(time.time())}"
        if args.resume:
            training.restore(folder)
        if args.compile:
            training.model.compile_layers()
        at = {"iteration": training.step, "step": training.step} if args.resume else None
        log = RunLog(folder, asdict(args), {}, resume_at=at)
    encoder = sum(p.numel() for p in training.model.target.parameters()) / 1e6
    print(
        f"{folder}: {len(clips.videos)} videos, {len(held_out.videos)} held out; encoder of "
        f"{encoder:.2f} million parameters, {args.times} x {args.grid} x {args.grid} tokens",
        flush=True,
    )
    # --- Training ---
    started, first = time.monotonic(), training.step
    bar = tqdm(
        total=args.steps, initial=first, desc="training", unit="step", mininterval=BAR_SECONDS
    )
    with bar, finishing_the_step() as stopped:
        while training.step < args.steps and not stopped():
            training.step += 1
            rng = np.random.default_rng([args.seed, training.step])
            drawn = rng.integers(len(clips.videos), size=args.batch_size)
            pixels = clips.draw(drawn, rng, device).pixels
            masks = [draw_masks(args, blocks, rng, args.batch_size) for blocks in MASKS]
            on_device = [(visible.to(device), hidden.to(device)) for visible, hidden in masks]
            with training.autocast():
                loss = training.model.loss(pixels, on_device)
            rate = training.learning_rate()
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            training.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(training.model.online.parameters(), args.max_grad_norm)
            training.optimizer.step()
            training.model.follow(args.ema)
            bar.update()
            # --- Log, check, save ---
            values = {}
            if training.step % LOG_EVERY == 0 or training.step == args.steps:
                seconds = time.monotonic() - started
                values["loss/training"] = loss.item()
                values["charts/learning_rate"] = rate
                done = (training.step - first) * args.batch_size
                values["charts/clips_per_second"] = done / seconds
                bar.set_postfix(loss=f"{values['loss/training']:.3f}")
            if training.step % args.check_every == 0 or training.step == args.steps:
                values |= check(training, held_out, device)
            if values:
                log.write({"iteration": training.step}, values, training.step)
            if training.step % args.save_every == 0:
                training.save(folder)
    # --- The end: the run's checkpoint, and the model in half precision ---
    training.save(folder)
    log.close()
    if training.step < args.steps:
        print(f"Stopped. Go on with: python agents/world_model.py --resume {folder}")
        raise SystemExit(130)  # 128 + SIGINT, as shells have it
    product = folder / "model"
    export(product, training, torch.float16, {"videos": len(clips.videos)})
    print(f"model {product}", flush=True)
    return product


if __name__ == "__main__":
    main(parse_args())
