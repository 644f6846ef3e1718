"""Tokenises prompts with the tokenizer of a language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from srpo_env.policy.parallel import PADDING
from srpo_env.system.files import DamagedFileError, regular_file
from srpo_env.system.text import one_line

MAX_TOKENS = 96
"""Maximum length of a prompt; those of LIBERO have up to 50 tokens"""


class PromptTokenizer:
    """A tokenizer of the format ``tokenizer.json``, which is data."""

    def __init__(self, content: str, source: str = "the tokenizer") -> None:
        """Reads a tokenizer.

        Args:
            content: Content of ``tokenizer.json``.
            source: What an error calls it.

        Raises:
            DamagedFileError: If it is not a tokenizer.
        """
        self.content, self._source = content, source
        with self._damage_is_an_error():
            self._tokenizer = Tokenizer.from_str(content)
        # The file may ask for both; prompts are padded and measured here.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.encode = lru_cache(maxsize=4096)(self._encode)
        """Returns the tokens of a prompt, with those that the tokenizer adds."""
        self.size = 1 + max(self._tokenizer.get_vocab().values(), default=0)
        """Number of tokens, from 0 to the highest."""

    @classmethod
    def read(cls, folder: Path) -> PromptTokenizer:
        """Reads ``tokenizer.json`` of a folder.

        Raises:
            FileNotFoundError: If there is none.
            DamagedFileError: If it is not a tokenizer.
        """
        file = regular_file(folder / "tokenizer.json")
        return cls(file.read_text(encoding="utf-8", errors="replace"), str(file))

    def _encode(self, prompt: str) -> tuple[int, ...]:
        with self._damage_is_an_error():
            return tuple(self._tokenizer.encode(prompt).ids)

    @contextmanager
    def _damage_is_an_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # The library raises plain Exceptions, and panics of Rust, which are no Exceptions.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            raise DamagedFileError(
                f"{self._source} is not a tokenizer.json ({one_line(error)})"
            ) from error


def check_vocabulary(tokenizer: PromptTokenizer, embeddings: nn.Module) -> None:
    """Checks that a table of embeddings has a row for each token.

    Raises:
        ValueError: If it has fewer.
    """
    rows = len(embeddings.weight) if isinstance(embeddings.weight, Tensor) else 0
    if tokenizer.size > rows:
        raise ValueError(
            f"the tokenizer must be that of the model, with at most {rows} tokens, got "
            f"{tokenizer.size}"
        )


def padded(prompts: Sequence[Sequence[int]]) -> Tensor:
    """Returns prompts as one tensor ``(B, MAX_TOKENS)``, int64, with `PADDING` on the left.

    Raises:
        ValueError: If a prompt is longer.
    """
    tokens = torch.full((len(prompts), MAX_TOKENS), PADDING, dtype=torch.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        if len(prompt) > MAX_TOKENS:
            raise ValueError(
                f"a prompt must have at most {MAX_TOKENS} tokens, got {len(prompt)}: shorten the "
                "instruction"
            )
        row[MAX_TOKENS - len(prompt) :] = torch.tensor(prompt)
    return tokens
