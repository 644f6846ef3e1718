"""Supervised training of the small policy: targets from demonstrations, augmentation, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.policy.base import Inputs
from srpo_env.policy.network import SmallPolicy
from srpo_env.policy.tokens import NUM_BINS, actions_to_bins

Floats = npt.NDArray[np.floating[Any]]

WAYPOINT_WEIGHT = 20.0
"""1/m; weight of a waypoint's error, beside the cross-entropy of a token in nats"""


@dataclass(frozen=True)
class Targets:
    """What a batch of observations should be answered with."""

    actions: Tensor
    """(B, chunk, action_dim) in [-1, 1]"""
    mask: Tensor
    """(B, chunk), true for control steps that the demonstration has"""
    waypoints: Tensor
    """(B, 2, 3), metres: where the hand closes and where it opens"""

    def select(self, rows: Tensor) -> Targets:
        """The rows of an index."""
        return Targets(self.actions[rows], self.mask[rows], self.waypoints[rows])


def chunk_targets(actions: Floats, steps: Sequence[int], chunk: int) -> tuple[Floats, Floats]:
    """The chunks that begin at ``steps`` of a demonstration's actions ``(num_steps, action_dim)``.

    Returns:
        Actions ``(len(steps), chunk, action_dim)``, zero after the demonstration's end, and a mask
        ``(len(steps), chunk)`` that is false there.
    """
    index = np.asarray(steps)[:, None] + np.arange(chunk)
    mask = index < len(actions)
    chunks = actions[np.minimum(index, len(actions) - 1)] * mask[..., None]
    return chunks, mask


def waypoint_targets(gripper: Floats, positions: Floats) -> Floats:
    """Where the hand closes and where it opens, in hindsight, for every step of a demonstration.

    With an open gripper: where it closes next, and where it then opens. With a closed one: where it
    closed last, and where it opens next. An end of the demonstration counts as both.

    Args:
        gripper: Gripper actions, negative to open, shape ``(num_steps,)``.
        positions: Hand positions in metres, shape ``(num_steps, 3)``.

    Returns:
        Grasp and release positions, shape ``(num_steps, 2, 3)``.
    """
    closed = gripper > 0
    last = len(closed) - 1
    waypoints = np.empty((len(closed), 2, 3))
    for step in range(len(closed)):
        later = np.flatnonzero(closed[step:]) + step
        if closed[step]:
            earlier = np.flatnonzero(~closed[:step])
            grasp = earlier[-1] + 1 if len(earlier) else 0
        else:
            grasp = later[0] if len(later) else last
        opens = np.flatnonzero(~closed[max(grasp, step) :])
        release = opens[0] + max(grasp, step) if len(opens) else last
        waypoints[step] = positions[grasp], positions[release]
    return waypoints


def cloning_loss(
    policy: SmallPolicy, inputs: Inputs, targets: Targets, label_width: float
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the action tokens plus the waypoints' error.

    Args:
        policy: The policy that learns.
        inputs: What it sees.
        targets: What it should answer.
        label_width: Standard deviation of the labels in bins; neighbours of a bin are nearly as right.

    Returns:
        The loss, and its parts for logging.
    """
    logits, waypoints = policy(inputs)
    labels = soft_labels(actions_to_bins(targets.actions), label_width)
    log_probs = logits.log_softmax(dim=-1)
    token_losses = -(labels * log_probs).sum(dim=-1)  # (B, T)
    mask = targets.mask.repeat_interleave(policy.config.action_dim, dim=1)
    cross_entropy = (token_losses * mask).sum() / mask.sum()
    error = (waypoints - targets.waypoints).norm(dim=-1).mean()
    loss = cross_entropy + WAYPOINT_WEIGHT * error
    return loss, {
        "cross_entropy": float(cross_entropy.detach()),
        "waypoint_error_m": float(error.detach()),
    }


def soft_labels(bins: Tensor, width: float) -> Tensor:
    """Normal distributions over the bins about ``bins`` ``(B, T)``, shape ``(B, T, NUM_BINS)``."""
    offsets = torch.arange(NUM_BINS, device=bins.device) - bins[..., None]
    return torch.softmax(-0.5 * (offsets / width) ** 2, dim=-1)


def augment(inputs: Inputs, shift: int = 2, jitter: float = 0.3) -> Inputs:
    """Shifts images by a few pixels, and changes their brightness, contrast and colours.

    Args:
        inputs: As :meth:`SmallPolicy.prepare` makes them.
        shift: Largest shift in pixels of the agent view; the wrist view shifts twice as far.
        jitter: Largest relative change of brightness and contrast; colours change by half of it.

    Returns:
        The same with float images in 0..255.
    """
    changed = dict(inputs)
    for name, reach in (("agentview", shift), ("wrist", 2 * shift)):
        images = _shifted(inputs[name], reach)
        changed[name] = _recolored(images, jitter)
    return changed


def _shifted(images: Tensor, reach: int) -> Tensor:
    """Moves each image by up to ``reach`` pixels; repeats its border."""
    batch, height, width, _ = images.shape
    down, right = torch.randint(-reach, reach + 1, (2, batch, 1))
    rows = (torch.arange(height) + down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) + right).clamp(0, width - 1)  # (B, W)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _recolored(images: Tensor, jitter: float) -> Tensor:
    batch = len(images)
    uniform = torch.rand(3, batch, 1, 1, 1) * 2 - 1
    tint = torch.rand(batch, 1, 1, 3) * 2 - 1
    gain = (1 + jitter * uniform[0]) * (1 + 0.5 * jitter * tint)
    floats = images.float()
    mean = floats.mean(dim=(1, 2, 3), keepdim=True)
    floats = (floats - mean) * (1 + jitter * uniform[1]) + mean
    return (floats * gain + 40 * jitter * uniform[2]).clamp_(0, 255)
