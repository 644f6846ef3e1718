"""The bounded memory of earlier episodes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from srpo_env.rewards.memory import SuccessMemory


def score(memory, *latent):
    return memory.score_failure(np.array(latent, np.float32), formula="paper", weight=0.8)


def test_a_failure_before_the_first_success_earns_nothing_but_is_remembered():
    memory = SuccessMemory(4)["task"]
    reward, distance = score(memory, 1.0)
    assert reward == 0.0
    assert math.isnan(distance)
    memory.add_success(np.array([0.0], np.float32))
    # Distances 1 (remembered) and 3: z-scores -1 and 1.
    assert score(memory, 3.0) == pytest.approx((0.8 / (1 + math.e), 3.0))


def test_it_ranks_by_the_centers_of_today():
    memory = SuccessMemory(4)["task"]
    memory.add_success(np.array([0.0], np.float32))
    score(memory, 1.0)
    # A new success beside the old one moves their center from 0 to 2.
    memory.add_success(np.array([4.0], np.float32))
    assert score(memory, 2.0) == pytest.approx((0.8 / (1 + math.exp(-1)), 0.0))


def test_it_forgets_the_oldest():
    memory = SuccessMemory(2)["task"]
    for value in (100.0, 0.0, 1.0):
        memory.add_success(np.array([value], np.float32))
    np.testing.assert_array_equal(memory.clustering().centers, [[0.5]])
    for value in (100.0, 200.0, 3.0, 5.0):
        reward, _ = score(memory, value)
    # Only 3 and 5 are left to be ranked.
    assert reward == pytest.approx(0.8 / (1 + math.e))


def test_tasks_are_remembered_apart():
    memory = SuccessMemory(2)
    memory["a"].add_success(np.array([0.0], np.float32))
    assert score(memory["b"], 1.0)[0] == 0.0
    assert score(memory["a"], 1.0)[0] == 0.4


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SuccessMemory(0)
