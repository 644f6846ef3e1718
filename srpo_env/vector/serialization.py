"""Packs nested state into bytes that hold data only, and restores it bit for bit.

The bytes are an ``.npz`` archive, which is read without pickle: one JSON text, ``header``, and the
arrays that it refers to.
"""

from __future__ import annotations

import io
import json
import types
import typing
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_env.readers.arrays import read_npz
from srpo_env.system.files import parse_json
from srpo_env.types import as_key

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
    """Restores the tree that was passed to `pack`.

    Args:
        state: Return value of `pack`.
        classes: Dataclasses that the tree may contain; no other classes are created.

    Raises:
        ValueError: If the bytes do not come from `pack`.
    """
    known = {cls.__name__: cls for cls in classes}
    try:
        arrays = read_npz(bytes(state))
        header = parse_json(str(arrays[HEADER]), f"the array {HEADER!r}")
        return _decode(header, arrays, known)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Not a saved state, or a damaged one ({type(error).__name__}: {error})"
        ) from error


def check_type(value: Any, hint: Any, place: str) -> None:
    """Checks restored state against type hints, so that edited state fails when it is loaded.

    Args:
        value: What `unpack` returned.
        hint: A class, dataclass or TypedDict, ``Hashable``, an array type, or list, tuple, dict and
            union of these.
        place: What an error calls the value.

    Raises:
        TypeError: If a key is not hashable, or of a type that no key has.
        ValueError: If a part is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    is_right = True
    if hint is Any:
        return
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if _is_kind(value, option)]
        is_right = bool(options)
        if options:
            check_type(value, options[0], place)
    elif origin is list:
        is_right = isinstance(value, list)
        for index, item in enumerate(value if is_right else ()):
            check_type(item, arguments[0], f"{place}[{index}]")
    elif origin is tuple:
        hints = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        is_right = isinstance(value, tuple) and len(value) == len(hints)
        for index, (item, inner) in enumerate(zip(value, hints, strict=True) if is_right else ()):
            check_type(item, inner, f"{place}[{index}]")
    elif origin is dict:
        is_right = isinstance(value, dict)
        for name, item in value.items() if is_right else ():
            check_type(item, arguments[1], f"{place}[{name!r}]")
    elif hint is Hashable:
        as_key(value)
        hash(value)  # a list of numbers becomes a key, and is none
    elif is_dataclass(hint) or typing.is_typeddict(hint):
        content = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        hints_of = typing.get_type_hints(hint)
        is_right = _is_kind(value, hint) and hints_of.keys() <= content.keys()
        for name, inner in hints_of.items() if is_right else ():
            check_type(content[name], inner, f"{place}.{name}")
    else:
        is_right = _is_kind(value, hint)
    if not is_right:
        raise ValueError(f"{place} must be {hint}, got {type(value).__name__}")


def _is_kind(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    if hasattr(origin, "__value__"):  # since NumPy 2.5, NDArray is a TypeAliasType
        return _is_kind(value, origin.__value__[typing.get_args(hint)])
    if origin is np.ndarray:
        (scalar,) = typing.get_args(typing.get_args(hint)[1])
        return isinstance(value, np.ndarray) and value.dtype == scalar
    if typing.is_typeddict(origin):
        return isinstance(value, dict)
    if origin is None:
        return value is None
    # A bool is an int to Python, and an int is a number to JSON.
    allowed = (int, float) if origin is float else origin
    return isinstance(value, allowed) and (origin is bool or not isinstance(value, bool))


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
