"""Observations of several environments, in memory that several processes share."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Space

from srpo_env.types import Array

_ALIGNMENT = 64

NUM_BUFFERS = 3
"""Observations kept of each environment: the one that was returned last, one that waits to be
returned, and one that is being written."""


class SharedObservations:
    """One array per entry of a Dict space, shape ``(NUM_BUFFERS, num_envs, *shape)``."""

    def __init__(self, space: Space[Any], num_envs: int, descriptor: int | None = None) -> None:
        """Allocates the memory, or maps the memory of another process.

        Args:
            space: Space of one environment's observation: a Dict of Boxes.
            num_envs: Number of environments.
            descriptor: File descriptor of the memory to map, which the process has inherited; None
                allocates new memory.
        """
        assert isinstance(space, Dict)
        layout: dict[str, tuple[int, tuple[int, ...], Any]] = {}
        size = 0
        for name, box in space.items():
            assert box.shape is not None
            shape, dtype = (NUM_BUFFERS, num_envs, *box.shape), np.dtype(box.dtype)
            layout[name] = size, shape, dtype
            size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        # Not a file in /dev/shm, which containers limit to 64 MB.
        self.descriptor = os.memfd_create("observations") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        memory = mmap.mmap(self.descriptor, size)
        self.arrays: dict[str, Array] = {
            name: np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
            for name, (start, shape, dtype) in layout.items()
        }

        self._last = [0] * num_envs
        """buffer of each environment that this process has written last"""

    def write(self, slot: int, observation: dict[str, Array]) -> int:
        """Writes the observation of one environment into its next buffer; returns its index."""
        buffer = self._last[slot] = (self._last[slot] + 1) % NUM_BUFFERS
        self.put(slot, buffer, observation)
        return buffer

    def put(self, slot: int, buffer: int, observation: Mapping[str, Array]) -> None:
        """Writes the observation of one environment into a buffer."""
        for name, value in observation.items():
            self.arrays[name][buffer, slot] = value

    def read(self, slots: Array, buffers: Array) -> dict[str, Array]:
        """Returns copies of the observations of some environments.

        Args:
            slots: Indices of the environments, shape ``(n,)``.
            buffers: The buffer of each of them, shape ``(n,)``.

        Returns:
            Arrays of shape ``(n, *shape)``.
        """
        return {name: array[buffers, slots] for name, array in self.arrays.items()}

    def close(self) -> None:
        """Closes the file; may be called twice. The memory is freed when nobody maps it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
