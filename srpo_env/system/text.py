"""Text of messages."""

from __future__ import annotations


def one_line(text: object) -> str:
    r"""Returns a text in one line; other libraries raise errors with several.

    Examples:
        >>> one_line("Not found.\n\n  Check the name.")
        'Not found. Check the name.'
    """
    return " ".join(line.strip() for line in str(text).splitlines() if line.strip())
