"""Reads arrays from npy, npz and safetensors files, which may be damaged or made to do harm.

Nothing in a file is executed, and no memory is allocated for a size that a file only declares.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo_env.system.files import DamagedFileError, regular_file
from srpo_env.types import Array

if TYPE_CHECKING:
    from torch import Tensor


TENSOR_TYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"
)  # fmt: skip
"""Types of torch's tensors that all operations take; others can only be stored"""


def read_npz(source: str | Path | bytes, max_bytes: int | None = None) -> dict[str, Array]:
    """Reads an archive that `numpy.savez` wrote, of numbers and strings.

    ``numpy.load`` allocates what the archive declares. Here, arrays together take no more memory
    than the archive, because it must not be compressed, or than ``max_bytes``.

    Args:
        source: The file, or its content.
        max_bytes: Maximum size of all arrays; the archive may then be compressed. None: it may not.

    Raises:
        FileNotFoundError: If there is no such file, or it is a folder or a pipe.
        DamagedFileError: If it is not such an archive.
    """
    if isinstance(source, bytes):
        return _read_archive(io.BytesIO(source), f"an archive of {len(source)} bytes", max_bytes)
    with regular_file(source).open("rb") as stream:
        return _read_archive(stream, str(source), max_bytes)


def _read_archive(stream: Any, name: str, max_bytes: int | None) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            declared = sum(member.file_size for member in members)
            if max_bytes is None:
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    raise ValueError("it is compressed")
                # Entries that overlap could be many times as large as the file.
                if declared > stream.seek(0, io.SEEK_END):
                    raise ValueError("it declares more data than it has")
            elif declared > max_bytes:
                raise ValueError(f"it declares {declared} bytes, and may have {max_bytes}")
            for member in members:
                key = member.filename.removesuffix(".npy")
                if key in arrays:
                    raise ValueError(f"the array {key!r} occurs twice")
                with archive.open(member) as content:
                    # With a size, zipfile unpacks no more; `archive.read` would unpack everything.
                    arrays[key] = _parse_array(content.read(member.file_size), key)
    # zipfile and numpy.lib.format raise many types for damaged content, and document few of them.
    except Exception as error:
        raise DamagedFileError(
            f"{name} must be an archive of plain arrays as numpy.savez writes it, and is damaged "
            f"or something else ({type(error).__name__}: {error})"
        ) from error
    return arrays


def read_npy(file: str | Path) -> Array:
    """Reads a file that `numpy.save` wrote, of numbers and strings.

    Raises:
        FileNotFoundError: If there is no such file, or it is a folder or a pipe.
        DamagedFileError: If it is not such a file.
    """
    content = regular_file(file).read_bytes()
    try:
        return _parse_array(content, Path(file).stem)
    # numpy.lib.format raises many types for damaged content, and documents few of them.
    except Exception as error:
        raise DamagedFileError(
            f"{file} must be a plain array as numpy.save writes it, and is damaged or something "
            f"else ({type(error).__name__}: {error})"
        ) from error


def _parse_array(content: bytes, name: str) -> Array:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"the array {name!r} has format version {version}")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError(f"the array {name!r} holds pickled objects, which could run code")
    count, available = math.prod(shape), len(content) - stream.tell()
    # Without bytes per item, any count fits; only a single empty string is written like that.
    if min(shape, default=1) < 0 or count * dtype.itemsize != available or (
        dtype.itemsize == 0 and count > 1
    ):  # fmt: skip
        raise ValueError(
            f"the array {name!r} declares shape {shape} of {dtype} and has {available} bytes"
        )
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file; the memory is mapped from the file.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is not a safetensors file, or is damaged.
        ValueError: If a tensor is of a type that can only be stored.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = regular_file(file)
    try:
        tensors = load_file(file)
    # KeyError: a type of numbers that torch does not have.
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise DamagedFileError(
            f"{file} is not a safetensors file, or is damaged ({type(error).__name__}: {error})"
        ) from error
    for name, tensor in tensors.items():
        if str(tensor.dtype).removeprefix("torch.") not in TENSOR_TYPES:
            raise ValueError(
                f"the tensor {name!r} of {file} must be of one of the types "
                f"{', '.join(TENSOR_TYPES)}, got {tensor.dtype}"
            )
    return tensors
