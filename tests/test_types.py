"""Helpers of the data types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_env.types import as_key, even_indices


@given(num_items=st.integers(1, 300), count=st.integers(2, 80))
def test_even_indices_ascend_from_the_first_to_the_last(num_items, count):
    indices = even_indices(num_items, count)
    assert (indices[0], indices[-1], len(indices)) == (0, num_items - 1, count)
    steps = np.diff(indices)
    assert (steps > 0).all() if count <= num_items else (steps >= 0).all()
    assert steps.max() - steps.min() <= 1


def test_equal_values_are_equal_keys():
    values = [3, np.int64(3), np.array([3]), 3.0]
    assert len({as_key((value, "pick")) for value in values}) == 1


@pytest.mark.parametrize("value", [float("nan"), np.float64("nan"), (1, float("nan"))])
def test_nan_is_not_a_key(value):
    with pytest.raises(ValueError, match="must not be NaN"):
        as_key(value)
