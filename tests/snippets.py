"""Code blocks and links of Markdown documents, so that tests can run and check them."""

from __future__ import annotations

import re
import textwrap


def fenced_blocks(text: str, language: str) -> list[str]:
    """Returns the fenced code blocks of one language, in order."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in blocks]


def python_blocks(text: str) -> list[str]:
    """Returns the fenced Python blocks, in order."""
    return fenced_blocks(text, "python")


def local_links(text: str) -> list[str]:
    """Returns the targets of links and images within the repository, without fragments."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
