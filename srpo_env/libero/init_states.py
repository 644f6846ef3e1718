"""Reads the initial states of tasks: LIBERO's files, and arrays of NumPy."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from srpo_env.readers.arrays import read_npy, read_npz
from srpo_env.system.files import DamagedFileError, regular_file
from srpo_env.types import Array, Floats

ENDINGS = (".pruned_init", ".init", ".pruned_init.npz", ".npz", ".npy")
"""Endings of the names of files with initial states; the first two are LIBERO's, the third is
LIBERO-PRO's"""

MAX_BYTES = 2**26
"""Largest content of a file of initial states, 64 MiB; LIBERO's have 50 KB"""

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
"""First name in a pickled array, by the version of NumPy"""


def read_init_states(file: Path) -> Floats:
    """Reads initial states: time, positions and velocities, ``(num_states, 1 + nq + nv)``.

    No code of a file is executed.

    Args:
        file: LIBERO's ``.pruned_init`` or ``.init``, or an ``.npy`` or ``.npz`` of one array.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its name has another ending, it is damaged, or it does not hold such states.
    """
    if file.suffix == ".npy":
        states = read_npy(file)
    elif file.suffix == ".npz":
        arrays = read_npz(file, MAX_BYTES)
        if len(arrays) != 1:
            raise ValueError(
                f"{file} must hold one array of initial states, got {sorted(arrays) or 'none'}"
            )
        (states,) = arrays.values()
    elif file.suffix in ENDINGS:
        states = _read_torch(file)
    else:
        raise ValueError(
            f"a file of initial states must end in one of {', '.join(ENDINGS)}, got {str(file)!r}"
        )
    if states.ndim != 2 or 0 in states.shape or states.dtype.kind not in "fiu":
        raise ValueError(
            f"{file} must hold initial states, numbers of shape (num_states, 1 + nq + nv), got "
            f"{states.dtype} of shape {states.shape}"
        )
    states = states.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(states).all(axis=1))
    if len(bad):
        raise ValueError(f"{file} must hold initial states that are finite, state {bad[0]} is not")
    states.setflags(write=False)
    return states


def _read_torch(file: Path) -> Array:
    # A zip written by torch.save with one pickled NumPy array. Read without torch, which would take
    # 200 MB in each simulator process, and without executing code from the pickle.
    with regular_file(file).open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                members = [m for m in archive.infolist() if m.filename.endswith("data.pkl")]
                if len(members) != 1 or members[0].file_size > MAX_BYTES:
                    raise ValueError(f"it must have one data.pkl of at most {MAX_BYTES} bytes")
                return _unpickled_array(archive.read(members[0]))
        # zipfile and pickletools raise many types for damaged content.
        except Exception as error:
            raise DamagedFileError(
                f"{file} must hold initial states, a plain array of float64 as torch.save writes "
                f"it, and is damaged or something else ({type(error).__name__}: {error})"
            ) from error


def _unpickled_array(content: bytes) -> Floats:
    """Reads a pickled array of two dimensions from its opcodes, without the pickle machine.

    Unpickling calls functions that the file names. Here, the opcodes must be those of one plain
    array of float64, and its shape and content are taken from their arguments.

    Raises:
        ValueError: If it is something else.
    """
    arguments = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("FRAME", "MEMOIZE", "PROTO") or "PUT" in opcode.name:
            continue  # for later references, of which there are two
        arguments.append(argument if argument is not None else opcode.name)
    shape, is_fortran, values = arguments[13:15], arguments[-9:-8], arguments[-7:-6]
    expected = [
        *arguments[:1], "numpy ndarray", 0, "TUPLE1", "_codecs encode", "b", "latin1", "TUPLE2",
        "REDUCE", "TUPLE3", "REDUCE", "MARK", 1, *shape, "TUPLE2", "numpy dtype", "f8",
        "NEWFALSE", "NEWTRUE", "TUPLE3", "REDUCE", "MARK", 3, "<", "NONE", "NONE", "NONE", -1, -1,
        0, "TUPLE", "BUILD", *is_fortran, *arguments[-8:-7], *values, *arguments[-6:-5], "TUPLE2",
        "REDUCE", "TUPLE", "BUILD", "STOP",
    ]  # fmt: skip
    if arguments != expected or arguments[0] not in RECONSTRUCT:
        raise ValueError("it is not a pickled array of float64 with two dimensions")
    rows, columns = shape
    (text,) = values
    if not (isinstance(rows, int) and isinstance(columns, int) and isinstance(text, str)):
        raise ValueError("its shape and content are of other types")
    array: Floats = np.frombuffer(text.encode("latin1"), "<f8")
    order: Literal["C", "F"] = "F" if is_fortran == ["NEWTRUE"] else "C"
    return array.reshape(max(0, rows), max(0, columns), order=order).astype(np.float64)
