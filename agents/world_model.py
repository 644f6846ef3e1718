"""Trains a small V-JEPA 2 on videos of robot episodes, in one file.

Its latents measure progress in `agents/vla_grpo.py`. The objective is V-JEPA's: large blocks of a
clip are masked at all times, the encoder sees the rest, and a predictor predicts the latents that
an exponential moving average of the encoder computes for the masked tokens. Labels, actions and
rewards are not used.
Paper: https://arxiv.org/abs/2506.09985 (V-JEPA 2), its masks from https://arxiv.org/abs/2404.08471.

    srpo-env record-behaviours --out episodes
    python agents/world_model.py --videos episodes
    python agents/world_model.py --resume runs/NAME          # continue a run

Metrics (also in TensorBoard and in runs/NAME/history.jsonl):

* ``losses/training``, ``losses/held_out``: mean absolute error of the predicted latents, which have
  variance 1; the second one on episodes that are never trained on;
* ``collapse/spread``: how much tokens at one place differ between clips, relative to their size;
  ``collapse/dead_dimensions``: fraction of latent dimensions that hardly vary;
* ``collapse/rank``: effective rank of the latents of held-out clips. A model that gives all clips
  the same latent also has a loss near 0, but its rank is 1;
* ``charts/learning_rate``, ``charts/clips_per_second``.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import VJEPA2Config, VJEPA2Model
from transformers.utils.logging import disable_progress_bar

from srpo_env.cli.main import closed_output_ends_the_program, errors_as_sentences
from srpo_env.encoders.clips import Clips, split_videos
from srpo_env.encoders.collapse import collapse_of
from srpo_env.encoders.preprocessing import VideoPreprocessing
from srpo_env.encoders.vjepa2 import write_latents
from srpo_env.libero.behaviour_files import read_videos
from srpo_env.system.files import write_file
from srpo_env.training.gradients import clip_gradients
from srpo_env.training.progress_bar import long_bar
from srpo_env.training.run import TrainingRun
from srpo_env.training.settings import RunSettings

LOG_EVERY = 10


class Blocks(NamedTuple):
    """A kind of mask: number of blocks, and the area of each as a fraction of the picture."""

    count: int
    area: float


MASKS = (Blocks(8, 0.15), Blocks(2, 0.7))
"""Every clip is masked in both ways. Source: V-JEPA's short-range and long-range masks."""

ASPECTS = (0.75, 1.5)
"""Range of a block's height over its width. Source: V-JEPA."""

MIN_CONTEXT = 0.15
"""Minimum fraction of a clip that stays visible. V-JEPA only requires one token; but its grid is
finer, and here as there, all clips of a batch see as few tokens as the one that sees fewest."""


@dataclass(frozen=True, kw_only=True)
class Args(RunSettings):
    """Self-supervised training of a small V-JEPA 2 on videos of robot episodes."""

    videos: tuple[Path, ...] = (Path("episodes"),)
    """files or folders with episodes or demonstrations"""
    exp_name: str = "world_model"  # part of the run's name

    steps: int = 3000  # number of gradient steps
    batch_size: int = 32  # clips per gradient step
    learning_rate: float = 6e-4  # maximum of AdamW's schedule: linear warm-up, cosine decay
    warmup: float = 0.05  # fraction of the steps in which the learning rate rises
    weight_decay: float = 0.04  # weight decay of AdamW, on weight matrices
    ema: float = 0.998  # decay of the target encoder's moving average per step
    max_grad_norm: float = 1.0  # maximum norm of the gradient

    crop_size: int = 112
    """height and width in pixels of the model's input, the middle 7/8 of a frame"""
    patch_size: int = 16  # height and width of a token in pixels
    frames_per_clip: int = 16  # frames of an episode that the model sees
    tubelet_size: int = 2  # frames per token
    hidden_size: int = 192  # dimensions of a latent
    layers: int = 6  # layers of the encoder
    heads: int = 3  # attention heads of the encoder
    predictor_size: int = 96  # hidden dimensions of the predictor
    predictor_layers: int = 3  # layers of the predictor
    predictor_heads: int = 3  # attention heads of the predictor

    min_window: float = 0.5  # a clip is a random part of an episode, at least this fraction of it
    shift: int = 8  # augmentation: maximum distance of a clip's crop from the middle in pixels
    jitter: float = 0.2
    """augmentation: maximum relative change of brightness; half of it for each colour"""

    held_out: int = 64  # number of episodes that are only used for checks
    check_every: int = 100  # gradient steps between checks
    save_every: int = 250  # gradient steps between checkpoints
    bf16: bool = False
    """use bfloat16 autocast; faster where the hardware supports it"""
    compile: bool = False
    """compile the layers first, which takes two minutes and a C++ compiler; 1.4 times as fast"""

    fixed = (
        "seed", "crop_size", "patch_size", "frames_per_clip", "tubelet_size", "hidden_size",
        "layers", "heads", "predictor_size", "predictor_layers", "predictor_heads",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        zero = ("warmup", "weight_decay", "ema", "shift", "jitter")
        self.check_numbers(
            {"held_out": 2, **dict.fromkeys(zero, 0)}, {"min_window": 1, "warmup": 1}
        )
        if self.ema >= 1:
            raise ValueError(f"--ema must be below 1, got {self.ema}")
        if self.jitter >= 0.5:
            raise ValueError(f"--jitter must be below 0.5, got {self.jitter}")
        if self.crop_size < 4 * self.patch_size:
            raise ValueError(
                "--crop-size must be at least 4 patches, or blocks would mask everything, got "
                f"{self.crop_size} with patches of {self.patch_size}"
            )
        for name, size, divisor in (
            ("crop-size", self.crop_size, self.patch_size),
            ("frames-per-clip", self.frames_per_clip, self.tubelet_size),
            ("hidden-size", self.hidden_size, self.heads),
            ("predictor-size", self.predictor_size, self.predictor_heads),
        ):
            if size % divisor:
                raise ValueError(f"--{name} must be a multiple of {divisor}, got {size}")

    @property
    def grid(self) -> int:
        """Number of tokens along a side of the picture."""
        return self.crop_size // self.patch_size

    @property
    def times(self) -> int:
        """Number of tokens along a clip's time."""
        return self.frames_per_clip // self.tubelet_size

    def model_config(self) -> VJEPA2Config:
        """Returns the model's settings as ``transformers`` names them."""
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


# --- Clips ---


def read_clips(args: Args) -> tuple[Clips, Clips]:
    """Reads videos; returns clips to train on and held-out ones."""
    preprocessing = VideoPreprocessing.for_crop(args.crop_size)
    videos = long_bar("reading", "video", read_videos(args.videos))
    training, held_out = split_videos(videos, preprocessing, args.held_out, args.seed)
    settings = {"preprocessing": preprocessing, "num_frames": args.frames_per_clip}
    augmentation = {
        "min_window": args.min_window, "shift": args.shift, "jitter": args.jitter,
    }  # fmt: skip
    return Clips(training, **settings, **augmentation), Clips(held_out, **settings)


# --- Masks ---


def hide(blocks: Blocks, grid: int, times: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draws which tokens of a clip are masked, shape ``(times * grid * grid,)``."""
    while True:
        hidden = np.zeros((grid, grid), dtype=bool)
        for _ in range(blocks.count):
            aspect = rng.uniform(*ASPECTS)
            area = blocks.area * grid * grid
            height = int(np.clip(round(math.sqrt(area * aspect)), 1, grid))
            width = int(np.clip(round(math.sqrt(area / aspect)), 1, grid))
            top, left = rng.integers(grid - height + 1), rng.integers(grid - width + 1)
            hidden[top : top + height, left : left + width] = True
        if hidden.mean() <= 1 - MIN_CONTEXT:
            return np.tile(hidden.ravel(), times)


def draw_masks(
    args: Args, blocks: Blocks, rng: np.random.Generator, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Draws ids of visible and masked tokens, ``(batch, num_visible)``, ``(batch, num_hidden)``.

    Each clip has its own mask. Where a clip has more tokens than another, some are left out at
    random.
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
    """Encoder and predictor, which are trained, and the target encoder, their moving average."""

    def __init__(self, config: VJEPA2Config) -> None:
        """Initialises the weights with torch's global generator."""
        super().__init__()
        self.online = VJEPA2Model(config)
        self.target = copy.deepcopy(self.online.encoder).requires_grad_(False)

    def loss(self, pixels: Tensor, masks: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Computes the mean absolute error of the latents predicted for masked tokens.

        Args:
            pixels: Normalised clips, ``(batch, num_frames, 3, crop, crop)``.
            masks: Ids of visible and masked tokens, as from `draw_masks`.
        """
        cubes = cut_up(pixels, self.online.config)
        with torch.no_grad():
            targets = self.latents(pixels)
            # Normalised, so that the targets cannot shrink to make the task easy.
            targets = layer_norm(targets, targets.shape[-1:])
        losses = []
        for visible, hidden in masks:
            # `VJEPA2Model.forward` would encode all tokens and mask some afterwards; in V-JEPA the
            # encoder does not see masked tokens.
            context = encode(self.online.encoder, take(cubes, visible), visible)
            # The predictor reads the visible tokens from a whole clip, and nothing else of it.
            clip = context.new_zeros((*targets.shape[:2], context.shape[2]))
            clip = clip.scatter(1, visible[..., None].expand_as(context), context)
            predicted = self.online.predictor(clip, [visible], [hidden]).last_hidden_state
            losses.append((predicted.float() - take(targets, hidden)).abs().mean())
        return torch.stack(losses).mean()

    def latents(self, pixels: Tensor) -> Tensor:
        """Encodes whole clips with the target encoder, ``(batch, tokens, hidden)``, float32."""
        return encode(self.target, cut_up(pixels, self.online.config)).float()

    def compile_layers(self) -> None:
        """Makes torch compile each layer when it first runs; the results stay the same."""
        for stack in (self.online.encoder, self.online.predictor, self.target):
            for layer in stack.layer:
                layer.compile(dynamic=True)  # the number of tokens varies

    def follow(self, ema: float) -> None:
        """Updates the target encoder's moving average."""
        average = get_ema_multi_avg_fn(ema)
        average(list(self.target.parameters()), list(self.online.encoder.parameters()), None)

    def product(self) -> VJEPA2Model:
        """Returns the trained model: the target encoder with the predictor."""
        model = copy.deepcopy(self.online)
        model.encoder.load_state_dict(self.target.state_dict())
        return model


def cut_up(pixels: Tensor, config: VJEPA2Config) -> Tensor:
    """Cuts clips into tokens, ``(batch, tokens, pixels of a token)``."""
    cubes = pixels.unflatten(1, (-1, config.tubelet_size))  # (batch, times, tubelet, 3, crop, crop)
    cubes = cubes.unflatten(5, (-1, config.patch_size)).unflatten(4, (-1, config.patch_size))
    return cubes.permute(0, 1, 4, 6, 3, 2, 5, 7).flatten(4).flatten(1, 3)


def encode(encoder: nn.Module, cubes: Tensor, ids: Tensor | None = None) -> Tensor:
    """Encodes all tokens of clips, or those with these ids; ``(batch, num_ids, hidden)``.

    Equal to `transformers` except for the convolution: its patches do not overlap, so it is a
    matrix product, which is several times faster on a CPU and can be restricted to some patches.
    """
    convolution = encoder.embeddings.patch_embeddings.proj
    tokens = linear(cubes, convolution.weight.flatten(1), convolution.bias)
    for layer in encoder.layer:
        tokens = layer(tokens, ids)[0]
    encoded: Tensor = encoder.layernorm(tokens)
    return encoded


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Selects the tokens with these ids, ``(batch, num_ids, hidden)``."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


# --- Training ---


def make_optimizer(model: WorldModel, args: Args) -> torch.optim.AdamW:
    """Creates AdamW for the encoder and the predictor."""
    learning = [p for p in model.online.parameters() if p.requires_grad]
    # Weight decay applies to matrices only, not to biases, norms and the mask token.
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))


def learning_rate(args: Args, step: int) -> float:
    """Returns the learning rate of a step, counted from 1."""
    rising = max(1.0, args.warmup * args.steps)
    done = (step - rising) / max(1.0, args.steps - rising)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    return args.learning_rate * min(step / rising, 1.0) * max(falling, 0.01)


def autocast(args: Args, device: str) -> torch.autocast:
    """Returns the context in which the model computes."""
    return torch.autocast(device, torch.bfloat16, enabled=args.bf16)


def loss_of(
    model: WorldModel, pixels: Tensor, args: Args, device: str, rng: np.random.Generator
) -> Tensor:
    """Computes the loss of a batch of clips with random masks of each kind."""
    masks = [draw_masks(args, blocks, rng, len(pixels)) for blocks in MASKS]
    on_device = [(visible.to(device), hidden.to(device)) for visible, hidden in masks]
    with autocast(args, device):
        return model.loss(pixels, on_device)


@torch.no_grad()
def check(model: WorldModel, held_out: Clips, args: Args, device: str) -> dict[str, float]:
    """Computes the loss and signs of collapse on the held-out episodes."""
    pixels = held_out.whole(device)
    rng = np.random.default_rng(0)  # the same masks each time
    batches = pixels.split(args.batch_size)
    losses = [float(loss_of(model, batch, args, device, rng)) * len(batch) for batch in batches]
    with autocast(args, device):
        tokens = torch.cat([model.latents(batch) for batch in batches])
    collapse = collapse_of(tokens)
    metrics = {"losses/held_out": sum(losses) / len(pixels)}
    metrics |= {f"collapse/{name}": value for name, value in collapse._asdict().items()}
    tqdm.write(
        f"held-out loss {metrics['losses/held_out']:.3f}, spread {collapse.spread:.3f}, "
        f"effective rank {collapse.rank:.1f}, dead dimensions {collapse.dead_dimensions:.0%}"
    )
    if collapse.is_real:
        tqdm.write(
            "WARNING: the model has COLLAPSED: different clips get the same latents, so distances "
            "measure nothing. Try a lower --learning-rate or a higher --ema."
        )
    return metrics


def export(folder: Path, model: WorldModel, args: Args, num_videos: int) -> None:
    """Writes the model in half precision, as ``transformers`` and `VJEPA2Encoder` read it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.product().half().save_pretrained(folder)
    VideoPreprocessing.for_crop(args.crop_size).write(folder)
    write_latents(folder, pooling="grid", num_clips=2)
    settings = args.as_json(full_paths=False)
    content = {"agent": "world_model", "step": args.steps, "args": settings, "videos": num_videos}
    write_file(folder / "provenance.json", (json.dumps(content, indent=2) + "\n").encode())


def main(args: Args) -> Path:
    """Trains a world model and writes it; returns the model's folder."""
    # --- Setup: videos, model, optimizer, the run with its log and checkpoints ---
    disable_progress_bar()  # that of transformers, for files that are written in no time
    with errors_as_sentences("world_model.py"):
        clips, held_out = read_clips(args)
        device = args.set_up_torch()
        model = WorldModel(args.model_config()).to(device)
        optimizer = make_optimizer(model, args)
        run = TrainingRun(
            "world_model", f"{args.exp_name}__{args.seed}", args,
            parts={"model": model, "optimizer": optimizer},
        )  # fmt: skip
        if args.compile:
            model.compile_layers()
    encoder = sum(p.numel() for p in model.target.parameters()) / 1e6
    print(
        f"{len(clips.videos)} videos, {len(held_out.videos)} held out; encoder of {encoder:.2f} "
        f"million parameters, {args.times} x {args.grid} x {args.grid} tokens",
        flush=True,
    )
    # --- Training ---
    started, first = time.monotonic(), run.iteration
    with run, long_bar("training", "step", total=args.steps, initial=first) as bar:
        for step in range(first + 1, args.steps + 1):
            run.safe_point()
            # Every draw depends on the seed and the step only, so a resumed run draws the same.
            rng = np.random.default_rng([args.seed, step])
            drawn = rng.integers(len(clips.videos), size=args.batch_size)
            pixels = clips.draw(drawn, rng, device).pixels
            loss = loss_of(model, pixels, args, device, rng)
            rate = learning_rate(args, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(model.online.parameters(), args.max_grad_norm)
            optimizer.step()
            model.follow(args.ema)
            run.count(iteration=1)
            bar.update()
            # --- Log, check, save ---
            is_last, metrics = step == args.steps, {}
            if step % LOG_EVERY == 0 or is_last:
                done = (step - first) * args.batch_size
                metrics["losses/training"] = loss.item()
                metrics["charts/learning_rate"] = rate
                metrics["charts/clips_per_second"] = done / (time.monotonic() - started)
                bar.set_postfix(loss=f"{metrics['losses/training']:.3f}")
            if step % args.check_every == 0 or is_last:
                metrics |= check(model, held_out, args, device)
            if metrics:
                run.write(metrics)
            if step % args.save_every == 0 or is_last:
                run.save(keep=is_last)
        product = run.folder / "model"
        export(product, model, args, len(clips.videos))
        print(f"The model is in {product}", flush=True)
    return product


if __name__ == "__main__":
    with closed_output_ends_the_program():
        main(Args.parse())
