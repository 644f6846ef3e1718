"""Packed state is data only and comes back to the bit."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import pytest

from srpo_env.vector import serialization as state


@dataclass
class Point:
    x: float
    label: str | None


def test_what_is_packed_comes_back_to_the_bit_through_a_file_without_pickle():
    tree = {
        "numbers": [1, 0.1 + 0.2, -math.inf, True, None, 2**53 + 1],
        "key": ("pick", (3, None)),
        "points": [Point(1e-300, None), Point(0.0, "a")],
        "array": np.array([[0.1, math.nan]], np.float32),
        "empty": [],
    }
    file = io.BytesIO()
    np.savez(file, **state.pack(tree))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = state.unpack(arrays, (Point,))
    np.testing.assert_equal(back, tree)
    assert back["array"].dtype == np.float32
    assert isinstance(back["key"], tuple)


def test_later_changes_do_not_reach_what_was_packed():
    array = np.zeros(2)
    packed = state.pack([array])
    array += 1
    assert state.unpack(packed)[0].tolist() == [0, 0]


def test_a_class_that_was_not_named_is_not_built():
    with pytest.raises(KeyError, match="Point"):
        state.unpack(state.pack(Point(1.0, "a")))


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3}}, np.array([None]), object()])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match="State must be"):
        state.pack(value)
