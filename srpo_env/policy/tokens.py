"""Converts between actions and tokens, and computes the probabilities of tokens.

Every policy that returns token logits uses these functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 256
"""Number of values of an action token."""

ZERO_BIN = 128
"""Token of an action of exactly 0; without such a token, the arm would drift."""

_STEPS_TO_ONE = 127


def tokens_to_actions(tokens: Tensor, action_dim: int = 7) -> Tensor:
    """Converts tokens ``(B, chunk * action_dim)`` into actions ``(B, chunk, action_dim)``.

    Actions are in [-1, 1]. Token 128 is exactly 0 and 255 exactly 1. Token 0 would be below -1 and
    is clipped to it.

    Raises:
        ValueError: If the number of tokens is not a multiple of ``action_dim``.
    """
    if tokens.shape[-1] % action_dim:
        raise ValueError(
            f"the number of tokens must be a multiple of `action_dim` = {action_dim}, "
            f"got {tokens.shape[-1]}"
        )
    actions = ((tokens - ZERO_BIN).float() / _STEPS_TO_ONE).clamp(-1.0, 1.0)
    return actions.view(*tokens.shape[:-1], -1, action_dim)


def actions_to_tokens(actions: Tensor) -> Tensor:
    """Converts actions ``(B, chunk, action_dim)`` into the nearest tokens, int64.

    Actions are clipped to [-1, 1], as in the controller.

    Returns:
        Tokens ``(B, chunk * action_dim)``.
    """
    return actions_to_bins(actions).round().long()


def actions_to_bins(actions: Tensor) -> Tensor:
    """Converts actions into unrounded tokens, shape ``(B, chunk * action_dim)``."""
    return (actions.clamp(-1.0, 1.0) * _STEPS_TO_ONE + ZERO_BIN).flatten(-2)


def sample_tokens(
    logits: Tensor,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    correlation: float = 0.0,
    action_dim: int = 7,
) -> Tensor:
    """Samples tokens ``(B, T)`` from logits ``(B, T, V)``.

    Every token has the distribution of its logits. The deviations of independent tokens partly
    cancel over the steps of a chunk, so the gripper's position varies little. With ``correlation``,
    the deviations of each action dimension are a first-order autoregressive process along the
    chunk (arXiv:2312.11091 has coloured noise for PPO), and neighbouring steps deviate in the same
    direction.

    Args:
        logits: Logits of the policy.
        temperature: Temperature of the sampling.
        generator: Random number generator.
        correlation: Correlation of the underlying normal noise of neighbouring steps of a chunk,
            in [0, 1); 0 samples independent tokens.
        action_dim: Number of tokens of a step.

    Raises:
        ValueError: If the temperature is not positive, or the correlation is not in [0, 1).
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"`correlation` must be at least 0 and below 1, got {correlation}")
    device = logits.device if generator is None else generator.device
    scaled = _scaled(logits, temperature)
    if correlation == 0:
        # Gumbel-max in one pass; `torch.multinomial` requires normalised rows of a matrix.
        noise = torch.empty_like(logits, device=device).exponential_(generator=generator)
        return (scaled - noise.log().to(logits.device)).argmax(dim=-1)
    batch, num_tokens, num_values = logits.shape
    shape = (batch, num_tokens // action_dim, action_dim)
    noise = torch.randn(shape, generator=generator, device=device)
    quantiles = torch.special.ndtr(_correlated(noise, correlation)).flatten(1)  # uniform in [0, 1]
    cumulative = scaled.softmax(dim=-1).cumsum(dim=-1)
    # The last sum is rounded, and may not be 1.
    quantiles = quantiles[..., None].to(logits.device) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, quantiles)[..., 0].clamp(max=num_values - 1)


def log_probs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Computes log-probabilities ``(B, T)`` of tokens ``(B, T)`` under logits ``(B, T, V)``.

    Args:
        logits: Logits of the policy.
        tokens: Sampled tokens.
        temperature: Temperature of the sampling.

    Raises:
        ValueError: If the temperature is not positive.
    """
    normalized = _scaled(logits, temperature).log_softmax(dim=-1)
    return normalized.gather(-1, tokens[..., None]).squeeze(-1)


def log_probs_and_entropies(
    logits: Tensor, tokens: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Computes `log_probs`, and the entropies ``(B, T)`` of the distributions in nats.

    Raises:
        ValueError: If the temperature is not positive.
    """
    normalized = _scaled(logits, temperature).log_softmax(dim=-1)
    entropies = -(normalized.exp() * normalized).sum(dim=-1)
    return normalized.gather(-1, tokens[..., None]).squeeze(-1), entropies


def _correlated(noise: Tensor, correlation: float) -> Tensor:
    """Correlates independent normal noise ``(B, steps, dim)`` along its steps."""
    steps = torch.arange(noise.shape[1], device=noise.device)
    correlations = correlation ** (steps[:, None] - steps).abs().double()
    correlated: Tensor = torch.linalg.cholesky(correlations).to(noise) @ noise
    return correlated


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}")
    return logits if temperature == 1 else logits / temperature
