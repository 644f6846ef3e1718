import numpy as np

from srpo_env.training.task_sampler import TaskSampler
from tests.training.groups import make_group


def test_tasks_with_mixed_outcomes_are_sampled_most_and_all_are_sampled():
    sampler = TaskSampler(3, range(40), seed=0)
    sampler.success_rates = [0.0, 0.5, 1.0]
    tasks = [sampler.sample()[0] for _ in range(2000)]
    shares = np.bincount(tasks, minlength=3) / 2000
    np.testing.assert_allclose(shares, np.array([0.1, 0.3, 0.02]) / 0.42, atol=0.04)


def test_sampler_tracks_success_rates_by_task():
    sampler = TaskSampler(2, range(40), seed=0)
    for _ in range(50):
        sampler.update(make_group([True] * 4, [1.0] * 4, key=(1, 0)))
    assert sampler.success_rates[0] == 0.5
    assert sampler.success_rates[1] > 0.99
