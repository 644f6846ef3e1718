"""The interface between agents and policies of any size.

A policy implements three things: tensors from observations, token logits from tensors, checkpoints.
Sampling, log-probabilities and actions are derived from the logits here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from srpo_env.policy import tokens as token_maths

Inputs = dict[str, Tensor]
"""A batch of observations as a policy reads them; the first axis of every tensor is the batch."""


class Policy(nn.Module, ABC):
    """Maps observations and instructions to chunks of discrete action tokens.

    The probability of a token must depend neither on ``train()`` and ``eval()`` nor on the rest of
    the batch, because reinforcement learning compares probabilities of rollouts and of updates.
    """

    action_dim: int = 7

    @abstractmethod
    def prepare(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> Inputs:
        """Converts a batch of observations into tensors, which are kept in memory until an update.

        Args:
            observations: ``agentview`` and ``wrist`` ``(B, height, width, 3)`` uint8 and
                ``proprio`` ``(B, 8)``, see `LiberoEnv`; others are ignored.
            instructions: Instructions, of length B.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If a shape or type is wrong.
        """

    @abstractmethod
    def logits(self, inputs: Inputs) -> Tensor:
        """Computes logits ``(B, T, V)`` of the T tokens of a chunk, each with V values."""

    @abstractmethod
    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes a checkpoint that `load_policy` reads.

        Args:
            path: Folder and name, without an extension.
            provenance: Description of the training, for JSON.
        """

    @torch.no_grad()
    def sample(
        self, inputs: Inputs, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Samples tokens ``(B, T)``; returns them and their log-probabilities ``(B, T)``.

        Raises:
            ValueError: If the temperature is not positive.
        """
        logits = self.logits(inputs)
        tokens = token_maths.sample_tokens(logits, temperature, generator)
        return tokens, token_maths.log_probs(logits, tokens, temperature)

    def log_probs(
        self, inputs: Inputs, tokens: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Computes log-probabilities and entropies in nats, both ``(B, T)``, with gradients.

        Raises:
            ValueError: If the temperature is not positive.
        """
        logits = self.logits(inputs)
        return token_maths.log_probs_and_entropies(logits, tokens, temperature)

    def actions(self, tokens: Tensor) -> npt.NDArray[np.float32]:
        """Converts tokens ``(B, T)`` into actions ``(B, chunk, action_dim)`` in [-1, 1]."""
        actions: npt.NDArray[np.float32]
        actions = token_maths.tokens_to_actions(tokens, self.action_dim).cpu().numpy()
        return actions

    @torch.no_grad()
    def act(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Returns the most likely actions, ``(B, chunk, action_dim)``, for evaluation."""
        return self.actions(self.logits(self.prepare(observations, instructions)).argmax(dim=-1))
