"""A vision-language-action policy that is small enough to be trained on a CPU.

It maps two camera images, the instruction and proprioception to the logits of a whole chunk of
action tokens, decoded in parallel as in OpenVLA-OFT (arXiv:2502.19645). Queries computed from the
instruction attend to the image features. The positions that they attend to predict two waypoints
(grasp and release), which the action head gets relative to the gripper.
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

from srpo_env.policy.base import JITTER, LABEL_WIDTH, SHIFT, Inputs, Policy
from srpo_env.policy.checkpoint import load_checkpoint, save_checkpoint
from srpo_env.policy.imitation import Examples, augment
from srpo_env.policy.modules import (
    BODY_FEATURES,
    WORKSPACE_CENTER,
    WORKSPACE_SCALE,
    CameraEncoder,
    Residual,
    TextEncoder,
    body_features,
)
from srpo_env.policy.observations import image_batch, proprio_batch
from srpo_env.policy.text import tokenize
from srpo_env.policy.tokens import NUM_BINS

CAMERAS = ("agentview", "wrist")

WAYPOINT_WEIGHT = 20.0
"""Weight of the waypoint error, in 1/m: one centimetre costs as much as 0.2 nats of every token."""

MAX_IMAGE_SIZE = 2048
"""Largest height and width of the images in pixels."""

RELATIVE_GAINS = (3.0, 20.0, 100.0)
"""Three scales, in 1/m, of a waypoint's offset from the gripper: from decimetres to centimetres."""


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of the network; part of its checkpoints."""

    image_size: int = 128
    """Height and width in pixels to which images are resized."""
    chunk: int = 8
    """Number of control steps per decision."""
    action_dim: int = 7
    channels: tuple[int, int, int] = (32, 48, 48)
    """Channels of the three convolutions of each camera."""
    heads: int = 8
    """Number of attention heads of each camera."""
    text_width: int = 128
    width: int = 512
    """Width of the action head."""
    token_width: int = 64
    """Number of features of one token, from which its logits are computed."""

    def __post_init__(self) -> None:
        """Checks the sizes.

        Raises:
            ValueError: If a size is out of its range.
        """
        # No weight has this size, so that a checkpoint could declare any.
        if not 32 <= self.image_size <= MAX_IMAGE_SIZE or self.image_size % 8:
            raise ValueError(
                f"`image_size` must be a multiple of 8 in 32..{MAX_IMAGE_SIZE}, got "
                f"{self.image_size}"
            )
        if len(self.channels) != 3 or any(n < 8 or n % 8 for n in self.channels):
            raise ValueError(f"`channels` must be three multiples of 8, got {self.channels}")
        if self.text_width < 4 or self.text_width % 4:
            raise ValueError(f"`text_width` must be a multiple of 4, got {self.text_width}")
        for name in ("chunk", "action_dim", "heads", "width", "token_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a chunk."""
        return self.chunk * self.action_dim


class SmallPolicy(Policy):
    """Maps observations and instructions to the logits of a chunk of action tokens.

    It has no dropout and no batch statistics, so the probability of a token is the same in rollouts
    and updates, and does not depend on the other observations of the batch.
    """

    def __init__(self, config: PolicyConfig | None = None) -> None:
        """Initialises a policy with random weights."""
        super().__init__()
        self.config = config = config or PolicyConfig()
        self.action_dim, self.chunk = config.action_dim, config.chunk
        self.text = TextEncoder(config.text_width)
        camera = config.image_size, config.channels, config.heads, config.text_width
        self.agentview, self.wrist = CameraEncoder(*camera), CameraEncoder(*camera)
        context = 2 * self.agentview.out_features + config.text_width + BODY_FEATURES
        self.waypoint_head = nn.Sequential(
            nn.Linear(context, 256), nn.LayerNorm(256), nn.SiLU(), nn.Linear(256, 6)
        )
        self.trunk_in = nn.Linear(context + 6 * len(RELATIVE_GAINS), config.width)
        self.trunk = nn.Sequential(Residual(config.width), Residual(config.width))
        self.trunk_norm = nn.LayerNorm(config.width)
        self.token_features = nn.Linear(config.width, config.num_tokens * config.token_width)
        # One table of bins per action dimension, shared by the steps of the chunk.
        self.bins = nn.Parameter(torch.empty(config.action_dim, config.token_width, NUM_BINS))
        self.bin_bias = nn.Parameter(torch.zeros(config.action_dim, 1, NUM_BINS))
        nn.init.normal_(self.bins, std=config.token_width**-0.5)
        # This memory format is the fastest for convolutions on a CPU, and the images have it, too.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prepare(
        self, observations: Mapping[str, npt.NDArray[Any]], instructions: Sequence[str]
    ) -> Inputs:
        """Converts a batch of observations into tensors, and resizes the images.

        Returns:
            ``agentview`` and ``wrist`` ``(B, image_size, image_size, 3)`` uint8, ``proprio``
            ``(B, 8)`` and ``instruction`` ``(B, MAX_WORDS)`` word tokens.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If a shape or type is wrong.
        """
        batch = len(instructions)
        inputs = {name: self._image(observations, name, batch) for name in CAMERAS}
        inputs["proprio"] = torch.as_tensor(proprio_batch(observations, batch))
        inputs["instruction"] = tokenize(instructions)
        return {name: value.to(self.bins.device) for name, value in inputs.items()}

    def logits(self, inputs: Inputs) -> Tensor:
        """Computes logits ``(B, T, NUM_BINS)`` of the tokens of a chunk."""
        logits: Tensor = self(inputs)[0]
        return logits

    def imitation_loss(
        self, examples: Examples, label_width: float = LABEL_WIDTH
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the cross-entropy of the action tokens plus the weighted error of the waypoints.

        Returns:
            The loss, and its parts without gradients: ``cross_entropy`` in nats per token and
            ``waypoint_error`` in metres.
        """
        logits, waypoints = self(examples.inputs)
        loss, parts = self._imitation_loss(logits, examples, label_width)
        error = (waypoints - examples.waypoints).norm(dim=-1).mean()
        return loss + WAYPOINT_WEIGHT * error, {**parts, "waypoint_error": error.detach()}

    def augment(
        self,
        inputs: Inputs,
        generator: torch.Generator,
        shift: int = SHIFT,
        jitter: float = JITTER,
    ) -> Inputs:
        """Shifts and recolours the images, see `srpo_env.policy.imitation.augment`."""
        return augment(inputs, generator, shift, jitter)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Computes logits ``(B, T, NUM_BINS)``, and waypoints ``(B, 2, 3)`` in metres."""
        config = self.config
        text = self.text(inputs["instruction"])  # (B, text_width)
        seen = self.agentview(inputs["agentview"], text), self.wrist(inputs["wrist"], text)
        body = body_features(inputs["proprio"])
        context = torch.cat([*seen, text, body], dim=-1)
        scaled = self.waypoint_head(context).view(-1, 2, 3)
        waypoints = scaled * WORKSPACE_SCALE + scaled.new_tensor(WORKSPACE_CENTER)
        offsets = (waypoints - inputs["proprio"][:, None, :3]).flatten(1)  # (B, 6), metres
        relative = [torch.tanh(gain * offsets) for gain in RELATIVE_GAINS]
        hidden = self.trunk(self.trunk_in(torch.cat([context, *relative], dim=-1)))
        features = F.silu(self.token_features(self.trunk_norm(hidden)))
        features = features.view(-1, config.chunk, config.action_dim, config.token_width)
        by_dimension = features.permute(2, 0, 1, 3).flatten(1, 2)  # (action_dim, B * chunk, ...)
        logits = torch.baddbmm(self.bin_bias, by_dimension, self.bins)
        logits = logits.view(config.action_dim, -1, config.chunk, NUM_BINS).permute(1, 2, 0, 3)
        return logits.flatten(1, 2), waypoints

    def save(
        self,
        path: str | Path,
        provenance: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Writes ``path.safetensors`` and ``path.json``.

        Args:
            path: Folder and name, without an extension.
            provenance: Description of the training, for JSON.
            dtype: Data type of the stored weights; ``torch.float16`` halves the file's size.
        """
        save_checkpoint(path, self.state_dict(), asdict(self.config), provenance or {}, dtype)

    @classmethod
    def load(cls, path: str | Path) -> SmallPolicy:
        """Loads a policy from a checkpoint.

        Args:
            path: Path of a checkpoint, or name of a bundled one, such as ``libero-object``.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If the checkpoint is damaged, or of another kind of policy.
        """
        weights, header = load_checkpoint(path)
        try:
            config = PolicyConfig(
                **{**header["config"], "channels": tuple(header["config"]["channels"])}
            )
            with torch.device("meta"):  # allocates nothing: the file may declare any size
                expected = {n: value.shape for n, value in cls(config).state_dict().items()}
            if expected != {name: value.shape for name, value in weights.items()}:
                raise RuntimeError("the shapes of the weights are not those of its `config`")
            policy = cls(config)
            policy.load_state_dict(weights)
        except (KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(
                f"checkpoint {str(path)!r} does not fit this policy: {error}"
            ) from error
        return policy

    def restore(self, path: str | Path) -> None:
        """Takes over the weights of a checkpoint; see `Policy.restore`."""
        self.load_state_dict(SmallPolicy.load(path).state_dict())

    def _image(self, observations: Mapping[str, npt.NDArray[Any]], name: str, batch: int) -> Tensor:
        image = torch.as_tensor(image_batch(observations, name, batch))
        size = self.config.image_size
        if image.shape[1:3] == (size, size):
            return image
        planes = image.permute(0, 3, 1, 2).float()
        resized = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
