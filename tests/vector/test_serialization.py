"""Packed state is data only and is restored to the bit."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import pytest

from srpo_env.vector import serialization


@dataclass
class Point:
    x: float
    label: str | None


def test_packed_state_is_restored_to_the_bit():
    tree = {
        "numbers": [1, 0.1 + 0.2, -math.inf, True, None, 2**53 + 1],
        "key": ("pick", (3, None)),
        "points": [Point(1e-300, None), Point(0.0, "a")],
        "array": np.array([[0.1, math.nan]], np.float32),
        "empty": [],
    }
    back = serialization.unpack(serialization.pack(tree), (Point,))
    np.testing.assert_equal(back, tree)
    assert back["array"].dtype == np.float32
    assert isinstance(back["key"], tuple)


def test_packed_state_is_a_copy():
    array = np.zeros(2)
    packed = serialization.pack([array])
    array += 1
    assert serialization.unpack(packed)[0].tolist() == [0, 0]


def test_unlisted_classes_raise():
    with pytest.raises(ValueError, match="KeyError: 'Point'"):
        serialization.unpack(serialization.pack(Point(1.0, "a")))


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3}}, np.array([None]), object()])
def test_unsupported_types_raise(value):
    with pytest.raises(TypeError, match="State must be"):
        serialization.pack(value)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: b"x" * 9]
)
def test_damaged_bytes_raise(damage):
    with pytest.raises(ValueError, match="Not a saved state, or a damaged one"):
        serialization.unpack(damage(serialization.pack([1])))


def test_pickled_objects_are_not_loaded():
    file = io.BytesIO()
    np.savez(file, header=np.array([object()]))
    with pytest.raises(ValueError, match="Not a saved state"):
        serialization.unpack(file.getvalue())
