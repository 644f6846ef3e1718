"""Clips gradients, and ends a training whose loss has become NaN."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Clips the norm of the gradients of all parameters together.

    Raises:
        FloatingPointError: If it is NaN or infinite, before a step could destroy the weights.
    """
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not norm < float("inf"):
        raise FloatingPointError(
            f"the norm of the gradients must be finite, got {norm:g}: the loss is not finite. What "
            "was saved is intact; lower the learning rate, or check the training data for NaN"
        )
