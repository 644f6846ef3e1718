"""Modules of the small policy: encoders of text, images and proprioception."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srpo_env.policy.text import MAX_WORDS, PADDING, VOCABULARY_SIZE

WORKSPACE_CENTER = (0.0, 0.0, 0.15)
"""Point, in metres, that positions are relative to in the network's input."""

WORKSPACE_SCALE = 0.3
"""Distance from the center, in metres, that is scaled to 1."""

FINGER_SCALE = 0.04
"""Position of an open finger, in metres."""

BODY_FEATURES = 11
"""Number of features: position, two columns of the rotation matrix, two fingers."""


class TextEncoder(nn.Module):
    """Encodes word tokens ``(B, MAX_WORDS)`` as one vector ``(B, width)`` per instruction."""

    def __init__(self, width: int) -> None:
        """Initialises an encoder with ``width`` features, a multiple of 4."""
        super().__init__()
        self.words = nn.Embedding(VOCABULARY_SIZE, width)
        self.positions = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.1)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.weight = nn.Linear(width, 1)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Encodes each distinct instruction of the batch once, because there are few of them."""
        tokens, rows = torch.unique(tokens, dim=0, return_inverse=True)
        padding = tokens == PADDING
        words = self.words(tokens) + self.positions
        normed = self.norm(words)
        mixed, _ = self.mix(normed, normed, normed, key_padding_mask=padding, need_weights=False)
        words = words + mixed
        weights = self.weight(words).masked_fill(padding[..., None], -torch.inf).softmax(dim=1)
        pooled: Tensor = self.out((weights * words).sum(dim=1))
        return pooled[rows]


class CameraEncoder(nn.Module):
    """Encodes the images of one camera, conditioned on the instruction.

    Queries computed from the instruction attend to the feature map. Each head returns the mean
    position of its attention (two coordinates in [-1, 1]) and the features there.
    """

    def __init__(
        self, image_size: int, channels: tuple[int, int, int], heads: int, text_width: int
    ) -> None:
        """Initialises an encoder of square images of ``image_size`` pixels, a multiple of 8."""
        super().__init__()
        first, second, third = channels
        value_width = 16
        self.heads = heads
        self.stem = nn.Conv2d(3, first, kernel_size=6, stride=4, padding=1)
        self.stem_norm = nn.GroupNorm(4, first)
        self.middle = nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1)
        self.middle_norm = nn.GroupNorm(8, second)
        self.modulation = nn.Linear(text_width, 2 * second)
        self.last = nn.Conv2d(second, third, kernel_size=3, padding=1)
        self.last_norm = nn.GroupNorm(8, third)
        self.keys = nn.Conv2d(third, third, kernel_size=1)
        self.queries = nn.Linear(text_width, heads * third)
        self.values = nn.Linear(third, value_width)
        line = torch.linspace(-1, 1, image_size // 8)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.grid: Tensor
        self.register_buffer("grid", torch.stack([x, y], dim=-1).view(-1, 2), persistent=False)
        self.out_features = heads * (2 + value_width) + third

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """Computes features ``(B, out_features)`` of images ``(B, H, W, 3)`` in 0..255."""
        maps = F.silu(self.stem_norm(self.stem(_normalized(images))))
        maps = self.middle_norm(self.middle(maps))
        # FiLM (arXiv:1709.07871): the instruction scales and shifts the channels.
        scale, shift = self.modulation(text)[..., None, None].chunk(2, dim=1)
        maps = F.silu(maps * (1 + scale) + shift)
        maps = F.silu(self.last_norm(self.last(maps)))  # (B, C, side, side)
        keys = self.keys(maps).flatten(2)  # (B, C, side^2)
        places = maps.flatten(2).transpose(1, 2)  # (B, side^2, C)
        queries = self.queries(text).view(len(text), self.heads, -1)
        attention = (queries @ keys * keys.shape[1] ** -0.5).softmax(dim=-1)
        where = attention @ self.grid  # (B, heads, 2)
        what = self.values(attention @ places)  # (B, heads, value_width)
        return torch.cat([where.flatten(1), what.flatten(1), places.mean(dim=1)], dim=-1)


class Residual(nn.Module):
    """Residual block on ``(B, width)`` with layer normalisation of its input."""

    def __init__(self, width: int) -> None:
        """Initialises a block with ``width`` features."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the block's update to ``x``."""
        update: Tensor = self.outer(F.silu(self.inner(self.norm(x))))
        return x + update


def body_features(proprio: Tensor) -> Tensor:
    """Computes features ``(B, BODY_FEATURES)`` of proprioception ``(B, 8)``.

    Orientations become two columns of the rotation matrix: near half a turn, where the gripper
    points down, axis-angle vectors change abruptly between opposite directions.
    """
    position, axis_angle, fingers = proprio[:, :3], proprio[:, 3:6], proprio[:, 6:]
    angle = axis_angle.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    x, y, z = (axis_angle / angle).unbind(-1)
    sin, cos = angle[:, 0].sin(), angle[:, 0].cos()
    rest = 1 - cos
    columns = [
        cos + x * x * rest, y * x * rest + z * sin, z * x * rest - y * sin,
        x * y * rest - z * sin, cos + y * y * rest, z * y * rest + x * sin,
    ]  # fmt: skip
    place = (position - position.new_tensor(WORKSPACE_CENTER)) / WORKSPACE_SCALE
    return torch.cat([place, torch.stack(columns, dim=-1), fingers / FINGER_SCALE], dim=-1)


def _normalized(images: Tensor) -> Tensor:
    """Scales images from 0..255 to [-1, 1], shape ``(B, 3, H, W)``, channels last in memory."""
    return torch.sub(images, 127.5).div_(127.5).permute(0, 3, 1, 2)
