"""Whether an encoder tells videos apart; one that has collapsed gives all of them one latent.

Such a model predicts its own latents without error, so a training loss does not show it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SPREAD, LEAST_RANK = 0.02, 2.0
"""Below either, a model counts as collapsed"""


class Collapse(NamedTuple):
    """Signs that a model gives different clips the same latents."""

    spread: float
    """how much a token at one place differs from clip to clip, as a share of tokens' size"""
    dead_dimensions: float
    """share of the latents' dimensions that hardly vary"""
    rank: float
    """effective rank of the clips' mean latents; 1 if all are the same, or on one line"""

    @property
    def is_real(self) -> bool:
        """Whether the model has collapsed."""
        return self.spread < LEAST_SPREAD or self.rank < LEAST_RANK


def collapse_of(tokens: Tensor) -> Collapse:
    """Judges the tokens of several clips, ``(num_clips, tokens, hidden)``."""
    size = tokens.square().mean().sqrt().clamp_min(1e-12)
    latents = tokens.mean(dim=1)  # (num_clips, hidden)
    deviation = latents.std(dim=0)
    singular = torch.linalg.svdvals(latents - latents.mean(dim=0))
    rank = 1.0
    if singular.sum() > 1e-6 * size:
        # Source: Roy and Vetterli, "The effective rank", 2007: exp of the spectrum's entropy.
        shares = singular / singular.sum()
        rank = float(torch.special.entr(shares).sum().exp())
    return Collapse(
        spread=float(tokens.std(dim=0).mean() / size),
        dead_dimensions=float((deviation < 1e-3 * size).float().mean()),
        rank=rank,
    )
