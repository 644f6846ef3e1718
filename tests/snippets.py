"""The Python that stands in documents and docstrings, so that tests can run it."""

from __future__ import annotations

import re
import textwrap


def python_blocks(text: str) -> list[str]:
    """The fenced Python blocks of a text, in order."""
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
