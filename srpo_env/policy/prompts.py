"""Tokenises prompts with the tokenizer of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from srpo_env.policy.parallel import PADDING
from srpo_env.system.files import DamagedFileError, regular_file

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
        self.content = content
        try:
            self._tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain Exceptions
            raise DamagedFileError(f"{source} is not a tokenizer.json ({error})") from error
        # The file may ask for both; prompts are padded and measured here.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.encode = lru_cache(maxsize=4096)(self._encode)
        """Returns the tokens of a prompt, with those that the tokenizer adds."""

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
        return tuple(self._tokenizer.encode(prompt).ids)


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
