"""Writes files that are complete at any moment, and reads JSON with errors that name the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**26
"""Largest JSON file, 64 MiB: settings and counters take kilobytes"""


class DamagedFileError(ValueError):
    """Raised if a file does not hold what was written to it."""


def write_file(file: str | Path, content: bytes) -> None:
    """Writes or replaces a file in one step: if the process is killed, the file is old or new.

    Raises:
        OSError: If it cannot be written, for example because the disk is full. An earlier file of
            this name stays as it was.
    """
    file = Path(file)
    draft = _draft_of(file)
    try:
        with errors_name(file):
            with draft.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    flush_to_disk(file.parent)


def check_can_write(file: str | Path) -> None:
    """Checks that `write_file` can write a file, before the work whose results it will hold.

    An earlier file of this name stays as it is, and nothing is left.

    Raises:
        OSError: If it cannot be written, for example because its folder is read-only.
    """
    file = Path(file)
    draft = _draft_of(file)
    try:
        if file.is_dir() and not file.is_symlink():  # `write_file` replaces a link
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise OSError(
            f"{str(file)!r} must be a file that can be written, and cannot: {error.strerror}"
        ) from error


def _draft_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}")


@contextmanager
def errors_name(file: str | Path) -> Iterator[None]:
    """Adds the name of a file to each `OSError`, because those of writing have none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


def flush_to_disk(path: str | Path) -> None:
    """Flushes a file, or the names of the files in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: str | Path) -> str:
    """Returns the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with Path(file).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def regular_file(file: str | Path) -> Path:
    """Returns the path of a file that exists; opening a pipe would wait for its writer.

    Raises:
        FileNotFoundError: If there is none, or a folder or pipe in its place.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There must be a file {str(file)!r}, and there is none")
    return file


def read_json(file: str | Path) -> Any:
    """Reads a JSON file, which may be damaged or made to do harm.

    Raises:
        FileNotFoundError: If the file is missing.
        DamagedFileError: If it is not valid JSON, is larger than `MAX_JSON_BYTES`, is nested too
            deeply, or names a key twice.
    """
    with regular_file(file).open("rb") as stream:
        content = stream.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise DamagedFileError(f"{file} must be a JSON file of at most {MAX_JSON_BYTES:,} bytes")
    return parse_json(content, str(file))


def parse_json(content: str | bytes, source: str) -> Any:
    """Parses JSON in which no key of an object occurs twice: readers disagree which one counts.

    NaN and infinities are accepted, because Python writes them.

    Args:
        content: The text.
        source: What an error calls it.

    Raises:
        DamagedFileError: If it is not JSON, nested too deeply, or names a key twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, encoding, long integers
        raise DamagedFileError(f"{source} is damaged: it is not valid JSON ({error})") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return content


def read_versioned_json(file: str | Path, kind: str, version: int) -> dict[str, Any]:
    """Reads a JSON file that names its own format.

    Args:
        file: The file.
        kind: Value that its ``"format"`` must have.
        version: Value that its ``"format_version"`` must have.

    Raises:
        FileNotFoundError: If the file is missing.
        DamagedFileError: If it is not valid JSON.
        ValueError: If the file is of another format or version.
    """
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != kind:
        raise ValueError(f"{file} is not a file of format {kind!r}")
    if content.get("format_version") != version:
        raise ValueError(
            f"{file} must have format version {version}, got {content.get('format_version')}: "
            "use the version of srpo-env that wrote it"
        )
    return content
