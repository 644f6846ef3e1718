"""Packs nested state into named arrays that are data only, and back, to the bit.

What `pack` returns goes through ``np.savez`` and ``np.load`` without pickle: one JSON text in
``"header"``, and the arrays that it refers to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

HEADER = "header"


def pack(tree: Any) -> Arrays:
    """Packs None, numbers, strings, lists, tuples, dicts with string keys, arrays, dataclasses.

    Raises:
        TypeError: If there is anything else in the tree.
    """
    arrays: Arrays = {}
    text = json.dumps(_encode(tree, arrays))
    return {HEADER: np.array(text), **arrays}


def unpack(arrays: Mapping[str, Any], classes: tuple[type, ...] = ()) -> Any:
    """Rebuilds what `pack` was given.

    Args:
        arrays: From `pack`, or a file that ``np.load`` opened.
        classes: Dataclasses that may occur; no others are built.

    Raises:
        ValueError: If this is not a packed state.
    """
    if HEADER not in arrays:
        raise ValueError(f"Not a saved state: there is no {HEADER!r} in {sorted(arrays)}")
    known = {cls.__name__: cls for cls in classes}
    return _decode(json.loads(str(arrays[HEADER])), arrays, known)


def _encode(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        name = f"array_{len(arrays)}"
        arrays[name] = value.copy()
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


def _decode(value: Any, arrays: Mapping[str, Any], classes: dict[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        # Copied: two states, or a state and the running wrapper, must not share an array.
        return np.array(arrays[value["array"]])
    if "tuple" in value:
        return tuple(_decode(item, arrays, classes) for item in value["tuple"])
    content = {name: _decode(item, arrays, classes) for name, item in value["dict"].items()}
    return classes[value["class"]](**content) if "class" in value else content
