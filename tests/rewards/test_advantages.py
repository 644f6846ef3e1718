import numpy as np
import pytest

from srpo_env.rewards.advantages import baseline_values, decision_advantages

TIMES = np.array([0.0, 0.5])


def test_baseline_is_the_return_of_the_other_episode_at_the_same_moment():
    flat = np.zeros(2)
    values = baseline_values(np.array([1.0, 0.0]), [flat, flat], [TIMES, TIMES], np.zeros(2, int))
    np.testing.assert_allclose(values, [[0, 0], [1, 1]])


def test_baseline_follows_the_potential():
    # Two of three others succeeded from 0.9, none of them from 0.1.
    near, far = np.array([0.0, 0.9]), np.array([0.0, 0.1])
    potentials = [near, near, near, far, far]
    values = baseline_values(
        np.array([1.0, 1.0, 0.0, 0.0, 0.0]), potentials, [TIMES] * 5, np.zeros(5, int)
    )
    assert values[2][1] == pytest.approx(1.0, abs=0.01)  # its two neighbours succeeded
    assert values[3][1] == pytest.approx(0.0, abs=0.01)


def test_episodes_of_other_tasks_count_little():
    flat = np.zeros(2)
    tasks = np.array([0, 0, 1])
    values = baseline_values(np.array([0.0, 0.0, 1.0]), [flat] * 3, [TIMES] * 3, tasks)
    assert values[0][0] == pytest.approx(0.05 / 1.05)


def test_decision_that_loses_progress_of_others_is_blamed():
    # All are equal until the last decision, after which only the last episode fails.
    way = np.array([0.0, 0.5, 0.9])
    times = np.array([0.0, 0.3, 0.6])
    returns = np.array([1.0, 1.0, 1.0, 0.0])
    advantages = decision_advantages(returns, [way] * 4, [times] * 4, np.zeros(4, int), decay=0.0)
    np.testing.assert_allclose(advantages[3], [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(advantages[0][:2], 0, atol=1e-6)


def test_advantages_without_decay_sum_to_the_surprise_of_the_episode():
    rng = np.random.default_rng(0)
    potentials = [np.sort(rng.random(4)) for _ in range(6)]
    times = [np.arange(4) / 4] * 6
    returns, tasks = rng.random(6), rng.integers(2, size=6)
    values = baseline_values(returns, potentials, times, tasks)
    differences = decision_advantages(returns, potentials, times, tasks, decay=0.0)
    whole = decision_advantages(returns, potentials, times, tasks, decay=1.0)
    for total, value, difference, summed in zip(returns, values, differences, whole, strict=True):
        assert difference.sum() == pytest.approx(total - value[0])
        assert summed[0] == pytest.approx(total - value[0])


def test_single_episode_has_no_baseline():
    with pytest.raises(ValueError, match="at least 2 episodes"):
        baseline_values(np.ones(1), [np.zeros(2)], [TIMES], np.zeros(1, int))
