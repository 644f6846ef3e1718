"""A vision-language-action policy small enough to train on a CPU.

Two camera images, the instruction as text and proprioception go in; the logits of a whole chunk of
action tokens come out, decoded in parallel as in OpenVLA-OFT (arXiv:2502.19645). The instruction asks
*where*: queries made from it attend to the image features, and the places that they find become
waypoints (where to grasp, where to let go), which the action head sees relative to the hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srpo_env.policy.base import Inputs, Policy
from srpo_env.policy.checkpoint import load_checkpoint, save_checkpoint
from srpo_env.policy.text import MAX_WORDS, PADDING, VOCABULARY_SIZE, tokenize
from srpo_env.policy.tokens import NUM_BINS

WORKSPACE_CENTER = (0.0, 0.0, 0.15)
"""m; hand positions are given to the network relative to this point, of the table's frame"""

WORKSPACE_SCALE = 0.3
"""m; distance from the centre that counts as 1"""

FINGER_SCALE = 0.04
"""m; position of an open finger"""

RELATIVE_GAINS = (3.0, 20.0, 100.0)
"""1/m; a waypoint's offset from the hand is seen coarsely, in decimetres, and finely, in centimetres"""


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of the network; stored in its checkpoints."""

    image_size: int = 128
    chunk: int = 8
    action_dim: int = 7
    proprio_dim: int = 8
    channels: tuple[int, int, int] = (32, 48, 48)
    heads: int = 8
    text_width: int = 128
    width: int = 512
    token_width: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError if a size is out of its range."""
        if self.image_size < 32 or self.image_size % 8:
            raise ValueError(
                f"`image_size` must be a multiple of 8 and at least 32, got {self.image_size}"
            )
        if self.proprio_dim != 8:
            raise ValueError(
                f"`proprio_dim` must be 8 (position, axis-angle, two fingers), got {self.proprio_dim}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens per chunk: T."""
        return self.chunk * self.action_dim


class SmallPolicy(Policy):
    """Observations and an instruction to the logits of a chunk of action tokens.

    It has no dropout and no batch statistics: the probability of a token is the same in training and
    in acting, and for every batch that an observation is part of.
    """

    def __init__(self, config: PolicyConfig | None = None) -> None:
        """Makes a policy with random weights."""
        super().__init__()
        self.config = config = config or PolicyConfig()
        self.text = TextEncoder(config.text_width)
        self.agentview = Eye(config)
        self.wrist = Eye(config)
        body = 11  # position, two columns of the rotation matrix, two fingers
        context = 2 * self.agentview.out_features + config.text_width + body
        self.waypoint_head = nn.Sequential(
            nn.Linear(context, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, 6)
        )
        relative = 6 * len(RELATIVE_GAINS)
        self.trunk_in = nn.Linear(context + relative, config.width)
        self.trunk = nn.ModuleList([Residual(config.width) for _ in range(2)])
        self.trunk_norm = nn.LayerNorm(config.width)
        self.token_features = nn.Linear(config.width, config.num_tokens * config.token_width)
        # One table of bins per action dimension, shared by the steps of the chunk.
        self.bins = nn.Parameter(torch.zeros(config.action_dim, config.token_width, NUM_BINS))
        self.bin_bias = nn.Parameter(torch.zeros(config.action_dim, 1, NUM_BINS))
        nn.init.normal_(self.bins, std=config.token_width**-0.5)

    def prepare(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> Inputs:
        """Turns a batch of observations into tensors; images of another size are resized.

        Returns:
            ``agentview`` and ``wrist`` ``(B, image_size, image_size, 3)`` uint8, ``proprio`` ``(B, 8)``
            and ``instruction`` ``(B, MAX_WORDS)`` word tokens.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If a shape or type is wrong.
        """
        batch = len(instructions)
        inputs = {name: self._image(observations, name) for name in ("agentview", "wrist")}
        inputs["proprio"] = torch.as_tensor(_entry(observations, "proprio"), dtype=torch.float32)
        if inputs["proprio"].shape[1:] != (self.config.proprio_dim,):
            raise ValueError(
                f"`proprio` must have shape (B, {self.config.proprio_dim}), "
                f"got {tuple(inputs['proprio'].shape)}"
            )
        for name, value in inputs.items():
            if len(value) != batch:
                raise ValueError(
                    f"`{name}` must have one row for each of the {batch} instructions, got {len(value)}"
                )
        inputs["instruction"] = tokenize(instructions)
        return {name: value.to(self.bins.device) for name, value in inputs.items()}

    def logits(self, inputs: Inputs) -> Tensor:
        """Logits ``(B, T, NUM_BINS)`` of a chunk's tokens."""
        return self(inputs)[0]

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Logits ``(B, T, NUM_BINS)``, and waypoints ``(B, 2, 3)`` in metres: grasp and release."""
        text = self.text(inputs["instruction"])  # (B, text_width)
        seen = [
            self.agentview(_normalized(inputs["agentview"]), text),
            self.wrist(_normalized(inputs["wrist"]), text),
        ]
        body, position = _body_features(inputs["proprio"])
        context = torch.cat([*seen, text, body], dim=-1)
        scaled = self.waypoint_head(context).view(-1, 2, 3)
        waypoints = scaled * WORKSPACE_SCALE + scaled.new_tensor(WORKSPACE_CENTER)
        offsets = (waypoints - position[:, None]).flatten(1)  # (B, 6)
        relative = torch.cat([torch.tanh(gain * offsets) for gain in RELATIVE_GAINS], dim=-1)
        hidden = self.trunk_in(torch.cat([context, relative], dim=-1))
        for block in self.trunk:
            hidden = block(hidden)
        features = F.silu(self.token_features(self.trunk_norm(hidden)))
        config = self.config
        features = features.view(-1, config.chunk, config.action_dim, config.token_width)
        by_dimension = features.permute(2, 0, 1, 3).flatten(1, 2)  # (action_dim, B * chunk, ...)
        logits = torch.baddbmm(self.bin_bias, by_dimension, self.bins)
        logits = logits.view(config.action_dim, -1, config.chunk, NUM_BINS).permute(1, 2, 0, 3)
        return logits.flatten(1, 2), waypoints

    def save(self, path: str | Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Writes ``path.safetensors`` and ``path.json``."""
        save_checkpoint(path, self.state_dict(), asdict(self.config), provenance or {})

    def _image(self, observations: Mapping[str, npt.NDArray[Any]], name: str) -> Tensor:
        image = torch.as_tensor(_entry(observations, name))
        if image.ndim != 4 or image.shape[-1] != 3 or image.dtype != torch.uint8:
            raise ValueError(
                f"`{name}` must be uint8 of shape (B, height, width, 3), "
                f"got {image.dtype} of shape {tuple(image.shape)}"
            )
        size = self.config.image_size
        if image.shape[1:3] == (size, size):
            return image
        planes = image.permute(0, 3, 1, 2).float()
        resized = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


class TextEncoder(nn.Module):
    """Word tokens ``(B, MAX_WORDS)`` to one vector ``(B, width)`` per instruction."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY_SIZE, width)
        self.positions = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.1)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.weight = nn.Linear(width, 1)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        # A batch repeats few instructions, and the words are the same for all its rows.
        tokens, rows = torch.unique(tokens, dim=0, return_inverse=True)
        padding = tokens == PADDING
        words = self.words(tokens) + self.positions
        normed = self.norm(words)
        mixed, _ = self.mix(normed, normed, normed, key_padding_mask=padding, need_weights=False)
        words = words + mixed
        weights = self.weight(words).masked_fill(padding[..., None], -torch.inf).softmax(dim=1)
        pooled: Tensor = self.out((weights * words).sum(dim=1))
        return pooled[rows]


class Eye(nn.Module):
    """One camera: image features, and the places that the instruction asks for.

    Per head: where its attention lies (two coordinates) and what is there.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        first, second, third = config.channels
        self.heads, self.value_width = config.heads, 16
        self.stem = nn.Conv2d(3, first, kernel_size=6, stride=4, padding=1)
        self.stem_norm = nn.GroupNorm(4, first)
        self.middle = nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1)
        self.middle_norm = nn.GroupNorm(8, second)
        self.modulation = nn.Linear(config.text_width, 2 * second)  # FiLM, arXiv:1709.07871
        self.last = nn.Conv2d(second, third, kernel_size=3, padding=1)
        self.last_norm = nn.GroupNorm(8, third)
        self.keys = nn.Conv2d(third, third, kernel_size=1)
        self.queries = nn.Linear(config.text_width, config.heads * third)
        self.values = nn.Linear(third, self.value_width)
        side = config.image_size // 8
        line = torch.linspace(-1, 1, side)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flip(-1)
        self.register_buffer("grid", grid.reshape(-1, 2), persistent=False)  # (side^2, 2): x, y
        self.out_features = config.heads * (2 + self.value_width) + third

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        maps = F.silu(self.stem_norm(self.stem(images)))
        maps = self.middle_norm(self.middle(maps))
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
    """A pre-norm residual block of width ``(B, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.outer(F.silu(self.inner(self.norm(x))))
        return x + update


def _normalized(images: Tensor) -> Tensor:
    """images ``(B, H, W, 3)`` of 0..255 to [-1, 1], ``(B, 3, H, W)`` in channels-last memory."""
    return torch.sub(images, 127.5).div_(127.5).permute(0, 3, 1, 2)


def _body_features(proprio: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(B, 11)`` of proprioception ``(B, 8)``, and the hand's position ``(B, 3)`` in metres.

    Orientations enter as two columns of the rotation matrix: near half a turn, where the hand looks
    down, axis-angle jumps between opposite vectors.
    """
    position, axis_angle, fingers = proprio.split([3, 3, 2], dim=-1)
    angle = axis_angle.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    x, y, z = (axis_angle / angle).unbind(-1)
    sin, cos = angle[:, 0].sin(), angle[:, 0].cos()
    rest = 1 - cos
    columns = [
        cos + x * x * rest, y * x * rest + z * sin, z * x * rest - y * sin,
        x * y * rest - z * sin, cos + y * y * rest, z * y * rest + x * sin,
    ]  # fmt: skip
    scaled = (position - position.new_tensor(WORKSPACE_CENTER)) / WORKSPACE_SCALE
    return torch.cat(
        [scaled, torch.stack(columns, dim=-1), fingers / FINGER_SCALE], dim=-1
    ), position


def _entry(observations: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    if name not in observations:
        raise KeyError(f"an observation needs {name!r}, got {', '.join(map(repr, observations))}")
    return observations[name]


def load_policy(path: str | Path) -> SmallPolicy:
    """Loads a policy from a checkpoint.

    Args:
        path: Path of a checkpoint, or the name of one that ships, as ``libero-object``.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged, or of another kind of policy.
    """
    weights, header = load_checkpoint(path)
    try:
        config = PolicyConfig(
            **{**header["config"], "channels": tuple(header["config"]["channels"])}
        )
        policy = SmallPolicy(config)
        policy.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is not one of this policy: {error}") from error
    return policy
