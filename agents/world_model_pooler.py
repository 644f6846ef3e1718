"""Teaches a world model what to keep of a moment, from time alone, in one file.

The encoder stays as it is. A small pooler turns the tokens of a moment into one latent: two views
of an episode (other parts of it, another light, another cut) shall agree on which moments are near
each other. They are told from the other moments of the episode, and from those of another episode
that began with the same picture. So nothing of the scene helps but what changes in it, and lasting
changes help most: an arm soon comes back to where it was, an object that was taken away does not.
No label, action or reward is used.
Source: single-view time-contrastive learning, https://arxiv.org/abs/1704.06888.

    python agents/world_model.py --videos episodes
    python agents/world_model_pooler.py --model runs/NAME/model --videos episodes

It writes ``pooler.safetensors`` into the model's folder, where `VJEPA2Encoder` finds it.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from srpo_env.cli.main import errors_as_sentences
from srpo_env.encoders.clips import Clips, split_videos
from srpo_env.encoders.collapse import collapse_of
from srpo_env.encoders.pooler import FILE, MomentPooler
from srpo_env.encoders.vjepa2 import VJEPA2Encoder
from srpo_env.libero.behaviour_files import read_videos

LEAST_GAIN = 0.95
"""share of a guess's loss that a pooler must stay below, or it has learnt nothing"""

LEAST_CLOSENESS = 0.3
"""of a moment to the nearest one of the other view, for it to be looked for there"""

# A bar for people; a line now and then for log files.
BAR_SECONDS = 0.2 if sys.stderr.isatty() else 60.0


@dataclass
class Args:
    """All settings; ``--help`` prints this list."""

    model: Path  # folder of a V-JEPA 2, as agents/world_model.py writes it
    videos: tuple[Path, ...] = (Path("episodes"),)
    """files or folders of episodes or demonstrations; several are mixed"""
    seed: int = 1  # of the weights, the views and the batches
    overwrite: bool = False  # replace the pooler that the model has

    views: int = 6  # of each episode, encoded once; a step compares two of them
    least_window: float = 0.5  # a view is a random part of an episode, at least this share of it
    shift: int = 8  # pixels by which a view's crop is off the middle, at most
    jitter: float = 0.3  # relative change of brightness, and half of it of each colour

    token_size: int = 24  # dimensions that are kept of a token
    width: int = 128  # of the layer that sees all tokens of a moment
    latent_dim: int = 32  # dimensions of a moment's latent
    steps: int = 1500  # gradient steps
    batch_size: int = 64  # episodes per step
    learning_rate: float = 2e-3  # highest of AdamW's one-cycle schedule
    weight_decay: float = 0.05  # of AdamW
    temperature: float = 0.1  # of the cosines between moments
    near: float = 2.0
    """frames within which moments are near each other: standard deviation of a Gaussian"""

    held_out: int = 64  # episodes that are not trained on, for the check
    torch_threads: int = 2  # threads of a gradient step
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda if there is one
    bf16: bool = False  # encode in bfloat16; faster where the hardware has it

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        at_least_one = ("steps", "batch_size", "token_size", "width", "latent_dim")
        least_of = {"views": 2, "held_out": 2, "shift": 0, "weight_decay": 0}
        for name, least in (*least_of.items(), *((name, 1) for name in at_least_one)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.least_window <= 1:
            raise ValueError(f"`least_window` must be in (0, 1], got {self.least_window}")
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"`jitter` must be in [0, 0.5), got {self.jitter}")
        for name in ("temperature", "near", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}")


# --- Views: what is learnt from ---


class Triples(NamedTuple):
    """What a step compares."""

    tokens: Tensor  # of two views of each episode, (batch, 2, times, tokens of a moment, hidden)
    moments: Tensor  # (batch, 2, times)
    others: Tensor  # tokens of another episode of the scene, (batch, times, ...)
    has_other: Tensor  # (batch,), false where there is no other


@dataclass(frozen=True)
class Views:
    """Encoded views of episodes."""

    tokens: Tensor  # (num_episodes, views, times, tokens of a moment, hidden), float16
    moments: Tensor  # (num_episodes, views, times): mean number of the frames that a time shows
    scenes: npt.NDArray[np.int64]  # (num_episodes,): equal where they began with the same picture

    def draw(self, batch_size: int, rng: np.random.Generator) -> Triples:
        """Two views each of random episodes, and one of another episode of each one's scene."""
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
        """Another episode of the same scene; itself if there is none."""
        candidates = np.flatnonzero(self.scenes == self.scenes[row])
        candidates = candidates[candidates != row]
        return int(rng.choice(candidates)) if len(candidates) else row


@torch.inference_mode()
def encode_views(encoder: torch.nn.Module, clips: Clips, args: Args, device: str) -> Views:
    """Encodes so many views of every video."""
    config = encoder.config
    first_seen: dict[bytes, int] = {}
    pictures = [video[0].numpy().tobytes() for video in clips.videos]
    scenes = [first_seen.setdefault(picture, len(first_seen)) for picture in pictures]
    rng = np.random.default_rng([args.seed, len(clips.videos)])
    times = config.frames_per_clip // config.tubelet_size
    grid = config.crop_size // config.patch_size
    shape = (len(clips.videos), args.views, times, grid * grid, config.hidden_size)
    tokens, moments = torch.empty(shape, dtype=torch.float16), torch.empty(shape[:3])
    bar = tqdm(range(len(clips.videos)), "encoding", unit="video", mininterval=BAR_SECONDS)
    for index in bar:
        drawn = clips.draw([index] * args.views, rng, device)
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            encoded = encoder(pixel_values_videos=drawn.pixels).last_hidden_state
        tokens[index] = encoded.unflatten(1, (times, -1)).cpu()
        shown = drawn.frames.reshape(args.views, times, config.tubelet_size)
        moments[index] = torch.from_numpy(shown.mean(axis=2))
    return Views(tokens, moments, np.array(scenes))


# --- The objective ---


def contrast(
    latents: Tensor, moments: Tensor, others: Tensor, has_other: Tensor, args: Args
) -> Tensor:
    """Cross-entropy of finding the moments of one view in the other, both ways.

    Args:
        latents: Of two views, of length 1, ``(batch, 2, times, latent_dim)``.
        moments: Their place in the episode, in frames, ``(batch, 2, times)``.
        others: Of another episode, ``(batch, times, latent_dim)``. Its first moment is the same as
            this one's, and is held to be another all the same, as all that follow are.
        has_other: Whether there is one, ``(batch,)``.
        args: Temperature, and what counts as near.
    """
    gaps = moments[:, 0, :, None] - moments[:, 1, None, :]
    closeness = torch.exp(-(gaps**2) / (2 * args.near**2))  # (batch, times, times)
    losses = []
    for query, found, weights in (
        (latents[:, 0], latents[:, 1], closeness),
        (latents[:, 1], latents[:, 0], closeness.mT),
    ):
        strangers = (query @ others.mT).masked_fill(~has_other[:, None, None], -math.inf)
        logits = torch.cat([query @ found.mT, strangers], dim=2) / args.temperature
        # The other view may show another part of the episode, where a moment has no partner.
        shared = weights.amax(dim=2) > LEAST_CLOSENESS
        targets = weights[shared] / weights[shared].sum(dim=1, keepdim=True)
        own = logits.log_softmax(dim=2)[shared][:, : targets.shape[1]]
        # None at all may be shared, in a small batch; then there is nothing to learn.
        losses.append(-(targets * own).sum() / shared.sum().clamp_min(1))
    return torch.stack(losses).mean()


def loss_of(pooler: MomentPooler, triples: Triples, args: Args, device: str) -> Tensor:
    """The objective on what was drawn."""
    latents = pooler(triples.tokens.to(device).float())
    others = pooler(triples.others.to(device).float())
    moments, has_other = triples.moments.to(device), triples.has_other.to(device)
    return contrast(latents, moments, others, has_other, args)


def main(args: Args) -> Path:
    """Trains a pooler and writes it; returns its file."""
    # --- Setup: model, videos, pooler ---
    torch.set_num_threads(args.torch_threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with errors_as_sentences("world_model_pooler.py"):
        file = args.model / FILE
        if file.exists() and not args.overwrite:
            raise FileExistsError(f"{file} is there already: pass --overwrite to replace it")
        encoder = VJEPA2Encoder(args.model, pooling="mean", device=device, dtype=torch.float32)
        preprocessing, model = encoder.preprocessing, encoder.model
        story = args.model / "provenance.json"
        content = json.loads(story.read_text()) if story.is_file() else {}
        videos = tqdm(read_videos(args.videos), "reading", unit="video", mininterval=BAR_SECONDS)
        training, held_out = split_videos(videos, preprocessing, args.held_out, args.seed)
    config = model.config
    parts = [
        encode_views(
            model,
            Clips(part, preprocessing, config.frames_per_clip,
                  args.least_window, args.shift, args.jitter),
            args, device,
        )
        for part in (training, held_out)
    ]  # fmt: skip
    views, unseen = parts
    torch.manual_seed(args.seed)
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
    bar = tqdm(range(args.steps), "training", unit="step", mininterval=BAR_SECONDS)
    for _ in bar:
        loss = loss_of(pooler, views.draw(args.batch_size, rng), args, device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    # --- Check: on episodes that were never seen, against latents that know nothing ---
    pooler.eval()
    triples = unseen.draw(4 * args.held_out, np.random.default_rng(0))
    with torch.no_grad():
        held_out_loss = float(loss_of(pooler, triples, args, device))
        latents = pooler(unseen.tokens[:, 0].to(device).float())
        same, stranger = torch.ones(triples.moments.shape), torch.ones(triples.moments[:, 0].shape)
        nothing = contrast(
            same[..., None], triples.moments, stranger[..., None], triples.has_other, args
        )
    collapse = collapse_of(latents)
    print(
        f"held-out loss {held_out_loss:.3f} (a guess: {nothing:.3f}), spread "
        f"{collapse.spread:.3f}, effective rank {collapse.rank:.1f}, dead dimensions "
        f"{collapse.dead_dimensions:.0%}"
    )
    if collapse.is_real or not held_out_loss < LEAST_GAIN * nothing:
        print("WARNING: the pooler has learnt NOTHING that tells moments apart", file=sys.stderr)
    # --- The end ---
    pooler.cpu().save(args.model)
    content["pooler"] = {
        "agent": "world_model_pooler",
        "args": json.loads(json.dumps(asdict(args), default=lambda path: path.name)),
        "videos": len(training),
        "held_out_loss": round(held_out_loss, 4),
    }
    story.write_text(json.dumps(content, indent=2) + "\n")
    print(f"pooler {file}", flush=True)
    return file


if __name__ == "__main__":
    main(tyro.cli(Args))
