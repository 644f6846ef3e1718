"""Checks of image files that a command writes at its end."""

from __future__ import annotations

from pathlib import Path


def check_image_file(path: Path) -> None:
    """Checks that matplotlib is installed and can write images of the file's format.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        ValueError: If the ending of the file's name is no format of matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{str(path)!r} is drawn with matplotlib: run `pip install matplotlib`",
            name="matplotlib",
        ) from error
    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(
            f"the name of an image must end in one of {', '.join(formats)}, got {str(path)!r}"
        )
