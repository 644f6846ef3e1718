"""Bounded memory of earlier episodes."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.rewards.memory import SuccessMemory


def point(value):
    return np.array([value], np.float32)


def compared(memory, task, values, successes):
    points, succeeded = memory.with_new(task, [point(value) for value in values], successes)
    return points[:, 0].tolist(), succeeded.tolist()


def add(memory, task, values, success):
    memory.add(task, [point(value) for value in values], [success] * len(values))


def test_new_episodes_are_compared_with_episodes_of_their_task():
    memory = SuccessMemory(4)
    add(memory, "a", [1.0], success=True)
    add(memory, "a", [2.0, 3.0], success=False)
    add(memory, "b", [4.0], success=True)
    assert compared(memory, "a", [5.0], [False]) == (
        [1.0, 2.0, 3.0, 5.0],
        [True, False, False, False],
    )
    assert compared(memory, "c", [5.0], [True]) == ([5.0], [True])


def test_comparing_does_not_change_the_memory():
    memory = SuccessMemory(1)
    add(memory, "a", [1.0], success=True)
    for _ in range(2):
        assert compared(memory, "a", [2.0], [True]) == ([2.0], [True])
    assert [latent.item() for latent in memory.successes("a")] == [1.0]


def test_oldest_episodes_are_dropped():
    memory = SuccessMemory(2)
    add(memory, "a", [1.0, 2.0, 3.0], success=True)
    assert [latent.item() for latent in memory.successes("a")] == [2.0, 3.0]
    add(memory, "a", [4.0, 5.0, 6.0], success=False)
    assert compared(memory, "a", [7.0], [False])[0] == [2.0, 3.0, 6.0, 7.0]


def test_all_new_episodes_are_compared_even_if_only_some_are_kept():
    memory = SuccessMemory(2)
    add(memory, "a", [1.0], success=False)
    assert compared(memory, "a", [2.0, 3.0, 4.0], [False] * 3)[0] == [2.0, 3.0, 4.0]


def test_memory_of_size_0_raises():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SuccessMemory(0)
