"""Plain-text tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Returns the number of characters of the longest cell of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def aligned_rows(rows: Sequence[Sequence[str]], num_left: int = 1) -> list[str]:
    """Joins the cells of each row with two spaces, so that columns are aligned.

    Args:
        rows: Rows with the same number of cells.
        num_left: Number of columns, from the first, that are aligned to the left; the others are
            aligned to the right.

    Examples:
        >>> aligned_rows([("task", "steps"), ("a", "7")])
        ['task  steps', 'a         7']
    """
    widths = column_widths(rows)
    return [
        "  ".join(
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
