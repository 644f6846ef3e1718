"""Parallel decoding: all action tokens from one pass of a language model.

The tokens of a chunk have placeholders at the end of the sequence. Attention is bidirectional, so
that each of them depends on all others (OpenVLA-OFT, arXiv:2502.19645).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

PADDING = -1
"""Token on the left of a prompt that is shorter than others."""


def trimmed(prompts: Tensor) -> Tensor:
    """Removes the padding that all prompts ``(B, length)`` have in common."""
    longest = int((prompts != PADDING).sum(dim=1).max()) if len(prompts) else 0
    return prompts[:, prompts.shape[1] - longest :]


def bidirectional(model: Any, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Computes the last hidden states of a decoder of ``transformers`` without a causal mask.

    Positions without an embedding have no effect, wherever they are: they are masked, and the
    others are numbered without them.

    Args:
        model: A decoder without its head, such as ``LlamaModel``, with ``sdpa`` attention.
        embeddings: Embeddings of the sequence, ``(B, S, D)``.
        mask: Mask of the positions that have an embedding, ``(B, S)``.

    Returns:
        Hidden states ``(B, S, D)``, after the last normalisation.
    """
    hidden: Tensor = model(
        inputs_embeds=embeddings,
        # A mask of four dimensions is used as it is; without one, attention would be causal.
        attention_mask=mask[:, None, None, :],
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp_min(0),
        use_cache=False,
    ).last_hidden_state
    return hidden


def in_parts(
    compute: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor], batch_size: int
) -> Tensor:
    """Computes logits of ``batch_size`` rows at a time, in the memory that these need.

    With gradients, only the inputs of a part are kept, and it is computed again in the backward
    pass. Without dropout, the result is the same.
    """
    rows = len(next(iter(inputs.values())))
    if rows <= batch_size:
        return compute(inputs)
    parts = []
    for start in range(0, rows, batch_size):
        part = {name: value[start : start + batch_size] for name, value in inputs.items()}
        if torch.is_grad_enabled():
            logits = checkpoint(compute, part, use_reentrant=False, preserve_rng_state=False)
        else:
            logits = compute(part)
        parts.append(logits)
    return torch.cat(parts)


def enable_checkpointing(model: Any) -> None:
    """Lets a model of ``transformers`` compute its layers again in the backward pass."""
    # Newer versions have a new name for it, and warn about the old one.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
