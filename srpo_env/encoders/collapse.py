"""Detects representation collapse: an encoder that gives all videos the same latent.

Such a model predicts its own latents without error, so the training loss does not show it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_SPREAD, MIN_RANK = 0.02, 2.0
"""Minimum spread and rank; a model below either value has collapsed."""


class Collapse(NamedTuple):
    """Measures of how much latents differ between clips."""

    spread: float
    """Standard deviation of a token between clips, as a share of the tokens' RMS value."""
    dead_dimensions: float
    """Share of the latents' dimensions that hardly vary."""
    rank: float
    """Effective rank of the clips' mean latents; 1 if all are equal or on one line."""

    @property
    def is_real(self) -> bool:
        """Whether the model has collapsed."""
        return self.spread < MIN_SPREAD or self.rank < MIN_RANK


def collapse_of(tokens: Tensor) -> Collapse:
    """Computes the measures from the tokens of several clips, ``(num_clips, tokens, hidden)``."""
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
