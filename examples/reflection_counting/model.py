"""A decoder-only transformer from scratch, 110,000 parameters: image and question in, words out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from task import ADDENDS, COLORS, GRID, PATCH, SHAPES, Problems
from torch import Tensor, nn

TAGS = [f"<{slash}{name}>" for name in ("think", "answer", "reflection") for slash in ("", "/")]
MAX_NUMBER = GRID * GRID + max(ADDENDS)
END = 0
"""Token before the first word and after the last one."""
WORDS = [
    "[end]",
    *TAGS,
    *map(str, range(MAX_NUMBER + 1)),
    *(f"row{row + 1}" for row in range(GRID)),
    *("=", "has", "then", "OK", "ERR"),
]
TOKENS = {word: token for token, word in enumerate(WORDS)}
MAX_WORDS = 40
"""Longest response. Those of the teacher have at most 24 words and ten tags."""
NUM_QUESTION_TOKENS = 3
_PROMPT = NUM_QUESTION_TOKENS + GRID * GRID

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, ``(batch, heads, length, dim)``."""


def decode(tokens: Tensor) -> list[str]:
    """Returns the texts of responses, ``(batch, length)``, up to their end."""
    texts = []
    for row in tokens.tolist():
        words = row[: row.index(END)] if END in row else row
        texts.append(" ".join(WORDS[token] for token in words))
    return texts


def encode(texts: list[str]) -> Tensor:
    """Returns the tokens of responses, filled up with `END`: ``(batch, longest + 1)``."""
    rows = [torch.tensor([TOKENS[word] for word in text.split()] + [END]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=END)


class Layer(nn.Module):
    """Attention and MLP, each after a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        """Initialises the weights."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns the outputs, ``(batch, length, width)``, and the keys and values so far."""
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        if before is not None:
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x)), (k, v)


class Model(nn.Module):
    """Reads the prompt once, also where several responses to it are sampled."""

    def __init__(self, width: int = 64, num_layers: int = 2, heads: int = 4) -> None:
        """Initialises the weights from torch's global generator."""
        super().__init__()
        self.patch = nn.Linear(PATCH * PATCH * 3, width)
        self.question = nn.Embedding(len(COLORS) + len(SHAPES) + len(ADDENDS), width)
        self.word = nn.Embedding(len(WORDS), width)
        self.position = nn.Parameter(0.02 * torch.randn(_PROMPT + MAX_WORDS + 1, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(num_layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(WORDS))

    def read(self, problems: Problems) -> Cache:
        """Reads images and questions; every token sees all others of the prompt."""
        offsets = torch.tensor([0, len(COLORS), len(COLORS) + len(SHAPES)])
        question = self.question(torch.from_numpy(problems.questions) + offsets)
        x = torch.cat([question, self.patch(torch.from_numpy(problems.patches))], dim=1)
        x = x + self.position[:_PROMPT]
        cache = []
        for layer in self.layers:
            x, pair = layer(x, None, None)
            cache.append(pair)
        return cache

    def write(self, tokens: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Returns logits of the next words, ``(batch, length, words)``, and the longer cache."""
        start, length = cache[0][0].shape[2], tokens.shape[1]
        x = self.word(tokens) + self.position[start : start + length]
        mask = torch.ones(length, start + length, dtype=torch.bool).tril(start)
        longer = []
        for layer, before in zip(self.layers, cache, strict=True):
            x, pair = layer(x, mask, before)
            longer.append(pair)
        return self.head(self.norm(x)), longer

    def log_probs(self, problems: Problems, tokens: Tensor, group_size: int = 1) -> Tensor:
        """Returns log-probabilities of words, ``(batch, length)``, 0 after the end of a response.

        Args:
            problems: The problems, each with ``group_size`` responses.
            tokens: Responses, ``(len(problems) * group_size, length)``.
            group_size: Number of responses to each problem.
        """
        cache = repeat(self.read(problems), group_size)
        shifted = F.pad(tokens[:, :-1], (1, 0), value=END)
        logits, _ = self.write(shifted, cache)
        chosen = logits.log_softmax(dim=-1).gather(2, tokens[..., None])[..., 0]
        return chosen * mask_of(tokens)

    @torch.no_grad()
    def sample(
        self, problems: Problems, group_size: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples responses at temperature 1, or the most probable words without a generator.

        Returns:
            Tokens of shape ``(len(problems) * group_size, length)``.
        """
        cache = repeat(self.read(problems), group_size)
        token = torch.full((len(problems) * group_size, 1), END)
        ended = torch.zeros(len(token), dtype=torch.bool)
        tokens = []
        for _ in range(MAX_WORDS):
            logits, cache = self.write(token, cache)
            if generator is None:
                token = logits[:, -1].argmax(dim=-1, keepdim=True)
            else:
                token = logits[:, -1].softmax(dim=-1).multinomial(1, generator=generator)
            token[ended] = END
            tokens.append(token)
            ended |= token[:, 0] == END
            if ended.all():
                break
        return torch.cat(tokens, dim=1)


def repeat(cache: Cache, times: int) -> Cache:
    """Repeats each row of a cache."""
    return [(k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)) for k, v in cache]


def mask_of(tokens: Tensor) -> Tensor:
    """Returns 1 for the words of responses and their first `END`, 0 after it."""
    ends_before = (tokens == END).cumsum(dim=1) - (tokens == END).long()
    return (ends_before == 0).float()
