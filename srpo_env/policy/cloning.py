"""Supervised training of the small policy: targets from demonstrations, augmentation, loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.libero.demos import Demo
from srpo_env.policy.base import Inputs
from srpo_env.policy.network import CAMERAS, SmallPolicy
from srpo_env.policy.tokens import NUM_BINS, actions_to_bins

Floats = npt.NDArray[np.floating[Any]]

WAYPOINT_WEIGHT = 20.0
"""Weight of the waypoint error, in 1/m: one centimetre costs as much as 0.2 nats of every token."""


@dataclass
class ClonedFrames:
    """Frames of demonstrations with the targets of the policy; N is their number."""

    inputs: Inputs
    """Return value of `SmallPolicy.prepare`, with N rows."""
    actions: Tensor
    """Actions of the chunks in [-1, 1], ``(N, chunk, action_dim)``."""
    mask: Tensor
    """Mask of the actions, false after the demonstration's end, ``(N, chunk)``."""
    waypoints: Tensor
    """Positions in metres where the gripper closes and opens, ``(N, 2, 3)``."""
    demos: Counter[str] = field(default_factory=Counter)
    """Number of demonstrations of each instruction."""

    @classmethod
    def from_demos(cls, demos: Iterable[Demo], policy: SmallPolicy, stride: int) -> ClonedFrames:
        """Takes every ``stride``-th frame of each demonstration.

        Raises:
            ValueError: If the stride is not positive, there is no demonstration, or the size of an
                action differs from the policy's.
        """
        if stride < 1:
            raise ValueError(f"`stride` must be at least 1, got {stride}")
        parts: list[tuple[Inputs, Floats, npt.NDArray[np.bool_], Floats]] = []
        counts: Counter[str] = Counter()
        for demo in demos:
            if demo.actions.shape[1:] != (policy.action_dim,):
                raise ValueError(
                    f"actions must have {policy.action_dim} entries, "
                    f"got shape {demo.actions.shape} in {demo.source}"
                )
            steps = np.arange(0, len(demo.actions), stride)
            observations: dict[str, npt.NDArray[Any]]
            observations = {name: demo.images[name][steps] for name in CAMERAS}
            observations["proprio"] = demo.proprio[steps]
            inputs = policy.prepare(observations, [demo.instruction] * len(steps))
            chunks, mask = chunk_targets(demo.actions, steps, policy.config.chunk)
            waypoints = waypoint_targets(demo.actions[:, -1], demo.proprio[:, :3])[steps]
            parts.append((inputs, chunks, mask, waypoints))
            counts[demo.instruction] += 1
        if not parts:
            raise ValueError("there must be at least one demonstration, got none")
        columns = list(zip(*parts, strict=True))
        actions, masks, places = (torch.as_tensor(np.concatenate(c)) for c in columns[1:])
        inputs = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
        return cls(inputs, actions.float(), masks, places.float(), counts)

    def __len__(self) -> int:
        """Returns the number of frames."""
        return len(self.actions)

    def select(self, rows: Tensor) -> ClonedFrames:
        """Returns some rows, as a batch."""
        inputs = {name: value[rows] for name, value in self.inputs.items()}
        return ClonedFrames(inputs, self.actions[rows], self.mask[rows], self.waypoints[rows])


def chunk_targets(
    actions: Floats, steps: npt.NDArray[np.integer[Any]], chunk: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Cuts chunks that begin at ``steps`` out of actions ``(num_steps, action_dim)``.

    Returns:
        Actions ``(len(steps), chunk, action_dim)``, zero after the demonstration's end, and a mask
        ``(len(steps), chunk)`` that is false there.
    """
    index = steps[:, None] + np.arange(chunk)
    mask = index < len(actions)
    chunks = actions[np.minimum(index, len(actions) - 1)] * mask[..., None]
    return chunks, mask


def waypoint_targets(gripper: Floats, positions: Floats) -> Floats:
    """Computes where the gripper closes and where it opens, for every step of a demonstration.

    While it is open: where it closes next, and where it opens after that. While it is closed: where
    it closed last, and where it opens next. The end of the demonstration counts as both.

    Args:
        gripper: Gripper actions, positive to close, shape ``(num_steps,)``.
        positions: Gripper positions in metres, shape ``(num_steps, 3)``.

    Returns:
        Grasp and release positions, shape ``(num_steps, 2, 3)``.
    """
    closed = gripper > 0
    last = len(closed) - 1
    # Backwards in time: where the gripper closes and opens next, for each step.
    close_at, open_at = np.full(last + 2, last), np.full(last + 2, last)
    for step in range(last, -1, -1):
        close_at[step] = step if closed[step] else close_at[step + 1]
        open_at[step] = open_at[step + 1] if closed[step] else step
    grasp = close_at[:-1]
    for step in range(1, last + 1):
        if closed[step] and closed[step - 1]:
            grasp[step] = grasp[step - 1]  # still closed: the place where it closed
    release = open_at[np.maximum(grasp, np.arange(last + 1))]
    return np.stack([positions[grasp], positions[release]], axis=1)


def cloning_loss(
    policy: SmallPolicy, batch: ClonedFrames, label_width: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Computes the cross-entropy of the action tokens plus the weighted error of the waypoints.

    Args:
        policy: The policy to train.
        batch: Frames and targets.
        label_width: Standard deviation of the soft labels in bins.

    Returns:
        The loss, and its parts without gradients: ``cross_entropy`` in nats per token and
        ``waypoint_error`` in metres.
    """
    logits, waypoints = policy(batch.inputs)
    labels = soft_labels(actions_to_bins(batch.actions), label_width)
    token_losses = -(labels * logits.log_softmax(dim=-1)).sum(dim=-1)  # (B, T)
    mask = batch.mask.repeat_interleave(policy.action_dim, dim=1)
    cross_entropy = (token_losses * mask).sum() / mask.sum()
    error = (waypoints - batch.waypoints).norm(dim=-1).mean()
    parts = {"cross_entropy": cross_entropy.detach(), "waypoint_error": error.detach()}
    return cross_entropy + WAYPOINT_WEIGHT * error, parts


def soft_labels(bins: Tensor, width: float) -> Tensor:
    """Computes normal distributions over bins with means ``(B, T)``: ``(B, T, NUM_BINS)``."""
    offsets = torch.arange(NUM_BINS, device=bins.device) - bins[..., None]
    return torch.softmax(-0.5 * (offsets / width) ** 2, dim=-1)


def augment(inputs: Inputs, generator: torch.Generator, shift: int, jitter: float) -> Inputs:
    """Shifts images by a few pixels, and changes their brightness, contrast and colours.

    Args:
        inputs: Return value of `SmallPolicy.prepare`.
        generator: Random number generator.
        shift: Maximum shift of the agent view in pixels; twice as far for the wrist view. Large
            shifts do harm, because the policy depends on positions in the images.
        jitter: Maximum relative change of brightness and contrast; half of it for each colour.

    Returns:
        The inputs with float images in 0..255.
    """
    changed = dict(inputs)
    for name, reach in zip(CAMERAS, (shift, 2 * shift), strict=True):
        changed[name] = _recolored(_shifted(inputs[name], generator, reach), generator, jitter)
    return changed


def _shifted(images: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Shifts each image by up to ``reach`` pixels; repeats its border."""
    batch, height, width, _ = images.shape
    down, right = torch.randint(-reach, reach + 1, (2, batch, 1), generator=generator)
    rows = (torch.arange(height) + down).clamp(0, height - 1)  # (B, H)
    columns = (torch.arange(width) + right).clamp(0, width - 1)  # (B, W)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _recolored(images: Tensor, generator: torch.Generator, jitter: float) -> Tensor:
    def uniform(*shape: int) -> Tensor:
        spread = torch.rand(shape, generator=generator) * 2 - 1  # in [-1, 1]
        return jitter * spread.to(images.device)

    batch = len(images)
    gain = (1 + uniform(batch, 1, 1, 1)) * (1 + 0.5 * uniform(batch, 1, 1, 3))
    contrast = gain * (1 + uniform(batch, 1, 1, 1))
    floats = images.float()
    mean = floats.mean(dim=(1, 2, 3), keepdim=True)
    # In one pass: (floats - mean) * contrast + mean * gain, plus up to a sixth of full brightness.
    offset = mean * (gain - contrast) + 40 * uniform(batch, 1, 1, 1)
    return torch.addcmul(offset, floats, contrast).clamp_(0, 255)
