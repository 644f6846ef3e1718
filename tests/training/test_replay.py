import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.training.replay import Beginning, replay
from tests.agents.toy_suite import ToySuite


def run_and_replay(envs, lengths, tasks):
    """Runs episodes of other lengths in turn; returns what they and their replay end with."""
    rng = np.random.default_rng(0)
    episodes, expected = {}, {}
    for slot, (length, task) in enumerate(zip(lengths, tasks, strict=True)):
        options = {
            "task_id": np.full(envs.num_envs, task),
            "init_state_id": np.arange(envs.num_envs),
        }
        observations, _ = envs.reset(
            options={"reset_mask": np.ones(envs.num_envs, dtype=bool), **options}
        )
        actions = rng.uniform(-1, 1, (length, *envs.action_space.shape)).astype(np.float32)
        for action in actions:
            observations, *_ = envs.step(action)
        episodes[slot] = Beginning(task, slot, actions[:, slot])
        expected[slot] = {name: value[slot].copy() for name, value in observations.items()}
    return expected, replay(envs, episodes)


def assert_equal_rows(expected, observations):
    for slot, row in expected.items():
        for name, value in row.items():
            np.testing.assert_array_equal(observations[name][slot], value)


def test_replayed_episodes_end_with_the_same_observations(monkeypatch):
    monkeypatch.setattr(ToySuite, "chunks_of_task", (9, 9))
    expected, (observations, instructions) = run_and_replay(ToySuite(3), (1, 4, 2), (0, 1, 0))
    assert_equal_rows(expected, observations)
    assert instructions == ["lift toy 0", "lift toy 1", "lift toy 0"]


def test_episode_that_was_reset_only_has_its_first_observation():
    envs = ToySuite(2)
    beginning = Beginning(1, 7, np.zeros((0, 8, 7), np.float32))
    observations, instructions = replay(envs, {0: beginning})
    np.testing.assert_array_equal(observations["proprio"], 0)
    assert instructions[0] == "lift toy 1"


@pytest.mark.libero
def test_replayed_libero_episodes_end_with_the_same_observations():
    envs = gymnasium.make_vec(
        "srpo_env/libero-object", num_envs=3, num_workers=1, autoreset_mode=AutoresetMode.DISABLED
    )
    try:
        expected, (observations, _) = run_and_replay(envs, (3, 1, 2), (0, 0, 1))
    finally:
        envs.close()
    assert_equal_rows(expected, observations)
