"""Actions as tokens, and the probabilities of tokens that reinforcement learning needs.

All of this is the same for every policy that puts out token logits, large or small.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 256
"""values that an action token can take"""

ZERO_BIN = 128
"""token of exactly no motion; a grid without one makes the arm drift"""

_STEPS_TO_ONE = 127


def tokens_to_actions(tokens: Tensor, action_dim: int = 7) -> Tensor:
    """Turns tokens ``(B, chunk * action_dim)`` into actions ``(B, chunk, action_dim)`` in [-1, 1].

    Token 128 is exactly 0 and 255 exactly 1. Token 0 would lie beyond -1 and counts as token 1.

    Raises:
        ValueError: If the tokens do not divide into whole actions.
    """
    if tokens.shape[-1] % action_dim:
        raise ValueError(
            f"the number of tokens must be a multiple of `action_dim` = {action_dim}, "
            f"got {tokens.shape[-1]}"
        )
    actions = ((tokens - ZERO_BIN).float() / _STEPS_TO_ONE).clamp(-1.0, 1.0)
    return actions.view(*tokens.shape[:-1], -1, action_dim)


def actions_to_tokens(actions: Tensor) -> Tensor:
    """Turns actions ``(B, chunk, action_dim)`` into the nearest tokens, int64.

    Actions beyond [-1, 1] are cut off, as the controller does.

    Returns:
        Tokens ``(B, chunk * action_dim)``.
    """
    return actions_to_bins(actions).round().long()


def actions_to_bins(actions: Tensor) -> Tensor:
    """Places of actions on the token axis before rounding, shape ``(B, chunk * action_dim)``."""
    return (actions.clamp(-1.0, 1.0) * _STEPS_TO_ONE + ZERO_BIN).flatten(-2)


def sample_tokens(
    logits: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draws tokens ``(B, T)`` from logits ``(B, T, V)``.

    Raises:
        ValueError: If the temperature is not positive.
    """
    # Gumbel-max: one pass, where `torch.multinomial` wants normalised rows of a flat matrix.
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (_scaled(logits, temperature) - noise.log()).argmax(dim=-1)


def log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities ``(B, T)`` of tokens ``(B, T)`` under logits ``(B, T, V)``.

    ``temperature`` is the one that the tokens were drawn with.

    Raises:
        ValueError: If the temperature is not positive.
    """
    normalized = _scaled(logits, temperature).log_softmax(dim=-1)
    return normalized.gather(-1, tokens[..., None]).squeeze(-1)


def log_probs_and_entropies(
    logits: Tensor, tokens: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """As :func:`log_probs`, with the entropies ``(B, T)`` in nats of the distributions.

    Raises:
        ValueError: If the temperature is not positive.
    """
    normalized = _scaled(logits, temperature).log_softmax(dim=-1)
    entropies = -(normalized.exp() * normalized).sum(dim=-1)
    return normalized.gather(-1, tokens[..., None]).squeeze(-1), entropies


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    return logits if temperature == 1 else logits / temperature
