"""Shaped rewards on their way into a buffer; what `rewrite` refuses stands in test_wrapper.py."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.vector import reward_buffer as payments
from srpo_env.vector.reward_buffer import Payments
from tests.rewards.test_diagnostics import LOST, SHAPED, group


def test_only_failures_that_were_compared_with_a_success_are_paid():
    owed = Payments(num_envs=1)
    owed.add([SHAPED, group(LOST, LOST)])
    # Both failures of the shaped group end at step 3 of environment 0, with 0.6 and 0.2.
    assert sorted(owed.owed) == [(3, 0, 0.2), (3, 0, 0.6)]


def test_the_progress_reward_comes_on_top_of_the_environments_own():
    owed = Payments(num_envs=2)
    owed.owed.append((3, 1, -1.0 + 0.6))
    rewards = np.full((2, 2), -1.0, np.float32)
    assert owed.write(rewards, first_step=2) == 1
    np.testing.assert_allclose(rewards, [[-1, -1], [-1, -0.4]])


def test_what_was_for_earlier_buffers_is_dropped_and_what_is_for_later_ones_waits():
    owed = Payments(num_envs=1)
    owed.owed.extend([(0, 0, 0.1), (1, 0, 0.2), (5, 0, 0.3)])
    rewards = np.zeros((2, 1))
    assert owed.write(rewards, first_step=1) == 1
    assert rewards.tolist() == [[0.2], [0.0]]
    assert list(owed.owed) == [(1, 0, 0.2), (5, 0, 0.3)]
    # Whoever comes back for what was dropped is told, and not left with unpaid failures.
    with pytest.raises(ValueError, match="begins with step 0, and rewards up to step 0"):
        owed.check_steps(0, num_steps=2, step_count=6)
    owed.check_steps(1, num_steps=2, step_count=6)


def test_more_failures_than_are_kept_are_an_error_and_not_a_loss(monkeypatch):
    monkeypatch.setattr(payments, "KEPT_PAYMENTS", 3)
    owed = Payments(num_envs=1)
    owed.add([SHAPED, SHAPED])
    with pytest.raises(ValueError, match=r"up to step 3 are no longer kept: .* the newest 3"):
        owed.check_steps(3, num_steps=2, step_count=5)
    # A buffer that begins after those that had to make room is complete.
    owed.check_steps(4, num_steps=1, step_count=5)


def test_half_precision_and_torch_like_buffers_are_floats():
    class Tensor:
        shape, dtype = (1, 1), "torch.bfloat16"

    assert Payments(1).checked_length(Tensor()) == 1
    assert Payments(1).checked_length(np.zeros((1, 1), np.float16)) == 1
