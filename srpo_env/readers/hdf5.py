"""Reads recorded episodes from HDF5 files, which may be damaged or made to do harm.

HDF5 files can refer to other files and objects, and declare arrays of any size. Only numbers and
texts that are in the file itself are read, and sizes are checked before memory is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srpo_env.system.files import DamagedFileError
from srpo_env.types import Array

if TYPE_CHECKING:
    import h5py


MAX_ARRAY_BYTES = 2**30
"""Largest part of an HDF5 dataset that is read at once, 1 GiB: 21,000 frames of 128 x 128 pixels"""

MAX_TEXT_BYTES = 2**20
"""Largest text in an HDF5 attribute"""


@contextmanager
def open_hdf5(file: str | Path) -> Iterator[Hdf5Group]:
    """Opens an HDF5 file for reading, and yields its root.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If h5py is not installed.
        DamagedFileError: If it is not an HDF5 file, or is damaged.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "HDF5 files are read with h5py: run `pip install h5py`", name="h5py"
        ) from error

    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There are no recorded episodes at {str(file)!r}: no such file")
    try:
        content = h5py.File(file, "r")
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedFileError(
            f"{str(file)!r} is not an HDF5 file, or is damaged: {error}"
        ) from error
    with content:
        yield Hdf5Group(content, str(file))


class Hdf5Group:
    """A group of an HDF5 file, which reads from this file only.

    HDF5 can refer to other files, by external and soft links, external storage and virtual
    datasets, and h5py turns some types into Python objects. None of these are followed.
    """

    def __init__(self, group: h5py.Group, place: str) -> None:
        """Wraps a group; ``place`` is what errors call it."""
        self._group = group
        self.place = place

    def names(self) -> list[str]:
        """Returns the names in it.

        Raises:
            ValueError: If the file is damaged.
        """
        with _damage(self.place):
            return list(self._group)

    def group(self, name: str) -> Hdf5Group | None:
        """Returns the group at a name such as ``"data"`` or ``"data/demo_0"``, or None.

        Raises:
            ValueError: If something else has this name, or the file is damaged.
        """
        import h5py

        found = self._find(name)
        if found is not None and not isinstance(found, h5py.Group):
            raise ValueError(f"{name} of {self.place} must be a group, got {_kind(found)}")
        return None if found is None else Hdf5Group(found, f"{self.place}:{name}")

    def array(self, name: str) -> Hdf5Array | None:
        """Returns the dataset at a name such as ``"rewards"`` or ``"obs/agentview_rgb"``, or None.

        Raises:
            ValueError: If something else has this name, it is not an array of numbers in this
                file, or the file is damaged.
        """
        import h5py

        found = self._find(name)
        if found is None:
            return None
        place = f"{name} of {self.place}"
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{place} must be a dataset, got {_kind(found)}")
        with _damage(place):
            is_elsewhere = bool(found.is_virtual or found.external)
            shape, dtype = found.shape, found.dtype
        if is_elsewhere:
            raise ValueError(f"{place} must hold its data in this file, and refers to another")
        if shape is None or dtype.kind not in "biuf":
            raise ValueError(f"{place} must be an array of numbers, got {dtype}")
        return Hdf5Array(found, place)

    def text(self, name: str, default: str | None = None) -> str | None:
        """Returns the text of an attribute: writers store it as str, as bytes or in an array.

        Raises:
            ValueError: If the attribute is something else.
        """
        value = self._attribute(name)
        if value is None:
            return default
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if not isinstance(value, str):
            raise ValueError(
                f"the attribute `{name}` of {self.place} must be a text, got {type(value).__name__}"
            )
        return str(value)

    def number(self, name: str) -> float | int | bool | None:
        """Returns the number of an attribute, or None if there is no such attribute.

        Raises:
            ValueError: If the attribute is something else.
        """
        value = self._attribute(name)
        if value is None:
            return None
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"the attribute `{name}` of {self.place} must be a number, got {array.dtype} of "
                f"shape {array.shape}"
            )
        number: float | int | bool = array.item()
        return number

    def _attribute(self, name: str) -> Any:
        place = f"the attribute `{name}` of {self.place}"
        with _damage(place):
            if name not in self._group.attrs:
                return None
            declared = self._group.attrs.get_id(name)
            size = math.prod(declared.shape or ()) * max(1, declared.dtype.itemsize)
            if size > MAX_TEXT_BYTES:
                raise ValueError(
                    f"{place} must have at most {MAX_TEXT_BYTES:,} bytes, got {size:,}"
                )
            return self._group.attrs[name]

    def _find(self, name: str) -> Any:
        import h5py

        found: Any = self._group
        with _damage(f"{name} of {self.place}"):
            for part in name.split("/"):
                if not isinstance(found, h5py.Group):
                    return None
                link = found.get(part, getlink=True)
                if link is None:
                    return None
                if not isinstance(link, h5py.HardLink):
                    break
                found = found[part]
            else:
                return found
        raise ValueError(
            f"{name} of {self.place} must be in this place itself, got a link to another: replace "
            "it by a copy"
        )


class Hdf5Array:
    """A dataset of numbers in an HDF5 file; its size is checked before it is read."""

    def __init__(self, dataset: h5py.Dataset, place: str) -> None:
        """Wraps a dataset; ``place`` is what errors call it."""
        self._dataset = dataset
        self.place = place
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = dataset.dtype

    def __len__(self) -> int:
        """Returns its number of rows; 0 for a single number."""
        return self.shape[0] if self.shape else 0

    def read(self, rows: Any = None) -> Array:
        """Reads rows, as ascending indices or a slice; by default all.

        Raises:
            ValueError: If they take too much memory, or the file is damaged.
        """
        chosen = slice(None) if rows is None else rows
        count = len(range(*chosen.indices(len(self)))) if isinstance(chosen, slice) else len(chosen)
        size = self.dtype.itemsize * math.prod((count, *self.shape[1:]) if self.shape else ())
        # A compressed chunk is unpacked as a whole.
        chunk = self.dtype.itemsize * math.prod(self._dataset.chunks or ())
        if max(size, chunk) > MAX_ARRAY_BYTES:
            raise ValueError(
                f"{self.place} must have at most {MAX_ARRAY_BYTES:,} bytes to be read at once, and "
                f"declares {max(size, chunk):,} (shape {self.shape} of {self.dtype})"
            )
        with _damage(self.place):
            array: Array = self._dataset[chosen] if self.shape else self._dataset[()]
        return np.asarray(array)


def check_is_video(images: Hdf5Array, name: str) -> None:
    """Checks that a dataset holds RGB frames.

    Raises:
        ValueError: If it has another shape or type.
    """
    shape = images.shape
    if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(
            f"The images of {name} must be uint8 of shape (num_frames, height, width, 3), got "
            f"{images.dtype} of shape {shape}"
        )


def are_rows_from_below(data: Hdf5Group) -> bool:
    """Returns whether images in LIBERO's layout are stored with their lowest row first.

    robosuite hands over images as OpenGL stores them, and ``macros_image_convention`` says so.
    Regenerated files leave the attribute out; OpenGL's order is robosuite's default.

    Args:
        data: The group ``data`` of the file.

    Raises:
        ValueError: If the attribute is something else.
    """
    convention = (data.text("macros_image_convention") or "opengl").lower()
    if convention not in ("opengl", "opencv"):
        raise ValueError(
            f"`macros_image_convention` must be 'opengl' or 'opencv', {data.place} has "
            f"{convention!r}"
        )
    return convention == "opengl"


@contextmanager
def _damage(place: str) -> Iterator[None]:
    """Turns the errors of h5py, of many types, into one."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise DamagedFileError(
            f"{place} cannot be read: the file is damaged or incomplete "
            f"({type(error).__name__}: {error})"
        ) from error


def _kind(found: Any) -> str:
    return type(found).__name__.lower()
