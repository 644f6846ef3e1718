"""What a policy imitates: examples of observations and actions, their targets, augmentation.

Shared by cloning from demonstrations and by reinforcement learning that imitates own successes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.policy.tokens import NUM_BINS

Floats = npt.NDArray[np.floating[Any]]

IMAGES = ("agentview", "wrist")
"""names of the inputs that are images"""


@dataclass
class Examples:
    """Observations with the actions to imitate; N is their number."""

    inputs: dict[str, Tensor]
    """Return value of `Policy.prepare`, with N rows."""
    actions: Tensor
    """Actions of the chunks in [-1, 1], ``(N, chunk, action_dim)``."""
    mask: Tensor
    """Mask of the actions, false after the episode's end, ``(N, chunk)``."""
    waypoints: Tensor
    """Positions in metres where the gripper closes and opens, ``(N, 2, 3)``."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.actions)

    def select(self, rows: Any, device: torch.device | str | None = None) -> Examples:
        """Returns some rows, as a batch; on another device if one is given."""
        parts = (self.actions, self.mask, self.waypoints)
        inputs = {name: value[rows].to(device) for name, value in self.inputs.items()}
        return Examples(inputs, *(part[rows].to(device) for part in parts))

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        """Joins examples along their first axis."""
        inputs = {
            name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs
        }
        columns = zip(*((part.actions, part.mask, part.waypoints) for part in parts), strict=True)
        return Examples(inputs, *map(torch.cat, columns))


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


def soft_labels(bins: Tensor, width: float) -> Tensor:
    """Computes normal distributions over bins with means ``(B, T)``: ``(B, T, NUM_BINS)``."""
    offsets = torch.arange(NUM_BINS, device=bins.device) - bins[..., None]
    return torch.softmax(-0.5 * (offsets / width) ** 2, dim=-1)


def augment(
    inputs: dict[str, Tensor], generator: torch.Generator, shift: int, jitter: float
) -> dict[str, Tensor]:
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
    for name, reach in zip(IMAGES, (shift, 2 * shift), strict=True):
        changed[name] = _recolored(_shifted(inputs[name], generator, reach), generator, jitter)
    return changed


def _shifted(images: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Shifts each image by up to ``reach`` pixels; repeats its border."""
    batch, height, width, _ = images.shape
    offsets = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=generator).flatten(1)
    for axis, size in ((1, height), (2, width)):
        first, last = images.narrow(axis, 0, 1), images.narrow(axis, size - 1, 1)
        images = torch.cat([first] * reach + [images] + [last] * reach, dim=axis)
    # One slice per image: a gather of all pixels takes five times as long on a CPU.
    shifted = [
        image[down : down + height, right : right + width]
        for image, down, right in zip(images, *offsets.tolist(), strict=True)
    ]
    return torch.stack(shifted)


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
