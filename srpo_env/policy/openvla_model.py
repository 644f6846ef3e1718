"""The network of OpenVLA-OFT: two image towers, a projector and a Llama that decodes in parallel.

The parts are those of ``transformers``. Source of the architecture: ``modeling_prismatic.py`` of
https://github.com/moojink/openvla-oft, and arXiv:2502.19645.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srpo_env.policy.parallel import PADDING, bidirectional, trimmed

EMPTY_TOKEN = 29871
"""Last token of a prompt: a space, which precedes the actions in the training data"""

STOP_TOKEN = 2
"""Token after the actions, which attention sees as well"""


@dataclass(frozen=True)
class ImageNormalization:
    """Means and standard deviations of the colours of both towers, for values in [0, 1]."""

    means: tuple[tuple[float, ...], tuple[float, ...]] = (
        (0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5),
    )  # fmt: skip
    stds: tuple[tuple[float, ...], tuple[float, ...]] = (
        (0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
            ValueError: If there are not three colours of two towers, or a deviation is not above 0.
        """
        for name, rows in (("means", self.means), ("stds", self.stds)):
            if len(rows) != 2 or any(len(row) != 3 for row in rows):
                raise ValueError(f"`{name}` must have three values for each of two towers")
        if not all(value > 0 for row in self.stds for value in row):
            raise ValueError(f"`stds` must be above 0, got {self.stds}")

    def pixels(self, images: Tensor) -> Tensor:
        """Converts uint8 images ``(B, H, W, 3)`` into the towers' six channels ``(B, 6, H, W)``."""
        planes = images.permute(0, 3, 1, 2).float() / 255
        mean = planes.new_tensor(self.means).view(2, 1, 3, 1, 1)
        std = planes.new_tensor(self.stds).view(2, 1, 3, 1, 1)
        return torch.cat([*((planes - mean) / std)], dim=1)


class Towers(nn.Module):
    """DINOv2 and SigLIP; the features of a patch are those of both, side by side."""

    def __init__(self, dino: Any, siglip: Any) -> None:
        """Takes over two models of ``transformers`` that lack their last block.

        Args:
            dino: ``Dinov2WithRegistersModel``.
            siglip: ``SiglipVisionModel``.
        """
        super().__init__()
        # OpenVLA uses the output of the last block but one, without the last normalisation.
        dino.layernorm = nn.Identity()
        self.dino = dino
        # Older versions of transformers have one more module around it.
        self.siglip = getattr(siglip, "vision_model", siglip)
        self.siglip.post_layernorm = nn.Identity()
        self.num_prefix_tokens = 1 + int(dino.config.num_register_tokens)
        self.dim = int(dino.config.hidden_size) + int(self.siglip.config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes features ``(B, patches, dim)`` of six channels ``(B, 6, H, W)``."""
        pixels = pixels.to(self.dino.embeddings.cls_token.dtype)
        first = self.dino(pixel_values=pixels[:, :3]).last_hidden_state
        second = self.siglip(pixel_values=pixels[:, 3:]).last_hidden_state
        return torch.cat([first[:, self.num_prefix_tokens :], second], dim=-1)


class Projector(nn.Module):
    """Maps features of patches to embeddings of the language model."""

    def __init__(self, features: int, width: int) -> None:
        """Initialises three layers.

        Args:
            features: Number of features of a patch.
            width: Width of the language model.
        """
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.fc2 = nn.Linear(4 * features, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps ``(B, patches, features)`` to ``(B, patches, width)``."""
        hidden = nn.functional.gelu(self.fc1(patches))
        embeddings: Tensor = self.fc3(nn.functional.gelu(self.fc2(hidden)))
        return embeddings


class OpenVLAModel(nn.Module):
    """Computes logits of action tokens from pixels and prompts."""

    def __init__(
        self,
        towers: Towers,
        projector: Projector,
        language_model: Any,
        vocabulary: int,
        bos_token: int,
        num_bins: int = 256,
    ) -> None:
        """Takes over the parts.

        Args:
            towers: The image towers.
            projector: The projector.
            language_model: ``LlamaForCausalLM``.
            vocabulary: Number of tokens without the padding of the vocabulary, 32000.
            bos_token: First token of every sequence, before the patches.
            num_bins: Number of action tokens, the last ones of the vocabulary.
        """
        super().__init__()
        self.towers, self.projector, self.language_model = towers, projector, language_model
        self.vocabulary, self.bos_token, self.num_bins = vocabulary, bos_token, num_bins

    def forward(self, pixels: Tensor, prompts: Tensor, num_tokens: int) -> Tensor:
        """Computes logits ``(B, num_tokens, num_bins)`` of a chunk, by ascending action.

        Args:
            pixels: Normalised images, ``(B, 6, H, W)``.
            prompts: Tokens of the prompts without the first one, ``(B, length)``, padded with
                `PADDING` on the left.
            num_tokens: Number of action tokens.
        """
        prompts = trimmed(prompts)
        patches = self.projector(self.towers(pixels))
        embed = self.language_model.get_input_embeddings()
        batch = len(prompts)

        def repeated(token: int) -> Tensor:
            return prompts.new_full((batch, 1), token)

        # [first token] [patches] [prompt] [placeholders, whose embeddings are zero] [stop token]
        text = embed(prompts.clamp_min(0))
        placeholders = text.new_zeros(batch, num_tokens, text.shape[-1])
        sequence = torch.cat(
            [
                embed(repeated(self.bos_token)),
                patches.to(text.dtype),
                text,
                placeholders,
                embed(repeated(STOP_TOKEN)),
            ],
            dim=1,
        )
        mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        first = 1 + patches.shape[1]
        mask[:, first : first + prompts.shape[1]] = prompts != PADDING
        hidden = bidirectional(self.language_model.get_decoder(), sequence, mask)
        # As in a language model, each position predicts the token after it, so that the last token
        # of the prompt predicts the first action token, and the last placeholder predicts nothing.
        answers = hidden[:, -num_tokens - 2 : -2]
        # The action tokens are the end of the vocabulary, in descending order: 31999 is the lowest.
        weight = self.language_model.lm_head.weight[
            self.vocabulary - self.num_bins : self.vocabulary
        ].flip(0)
        return nn.functional.linear(answers, weight).float()
