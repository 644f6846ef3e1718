"""Packs nested state into bytes that are data only, and restores it to the bit.

The bytes are an ``.npz`` archive, which is read without pickle: one JSON text, ``header``, and the
arrays that it refers to.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

HEADER = "header"


def pack(tree: Any) -> bytes:
    """Packs None, numbers, strings, lists, tuples, dicts with string keys, arrays, dataclasses.

    Raises:
        TypeError: If there is anything else in the tree.
    """
    arrays: Arrays = {}
    header = np.array(json.dumps(_encode(tree, arrays)))
    archive = io.BytesIO()
    np.savez(archive, **{HEADER: header}, **arrays)  # type: ignore[arg-type]
    return archive.getvalue()


def unpack(state: bytes, classes: tuple[type, ...] = ()) -> Any:
    """Restores what `pack` was given.

    Args:
        state: From `pack`.
        classes: Dataclasses that may occur; no others are built.

    Raises:
        ValueError: If these are not bytes from `pack`.
    """
    known = {cls.__name__: cls for cls in classes}
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as archive:
            arrays = dict(archive)
        return _decode(json.loads(str(arrays[HEADER])), arrays, known)
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"Not a saved state, or a damaged one ({type(error).__name__}: {error})"
        ) from error


def _encode(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, list):
        return [_encode(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"dict": {name: _encode(item, arrays) for name, item in value.items()}}
    if is_dataclass(value):
        content = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"class": type(value).__name__, **_encode(content, arrays)}
    raise TypeError(f"State must be numbers, strings, arrays and containers of them, got {value!r}")


def _decode(value: Any, arrays: Arrays, classes: dict[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_decode(item, arrays, classes) for item in value["tuple"])
    content = {name: _decode(item, arrays, classes) for name, item in value["dict"].items()}
    return classes[value["class"]](**content) if "class" in value else content
