"""Trains the pooler of a world model with a time-contrastive loss, in one file.

The encoder stays fixed. A small pooler maps the tokens of each moment of a video to one latent. Two
views of an episode (different parts of it, with different brightness and crops) must agree on which
moments are close in time. The negatives are the other moments of the episode, and those of another
episode that began with the same picture, so the background of a scene does not help. Lasting
changes help most: an arm returns to where it was, an object that was taken away does not. Labels,
actions and rewards are not used.
Source: single-view time-contrastive learning, https://arxiv.org/abs/1704.06888.

    python agents/world_model.py --videos episodes
    python agents/world_model_pooler.py --model runs/NAME/model --videos episodes

Writes ``pooler.safetensors`` into the model's folder, where `VJEPA2Encoder` finds it.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.cli.main import closed_output_ends_the_program, errors_as_sentences
from srpo_env.encoders.clips import Clips, split_videos
from srpo_env.encoders.collapse import collapse_of
from srpo_env.encoders.pooler import FILE, MomentPooler
from srpo_env.encoders.vjepa2 import VJEPA2Encoder
from srpo_env.libero.behaviour_files import read_videos
from srpo_env.system.files import DamagedFileError, read_json, write_file
from srpo_env.training.gradients import clip_gradients
from srpo_env.training.progress_bar import long_bar
from srpo_env.training.settings import TorchSettings, parse_settings

MAX_LOSS = 0.95
"""maximum held-out loss of a useful pooler, relative to that of constant latents"""

MIN_CLOSENESS = 0.3
"""minimum closeness of a moment to the nearest moment of the other view; others are left out"""


@dataclass(frozen=True, kw_only=True)
class Args(TorchSettings):
    """Time-contrastive training of a world model's pooler."""

    model: Path  # folder of a V-JEPA 2, as agents/world_model.py writes it
    videos: tuple[Path, ...] = (Path("episodes"),)
    """files or folders with episodes or demonstrations"""
    overwrite: bool = False  # replace the pooler that the model already has

    views: int = 6  # views of each episode; each is encoded once, and a step compares two
    min_window: float = 0.5  # a view is a random part of an episode, at least this fraction of it
    shift: int = 8  # maximum distance of a view's crop from the middle in pixels
    jitter: float = 0.3  # maximum relative change of brightness; half of it for each colour

    token_size: int = 24  # dimensions to which each token is reduced
    width: int = 128  # width of the layer that sees all tokens of a moment
    latent_dim: int = 32  # dimensions of a moment's latent
    steps: int = 1500  # number of gradient steps
    batch_size: int = 64  # episodes per gradient step
    learning_rate: float = 2e-3  # maximum of AdamW's one-cycle schedule
    weight_decay: float = 0.05  # weight decay of AdamW
    temperature: float = 0.1  # temperature of the cosine similarities between moments
    near: float = 2.0
    """standard deviation in frames of the Gaussian that defines which moments are close in time"""

    held_out: int = 64  # number of episodes that are only used for the check
    bf16: bool = False  # encode with bfloat16 autocast; faster where the hardware supports it

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        self.check_numbers(
            {"views": 2, "held_out": 2, "shift": 0, "weight_decay": 0, "jitter": 0},
            {"min_window": 1},
        )
        if self.jitter >= 0.5:
            raise ValueError(f"--jitter must be below 0.5, got {self.jitter}")


# --- Views ---


class Triples(NamedTuple):
    """A training batch: two views of each episode, and one of another episode of the scene."""

    tokens: Tensor  # two views of each episode, (batch, 2, times, tokens of a moment, hidden)
    moments: Tensor  # (batch, 2, times), as in `Views`
    others: Tensor  # tokens of the other episode, (batch, times, tokens of a moment, hidden)
    has_other: Tensor  # (batch,), false if the scene has no other episode


@dataclass(frozen=True)
class Views:
    """Encoded views of episodes."""

    tokens: Tensor  # (num_episodes, views, times, tokens of a moment, hidden), float16
    moments: Tensor  # (num_episodes, views, times), mean index of the frames of each moment
    scenes: npt.NDArray[np.int64]  # (num_episodes,), equal if the first pictures are equal

    def draw(self, batch_size: int, rng: np.random.Generator) -> Triples:
        """Draws two views of random episodes, and one of another episode of each one's scene."""
        num_views = self.tokens.shape[1]
        rows = rng.integers(len(self.scenes), size=batch_size)
        columns = rng.permuted(np.tile(np.arange(num_views), (batch_size, 1)), axis=1)
        others = np.array([self._other(row, rng) for row in rows])
        views = (rows[:, None], columns[:, :2])
        return Triples(
            self.tokens[views],
            self.moments[views],
            self.tokens[others, columns[:, 0]],
            torch.from_numpy(others != rows),
        )

    def _other(self, row: int, rng: np.random.Generator) -> int:
        """Draws another episode of the same scene; returns ``row`` if there is none."""
        candidates = np.flatnonzero(self.scenes == self.scenes[row])
        candidates = candidates[candidates != row]
        return int(rng.choice(candidates)) if len(candidates) else row


@torch.inference_mode()
def encode_views(encoder: torch.nn.Module, clips: Clips, args: Args, device: str) -> Views:
    """Encodes ``args.views`` views of every video.

    Raises:
        ValueError: If a token is not finite in half precision.
    """
    config = encoder.config
    first_seen: dict[bytes, int] = {}
    pictures = [video[0].numpy().tobytes() for video in clips.videos]
    scenes = [first_seen.setdefault(picture, len(first_seen)) for picture in pictures]
    rng = np.random.default_rng([args.seed, len(clips.videos)])
    times = config.frames_per_clip // config.tubelet_size
    grid = config.crop_size // config.patch_size
    shape = (len(clips.videos), args.views, times, grid * grid, config.hidden_size)
    tokens, moments = torch.empty(shape, dtype=torch.float16), torch.empty(shape[:3])
    for index in long_bar("encoding", "video", range(len(clips.videos))):
        drawn = clips.draw([index] * args.views, rng, device)
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            encoded = encoder(pixel_values_videos=drawn.pixels).last_hidden_state
        tokens[index] = encoded.unflatten(1, (times, -1)).cpu()
        if not tokens[index].isfinite().all():
            raise ValueError(
                f"the model in {args.model} must encode videos to tokens that are finite in half "
                f"precision, got NaN or infinity for video {index}: are its weights damaged?"
            )
        shown = drawn.frames.reshape(args.views, times, config.tubelet_size)
        moments[index] = torch.from_numpy(shown.mean(axis=2))
    return Views(tokens, moments, np.array(scenes))


# --- The objective ---


def contrast(
    latents: Tensor, moments: Tensor, others: Tensor, has_other: Tensor, args: Args
) -> Tensor:
    """Computes the cross-entropy of finding the moments of one view in the other, both ways.

    Args:
        latents: Unit latents of two views, ``(batch, 2, times, latent_dim)``.
        moments: Positions in the episode, in frames, ``(batch, 2, times)``.
        others: Unit latents of another episode, ``(batch, times, latent_dim)``. All its moments are
            negatives, even the first one, whose picture is the same.
        has_other: Whether there is another episode, ``(batch,)``.
        args: Temperature, and the scale of closeness in time.
    """
    gaps = moments[:, 0, :, None] - moments[:, 1, None, :]
    closeness = torch.exp(-(gaps**2) / (2 * args.near**2))  # (batch, times, times)
    losses = []
    for query, found, weights in (
        (latents[:, 0], latents[:, 1], closeness),
        (latents[:, 1], latents[:, 0], closeness.mT),
    ):
        negatives = (query @ others.mT).masked_fill(~has_other[:, None, None], -math.inf)
        logits = torch.cat([query @ found.mT, negatives], dim=2) / args.temperature
        # The other view may show a part of the episode without a partner of this moment.
        shared = weights.amax(dim=2) > MIN_CLOSENESS
        targets = weights[shared] / weights[shared].sum(dim=1, keepdim=True)
        own = logits.log_softmax(dim=2)[shared][:, : targets.shape[1]]
        # In a small batch, no moment may have a partner; the loss is 0 then.
        losses.append(-(targets * own).sum() / shared.sum().clamp_min(1))
    return torch.stack(losses).mean()


def loss_of(pooler: MomentPooler, triples: Triples, args: Args, device: str) -> Tensor:
    """Computes the loss of a batch."""
    latents = pooler(triples.tokens.to(device).float())
    others = pooler(triples.others.to(device).float())
    moments, has_other = triples.moments.to(device), triples.has_other.to(device)
    return contrast(latents, moments, others, has_other, args)


def main(args: Args) -> Path:
    """Trains a pooler and writes it; returns its file."""
    # --- Setup: model, videos, pooler ---
    with errors_as_sentences("world_model_pooler.py"):
        device = args.set_up_torch()
        file = args.model / FILE
        if file.exists() and not args.overwrite:
            raise FileExistsError(f"{file} already exists: pass --overwrite to replace it")
        encoder = VJEPA2Encoder(args.model, pooling="mean", device=device, dtype=torch.float32)
        preprocessing, model = encoder.preprocessing, encoder.model
        provenance = args.model / "provenance.json"
        content = read_json(provenance) if provenance.is_file() else {}
        if not isinstance(content, dict):
            raise DamagedFileError(f"{provenance} is damaged: it must be a JSON object")
        videos = long_bar("reading", "video", read_videos(args.videos))
        training, held_out = split_videos(videos, preprocessing, args.held_out, args.seed)
        parts = [
            encode_views(
                model,
                Clips(part, preprocessing, model.config.frames_per_clip,
                      args.min_window, args.shift, args.jitter),
                args, device,
            )
            for part in (training, held_out)
        ]  # fmt: skip
    views, unseen = parts
    torch.manual_seed(args.seed)  # again: loading the encoder has used the generator
    num_tokens, hidden = views.tokens.shape[-2:]
    pooler = MomentPooler(
        num_tokens, hidden,
        token_size=args.token_size, width=args.width, latent_dim=args.latent_dim,
    ).to(device)  # fmt: skip
    pooler.fit_scale(views.tokens[::4, 0].to(device))
    optimizer = torch.optim.AdamW(
        pooler.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps
    )
    # --- Training ---
    rng = np.random.default_rng(args.seed)
    bar = long_bar("training", "step", range(args.steps))
    for _ in bar:
        loss = loss_of(pooler, views.draw(args.batch_size, rng), args, device)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(pooler.parameters(), math.inf)  # only checks that they are finite
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    # --- Check: on held-out episodes, relative to constant latents ---
    pooler.eval()
    triples = unseen.draw(4 * args.held_out, np.random.default_rng(0))
    with torch.no_grad():
        held_out_loss = float(loss_of(pooler, triples, args, device))
        latents = pooler(unseen.tokens[:, 0].to(device).float())
        ones = torch.ones(*triples.moments.shape, 1)
        constant = float(contrast(ones, triples.moments, ones[:, 0], triples.has_other, args))
    if not latents.isfinite().all():  # the last step of a training that diverges
        raise FloatingPointError(
            "the latents of held-out episodes must be finite, got NaN: lower the learning rate"
        )
    collapse = collapse_of(latents)
    print(
        f"held-out loss {held_out_loss:.3f} (constant latents: {constant:.3f}), spread "
        f"{collapse.spread:.3f}, effective rank {collapse.rank:.1f}, dead dimensions "
        f"{collapse.dead_dimensions:.0%}"
    )
    if collapse.is_real or not held_out_loss < MAX_LOSS * constant:
        print("WARNING: the pooler has learnt NOTHING that separates moments", file=sys.stderr)
    # --- Write ---
    pooler.cpu().save(args.model)
    content["pooler"] = {
        "agent": "world_model_pooler",
        "args": args.as_json(full_paths=False),
        "videos": len(training),
        "held_out_loss": round(held_out_loss, 4),
    }
    write_file(provenance, (json.dumps(content, indent=2) + "\n").encode())
    print(f"The pooler is in {file}", flush=True)
    return file


if __name__ == "__main__":
    with closed_output_ends_the_program():
        main(parse_settings(Args))
