"""Tokenises instructions without a stored vocabulary.

The token of a word is a hash of its spelling, so a new instruction is made of known tokens if its
words are known. Word order is kept; letter case and punctuation are not.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 0
"""Token that fills an instruction up to `MAX_WORDS`."""

VOCABULARY_SIZE = 4096
"""Number of tokens with padding; LIBERO's 130 tasks have 79 words, each with its own token."""

MAX_WORDS = 32
"""Maximum number of words of an instruction; LIBERO's longest has 19."""

_WORD = re.compile(r"[^\W_]+")


def tokenize(instructions: Sequence[str]) -> Tensor:
    """Converts instructions into word tokens, shape ``(num_instructions, MAX_WORDS)``, int64.

    Raises:
        ValueError: If an instruction has no word, or more than `MAX_WORDS`.

    Examples:
        >>> tokens = tokenize(["pick up the milk", "Pick up the butter."])
        >>> (tokens[0] == tokens[1])[:5].tolist()
        [True, True, True, False, True]
    """
    tokens = torch.full((len(instructions), MAX_WORDS), PADDING, dtype=torch.int64)
    for row, instruction in enumerate(instructions):
        words = _WORD.findall(instruction.lower())
        if not 1 <= len(words) <= MAX_WORDS:
            raise ValueError(
                f"an instruction must have 1 to {MAX_WORDS} words, "
                f"got {len(words)} in {instruction!r}"
            )
        # CRC-32 is the same on every machine and in every process, unlike Python's `hash`.
        hashes = [1 + zlib.crc32(word.encode()) % (VOCABULARY_SIZE - 1) for word in words]
        tokens[row, : len(words)] = torch.tensor(hashes)
    return tokens
