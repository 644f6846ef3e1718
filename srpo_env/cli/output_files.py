"""Checks of the files that a command writes at its end, before its work."""

from __future__ import annotations

import os
from pathlib import Path


def check_image_file(path: Path) -> None:
    """Checks that matplotlib is installed and can write an image to a file.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the ending of the file's name is no format of matplotlib.
        OSError: If the file cannot be written.
    """
    check_matplotlib(path)
    from matplotlib.figure import Figure

    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(
            f"the name of an image must end in one of {', '.join(formats)}, got {str(path)!r}"
        )
    check_output_file(path)


def check_matplotlib(path: Path) -> None:
    """Checks that matplotlib is installed, which draws what a file will hold.

    Raises:
        ModuleNotFoundError: If it is not.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{str(path)!r} is drawn with matplotlib: run `pip install matplotlib`",
            name="matplotlib",
        ) from error


def check_output_file(path: Path) -> None:
    """Creates a file's folder, and checks that the file can be written; an existing file is kept.

    Raises:
        OSError: If the file cannot be written.
    """
    existed = os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise OSError(
            f"{str(path)!r} must be a file that can be written, and cannot: {error.strerror}"
        ) from error
    if not existed:
        path.unlink()
