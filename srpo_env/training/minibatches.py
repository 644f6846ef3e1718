"""The decisions of an update in minibatches, which all ranks compute together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from srpo_env.policy.base import Inputs
from srpo_env.training.distributed import Ranks
from srpo_env.training.trajectories import Chunk, Trajectory
from srpo_env.types import Floats


class Minibatch(NamedTuple):
    """This rank's B decisions of a minibatch, of T tokens each.

    Its mean of anything, times its share, is its part of the mean over all ranks.
    """

    inputs: Inputs
    """the observations as the policy reads them"""
    tokens: Tensor
    """(B, T), sampled"""
    log_probs: Tensor
    """(B, T), under the policy that acted"""
    mask: Tensor
    """(B, T), true for tokens that were executed"""
    advantages: Tensor
    """(B,)"""
    weights: Tensor
    """(B, T), weight of each token; 0 for tokens that were not executed"""
    share: float
    """this rank's share of the weights"""
    token_share: float
    """its share of the executed tokens"""
    row_share: float
    """its share of the decisions"""


class SharedDecisions:
    """The decisions of all ranks, in random minibatches.

    A minibatch consists of the same decisions as if one process had all of them. Each rank gets
    those that it has collected; one that has none of them gets any decision, with the shares 0, so
    that it takes part in what the ranks compute together.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        advantages: Sequence[Floats],
        weights: Sequence[float],
        padding: Chunk,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """Stacks the decisions, and counts those of all ranks.

        Args:
            trajectories: Trajectories of this rank, which may be none.
            advantages: Advantage of each of their decisions.
            weights: Weight of each token of a trajectory.
            padding: Any decision, for a rank that has none.
            ranks: The ranks, all of which call this together.
            device: Device of the minibatches.
        """
        chunks = [chunk for trajectory in trajectories for chunk in trajectory.chunks]
        counts = ranks.gather(len(chunks))
        self.total = sum(counts)
        """Number of decisions of all ranks."""
        self._first, self._count = sum(counts[: ranks.rank]), len(chunks)
        self._ranks, self._device = ranks, device
        self._data = Chunk.stack(chunks or [padding])
        lengths = [len(trajectory.chunks) for trajectory in trajectories]
        values = np.concatenate(advantages) if chunks else np.zeros(1)
        self._advantages = torch.tensor(values, dtype=torch.float32)
        per_row = np.repeat(weights, lengths) if chunks else np.ones(1)
        self._weights = torch.tensor(per_row, dtype=torch.float32)

    def draw(self, size: int, generator: torch.Generator) -> Minibatch:
        """Draws a minibatch.

        Args:
            size: Number of decisions of all ranks.
            generator: Random numbers; those of the first rank count.
        """
        return self._minibatch(self._shuffled(generator)[:size])

    def minibatches(
        self, epochs: int, size: int, generator: torch.Generator
    ) -> Iterator[Minibatch]:
        """Yields all decisions in a random order, ``epochs`` times.

        Args:
            epochs: Number of passes.
            size: Number of decisions of a minibatch of all ranks; the last one of a pass has fewer.
            generator: Random numbers; those of the first rank count.
        """
        for _ in range(epochs):
            for rows in torch.split(self._shuffled(generator), size):
                yield self._minibatch(rows)

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        return self._ranks.from_first(lambda: torch.randperm(self.total, generator=generator))

    def _minibatch(self, rows: Tensor) -> Minibatch:
        own = rows - self._first
        own = own[(own >= 0) & (own < self._count)]
        is_padding = len(own) == 0
        own = torch.zeros(1, dtype=torch.long) if is_padding else own
        inputs, tokens, log_probs, mask, *_ = self._data.select(own, self._device)
        advantages = self._advantages[own].to(self._device)
        weights = mask * self._weights[own].to(self._device)[:, None]
        shares = [1.0, 1.0, 1.0]
        if self._ranks.size > 1:
            amounts = [float(weights.sum()), float(mask.sum()), float(len(own))]
            amounts = [0.0] * 3 if is_padding else amounts
            totals = self._ranks.sum(*amounts)
            shares = [amount / total for amount, total in zip(amounts, totals, strict=True)]
        return Minibatch(inputs, tokens, log_probs, mask, advantages, weights, *shares)
