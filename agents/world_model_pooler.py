"""Teaches a world model what to keep of a moment, from time alone, in one file.

The encoder stays as it is. A small pooler turns the tokens of a moment into one latent: two views
of an episode (other parts of it, another light, another cut) shall agree on which moment is which.
Negatives are the other moments of the same episode, so that nothing of the scene helps but what
changes in it. No label, action or reward is used.
Source: single-view time-contrastive learning, https://arxiv.org/abs/1704.06888.

    python agents/world_model.py --videos episodes
    python agents/world_model_pooler.py --model runs/NAME/model --videos episodes

It writes ``pooler.safetensors`` into the model's folder, where `VJEPA2Encoder` finds it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from srpo_env.cli import errors_as_sentences
from srpo_env.encoders.clips import Clips, split_videos
from srpo_env.encoders.collapse import collapse_of
from srpo_env.encoders.pooler import FILE, MomentPooler
from srpo_env.encoders.preprocessing import VideoPreprocessing
from srpo_env.encoders.vjepa2 import load_model
from srpo_env.libero.behaviour_files import read_videos

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
    same_moment: float = 0.7
    """frames by which two views of a moment may differ: standard deviation of a Gaussian"""

    held_out: int = 64  # episodes that are not trained on, for the check
    torch_threads: int = 2  # threads of a gradient step
    device: str = "auto"  # cpu, cuda, or auto: cuda if there is one
    bf16: bool = False  # encode in bfloat16; faster where the hardware has it

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of its range."""
        for name, least in (("views", 2), ("steps", 1), ("batch_size", 1), ("held_out", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.least_window <= 1:
            raise ValueError(f"`least_window` must be in (0, 1], got {self.least_window}")
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"`jitter` must be in [0, 0.5), got {self.jitter}")
        for name in ("temperature", "same_moment", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}")


# --- Views: what is learnt from ---


@dataclass(frozen=True)
class Views:
    """Encoded views of episodes."""

    tokens: Tensor  # (num_episodes, views, times, tokens of a moment, hidden), float16
    moments: Tensor  # (num_episodes, views, times): mean number of the frames that a time shows

    def pairs(self, args: Args, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Two views each of random episodes: tokens, and moments; forever."""
        num_episodes, num_views = self.tokens.shape[:2]
        while True:
            rows = rng.integers(num_episodes, size=(args.batch_size, 1))
            columns = rng.permuted(np.tile(np.arange(num_views), (args.batch_size, 1)), axis=1)
            chosen = (rows, columns[:, :2])
            yield self.tokens[chosen], self.moments[chosen]


@torch.inference_mode()
def encode_views(encoder: torch.nn.Module, clips: Clips, args: Args, device: str) -> Views:
    """Encodes so many views of every video."""
    config = encoder.config
    rng = np.random.default_rng([args.seed, len(clips.videos)])
    tokens, moments = [], []
    bar = tqdm(range(len(clips.videos)), "encoding", unit="video", mininterval=BAR_SECONDS)
    for index in bar:
        drawn = clips.draw([index] * args.views, rng, device)
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            encoded = encoder(pixel_values_videos=drawn.pixels).last_hidden_state
        times = config.frames_per_clip // config.tubelet_size
        tokens.append(encoded.unflatten(1, (times, -1)).half().cpu())
        shown = drawn.frames.reshape(args.views, times, config.tubelet_size)
        moments.append(torch.from_numpy(shown.mean(axis=2)).float())
    return Views(torch.stack(tokens), torch.stack(moments))


# --- The objective ---


def contrast(latents: Tensor, moments: Tensor, temperature: float, same_moment: float) -> Tensor:
    """Cross-entropy of finding each moment of one view in the other, both ways.

    Args:
        latents: Of length 1, ``(batch, 2, times, latent_dim)``.
        moments: Their place in the episode, in frames, ``(batch, 2, times)``.
        temperature: Divides the cosines.
        same_moment: Frames by which a moment and its partner may differ.
    """
    cosines = latents[:, 0] @ latents[:, 1].mT  # (batch, times, times)
    gaps = moments[:, 0, :, None] - moments[:, 1, None, :]
    closeness = torch.exp(-(gaps**2) / (2 * same_moment**2))
    losses = []
    for similarity, weights in ((cosines, closeness), (cosines.mT, closeness.mT)):
        # The other view may show another part of the episode, where a moment has no partner.
        shared = weights.amax(dim=2) > 0.3
        targets = weights[shared] / weights[shared].sum(dim=1, keepdim=True)
        losses.append(cross_entropy(similarity[shared] / temperature, targets))
    return torch.stack(losses).mean()


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
        encoder = load_model(args.model, torch.float32).encoder.to(device).eval()
        preprocessing = VideoPreprocessing.read(args.model)
        videos = tqdm(read_videos(args.videos), "reading", unit="video", mininterval=BAR_SECONDS)
        training, held_out = split_videos(videos, preprocessing, args.held_out, args.seed)
    config = encoder.config
    parts = [
        encode_views(
            encoder,
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
    pairs = views.pairs(args, np.random.default_rng(args.seed))
    bar = tqdm(range(args.steps), "training", unit="step", mininterval=BAR_SECONDS)
    for _, (tokens, moments) in zip(bar, pairs, strict=False):
        latents = pooler(tokens.to(device).float())
        loss = contrast(latents, moments.to(device), args.temperature, args.same_moment)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    # --- Check: on episodes that were never seen; against a pooler that gives all one latent ---
    pooler.eval()
    with torch.no_grad():
        latents = pooler(unseen.tokens[:, :2].to(device).float())
        moments = unseen.moments[:, :2].to(device)
        held_out_loss = float(contrast(latents, moments, args.temperature, args.same_moment))
        same = torch.ones_like(latents)
        chance = float(contrast(same, moments, args.temperature, args.same_moment))
    collapse = collapse_of(latents[:, 0].float())
    print(
        f"held-out loss {held_out_loss:.3f} (chance {chance:.3f}), spread {collapse.spread:.3f}, "
        f"effective rank {collapse.rank:.1f}, dead dimensions {collapse.dead_dimensions:.0%}"
    )
    if collapse.is_real or held_out_loss >= chance:
        print("WARNING: the pooler has learnt NOTHING that tells moments apart", file=sys.stderr)
    # --- The end ---
    pooler.cpu().save(args.model)
    story = args.model / "provenance.json"
    content = json.loads(story.read_text()) if story.is_file() else {}
    content["pooler"] = {
        "agent": "world_model_pooler",
        "args": json.loads(json.dumps(asdict(args), default=str)),
        "videos": len(training),
    }
    story.write_text(json.dumps(content, indent=2) + "\n")
    print(f"pooler {file}", flush=True)
    return file


if __name__ == "__main__":
    main(tyro.cli(Args))
