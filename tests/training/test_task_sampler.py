import collections

import numpy as np
import pytest

from srpo_env.libero.perturbations import DIMENSIONS, as_mixture
from srpo_env.training.task_sampler import TaskSampler, dimensions_of, reset_options
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


def test_each_dimension_and_no_perturbation_are_sampled_equally_often():
    sampler = TaskSampler(2, range(40), seed=0, perturb="camera, noise")
    texts = [sampler.sample()[2] for _ in range(1500)]
    mixtures = [as_mixture(text) for text in texts]
    counts = collections.Counter(mixture[0].dimension if mixture else None for mixture in mixtures)
    assert set(counts) == {"camera", "noise", None}
    assert all(abs(count / 1500 - 1 / 3) < 0.05 for count in counts.values())
    severities = collections.Counter(
        m[0].severity for m in mixtures if m and m[0].dimension == "noise"
    )
    assert set(severities) == {2, 4, 6, 8, 10}
    assert len({text for text in texts if text}) > 900  # each has its own draw


def test_without_perturbations_the_samples_are_those_of_before():
    sampler = TaskSampler(3, range(40), seed=5)
    rng = np.random.default_rng(5)
    for _ in range(20):
        task, state, perturbation = sampler.sample()
        assert task == rng.choice(3, p=np.full(3, 1 / 3))
        assert state == rng.choice(range(40))
        assert perturbation == ""


def test_dimensions_are_read_from_a_list():
    assert dimensions_of("") == ()
    assert dimensions_of("all") == tuple(DIMENSIONS)
    assert dimensions_of("light, camera,light") == ("light", "camera")
    with pytest.raises(ValueError, match=r"--perturb must be all or some of .* got 'sound'"):
        dimensions_of("camera,sound")


def test_options_start_the_chosen_episodes():
    plain = reset_options({1: (4, 7, "")}, 3)
    assert set(plain) == {"reset_mask", "task_id", "init_state_id"}
    assert plain["reset_mask"].tolist() == [False, True, False]
    assert (plain["task_id"][1], plain["init_state_id"][1]) == (4, 7)
    assert reset_options({0: (1, 2, "x"), 2: (1, 2, "")}, 3)["perturbation"] == ["x", "", ""]
