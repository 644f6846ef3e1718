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
from srpo_env.policy.imitation import Examples, soft_labels

Inputs = dict[str, Tensor]
"""A batch of observations as a policy reads them; the first axis of every tensor is the batch."""

SHIFT = 2
"""Default augmentation: maximum shift of images in pixels."""

JITTER = 0.3
"""Default augmentation: maximum relative change of brightness, contrast and colours."""

LABEL_WIDTH = 1.5
"""standard deviation of the soft labels that policies imitate, in bins of 1/127"""


class Policy(nn.Module, ABC):
    """Maps observations and instructions to chunks of discrete action tokens.

    The probability of a token must depend neither on ``train()`` and ``eval()`` nor on the rest of
    the batch, because reinforcement learning compares probabilities of rollouts and of updates.
    """

    action_dim: int = 7
    chunk: int = 8
    """Number of control steps per decision."""

    @property
    def env_settings(self) -> dict[str, Any]:
        """Arguments of `LiberoEnv` that the policy needs, such as ``image_size``; here: none."""
        return {}

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

    @abstractmethod
    def restore(self, path: str | Path) -> None:
        """Takes over the weights of a checkpoint that `save` wrote for this policy.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged, or of another policy.
        """

    @torch.no_grad()
    def sample(
        self,
        inputs: Inputs,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        correlation: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Samples tokens ``(B, T)``; returns them and their log-probabilities ``(B, T)``.

        Args:
            inputs: Return value of `prepare`.
            temperature: Temperature of the sampling.
            generator: Random number generator.
            correlation: Correlation of neighbouring steps of a chunk, see
                `srpo_env.policy.tokens.sample_tokens`. The log-probabilities are those of the
                single tokens in any case.

        Raises:
            ValueError: If the temperature is not positive, or the correlation is not in [0, 1).
        """
        logits = self.logits(inputs)
        tokens = token_maths.sample_tokens(
            logits, temperature, generator, correlation, self.action_dim
        )
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

    def imitation_loss(
        self, examples: Examples, label_width: float = LABEL_WIDTH
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of imitating actions: the cross-entropy of their tokens.

        Policies with further outputs add the errors of these.

        Args:
            examples: Observations and targets.
            label_width: Standard deviation of the soft labels in bins.

        Returns:
            The loss, and its parts without gradients, by name: ``cross_entropy`` in nats per token.
        """
        return self._imitation_loss(self.logits(examples.inputs), examples, label_width)

    def augment(
        self,
        inputs: Inputs,
        generator: torch.Generator,
        shift: int = SHIFT,
        jitter: float = JITTER,
    ) -> Inputs:
        """Returns randomly changed inputs to imitate the same actions from; here: the same.

        Args:
            inputs: Return value of `prepare`.
            generator: Random number generator.
            shift: Maximum shift of images in pixels.
            jitter: Maximum relative change of brightness, contrast and colours.
        """
        return inputs

    def _imitation_loss(
        self, logits: Tensor, examples: Examples, label_width: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes `imitation_loss` from logits ``(N, T, V)``."""
        labels = soft_labels(self.action_bins(examples.actions), label_width)
        token_losses = -(labels * logits.log_softmax(dim=-1)).sum(dim=-1)  # (N, T)
        mask = examples.mask.repeat_interleave(self.action_dim, dim=1)
        cross_entropy = (token_losses * mask).sum() / mask.sum()
        return cross_entropy, {"cross_entropy": cross_entropy.detach()}

    def action_bins(self, actions: Tensor) -> Tensor:
        """Converts actions ``(B, chunk, action_dim)`` into unrounded tokens ``(B, T)``."""
        return token_maths.actions_to_bins(actions)

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
