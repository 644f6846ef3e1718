"""Learned pooling of the tokens of one moment to one latent, by a small network.

The mean of an image's tokens loses positions, and a comparison of all tokens compares mostly the
robot. The pooler is trained without labels and with a time-contrastive loss
(`agents/world_model_pooler.py`): latents of the same moment under different brightness and crops
should be equal, and differ from those of other moments of the episode. The latents therefore
contain what changes during an episode.

Source: single-view time-contrastive learning, Sermanet et al., arXiv:1704.06888.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from srpo_env.readers.arrays import read_safetensors
from srpo_env.system.files import write_file

FILE = "pooler.safetensors"
"""Name of the file in a checkpoint's folder, next to the model."""


class MomentPooler(nn.Module):
    """Maps the tokens of one moment to one latent of length 1."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        num_tokens: int,
        hidden_size: int,
        *,
        token_size: int = 24,
        width: int = 128,
        latent_dim: int = 32,
        dropout: float = 0.1,
    ) -> None:
        """Draws the weights from torch's global generator.

        Args:
            num_tokens: Number of tokens of a moment, one per image patch.
            hidden_size: Dimensions of a token.
            token_size: Dimensions that each token is projected to.
            width: Width of the layer that takes all projected tokens.
            latent_dim: Dimensions of the latent.
            dropout: Dropout probability of the inputs to that layer.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("deviation", torch.ones(hidden_size))
        self.tokens = nn.Linear(hidden_size, token_size)
        self.picture = nn.Linear(num_tokens * token_size, width)
        self.latent = nn.Linear(width, latent_dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def latent_dim(self) -> int:
        """Dimensions of the latent."""
        return self.latent.out_features

    def fit_scale(self, tokens: Tensor) -> None:
        """Sets mean and deviation of each dimension from tokens ``(..., hidden_size)``."""
        rows = tokens.float().flatten(0, -2)
        self.mean.copy_(rows.mean(dim=0))
        self.deviation.copy_(rows.std(dim=0).clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        """Pools ``(..., num_tokens, hidden_size)`` to ``(..., latent_dim)``."""
        scaled = (tokens - self.mean) / self.deviation
        kept = gelu(self.tokens(scaled)).flatten(-2)
        return normalize(self.latent(gelu(self.picture(self.dropout(kept)))), dim=-1)

    def save(self, folder: Path) -> None:
        """Writes the weights in half precision to a checkpoint's folder.

        Raises:
            FloatingPointError: If a weight is not finite; then nothing is written.
        """
        weights = {name: value.half() for name, value in self.state_dict().items()}
        wrong = sorted(name for name, value in weights.items() if not value.isfinite().all())
        if wrong:
            raise FloatingPointError(
                f"the weights of a pooler must be finite in half precision, got NaN or infinity in "
                f"{', '.join(wrong)}: nothing is written; lower the learning rate"
            )
        write_file(folder / FILE, save_tensors(weights))

    @classmethod
    def read(cls, folder: Path, num_tokens: int, hidden_size: int) -> MomentPooler:
        """Reads the pooler of a checkpoint.

        Args:
            folder: Folder of the checkpoint.
            num_tokens: Number of tokens of a moment of the model.
            hidden_size: Dimensions of a token of the model.

        Raises:
            FileNotFoundError: If the checkpoint has no pooler.
            ValueError: If the pooler is damaged, or belongs to another model.
        """
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"pooling='moments' needs {FILE} next to the model, and {str(folder)!r} has none: "
                "train one with agents/world_model_pooler.py, or pass pooling='mean'"
            )
        try:
            weights = {name: value.float() for name, value in read_safetensors(file).items()}
            latent_dim, width = weights["latent.weight"].shape
            token_size = len(weights["tokens.bias"])
            if min(latent_dim, width, token_size) < 1:
                raise ValueError("sizes must be at least 1")
            with torch.device("meta"):  # draws no random numbers, which would change a seeded run
                pooler = cls(
                    num_tokens,
                    hidden_size,
                    token_size=token_size,
                    width=width,
                    latent_dim=latent_dim,
                )
            pooler.load_state_dict(weights, assign=True)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{file} must be a pooler for {num_tokens} tokens of {hidden_size} dimensions, as "
                "those of the model next to it, but it is damaged or belongs to another model "
                f"({type(error).__name__}: {error})"
            ) from error
        return pooler.eval()
