"""What becomes of a moment's tokens: one latent, by a small network that has learnt from time.

Averaging the tokens of a picture loses where things are; comparing all of them compares mostly the
robot. A pooler is trained without labels (`agents/world_model_pooler.py`): the same moment of an
episode shall look the same in another light and cut, and unlike the episode's other moments. So it
keeps what changes while an episode goes on, and drops the rest.

Source: single-view time-contrastive learning, Sermanet et al., arXiv:1704.06888.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

FILE = "pooler.safetensors"
"""in a checkpoint's folder, beside the model"""


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
            num_tokens: Of a moment; each has its place in the picture.
            hidden_size: Dimensions of a token.
            token_size: What is kept of each.
            width: Of the layer that sees all of them.
            latent_dim: Dimensions of the latent.
            dropout: Share of the inputs to that layer that training leaves out.
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
        """Takes mean and deviation of each dimension from tokens ``(..., hidden_size)``."""
        rows = tokens.float().flatten(0, -2)
        self.mean.copy_(rows.mean(dim=0))
        self.deviation.copy_(rows.std(dim=0).clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        """Pools ``(..., num_tokens, hidden_size)`` to ``(..., latent_dim)``."""
        scaled = (tokens - self.mean) / self.deviation
        kept = gelu(self.tokens(scaled)).flatten(-2)
        return normalize(self.latent(gelu(self.picture(self.dropout(kept)))), dim=-1)

    def save(self, folder: Path) -> None:
        """Writes the weights, in half precision, into a checkpoint's folder."""
        weights = {name: value.half() for name, value in self.state_dict().items()}
        save_file(weights, folder / FILE)

    @classmethod
    def read(cls, folder: Path, num_tokens: int, hidden_size: int) -> MomentPooler:
        """Reads the pooler of a checkpoint, whose model has such tokens.

        Raises:
            FileNotFoundError: If the checkpoint has none.
            ValueError: If it is damaged, or made for another model.
        """
        file = folder / FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"pooling='moments' needs {FILE} beside the model, and {str(folder)!r} has none: "
                "agents/world_model_pooler.py trains one; or choose pooling='mean'"
            )
        try:
            weights = {name: value.float() for name, value in load_file(file).items()}
            latent_dim, width = weights["latent.weight"].shape
            token_size = len(weights["tokens.bias"])
            with torch.device("meta"):  # draws nothing: loading must not disturb a seeded run
                pooler = cls(
                    num_tokens,
                    hidden_size,
                    token_size=token_size,
                    width=width,
                    latent_dim=latent_dim,
                )
            pooler.load_state_dict(weights, assign=True)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{file} must be the pooler of the model beside it, with {num_tokens} tokens of "
                f"{hidden_size} dimensions, and it is damaged or another's "
                f"({type(error).__name__}: {error})"
            ) from error
        return pooler.eval()
