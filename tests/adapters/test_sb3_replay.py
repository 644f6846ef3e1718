"""Progress rewards in replay buffers of Stable-Baselines3: the right cell, once, and checked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip(
    "stable_baselines3",
    reason="Stable-Baselines3 is not installed: pip install 'srpo-env[sb3]'",
)

from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from srpo_env.adapters.sb3_replay import ShapedReplayRewards, add_to_replay_buffer
from srpo_env.adapters.stable_baselines3 import wrap_vec_env
from tests.corridor import GIVE_UP, STAY, WALK, Corridor, PathEncoder, ReadingEncoder

NEVER = 10**9
"""A `learning_starts` that is never reached: only the buffer is filled."""


class Scripted(DummyVecEnv):
    """Corridors that follow a script of actions, ``(num_steps, num_envs)``, whatever is asked."""

    def __init__(self, script, **kwargs):
        self.script = list(script)
        super().__init__([partial(Corridor, slot, **kwargs) for slot in range(len(script[0]))])

    def step_async(self, actions):
        super().step_async(np.array(self.script.pop(0)))


def learner(script, buffer_size=100, group_size=2, encoder=None, **kwargs):
    """Returns a DQN that stores `buffer_size` transitions of each corridor."""
    venv = wrap_vec_env(Scripted(script), encoder or ReadingEncoder(), group_size=group_size)
    settings = {"learning_starts": NEVER, "train_freq": 1, "device": "cpu", "seed": 0}
    return DQN("MlpPolicy", venv, buffer_size=buffer_size * venv.num_envs, **{**settings, **kwargs})


def learn(model, num_steps, *callbacks, **kwargs):
    model.learn(num_steps * model.n_envs, callback=list(callbacks), **kwargs)


# The first environment succeeds in its third step, the second fails in the same step.
SUCCESS_AND_FAILURE = [(WALK, STAY), (WALK, STAY), (WALK, GIVE_UP)]
WAIT = [(STAY, STAY)]


def test_failure_is_paid_in_the_transition_that_ended_it():
    model, shaped = learner(SUCCESS_AND_FAILURE + WAIT), ShapedReplayRewards()
    learn(model, 4, shaped)
    # One failure, nothing to rank: half of the weight 0.8.
    np.testing.assert_allclose(model.replay_buffer.rewards[:4], [[0, 0], [0, 0], [1, 0.4], [0, 0]])
    assert (shaped.num_paid, shaped.num_missed) == (1, 0)
    assert [group.num_successes for group in shaped.groups] == [1]


def test_dense_credit_pays_along_the_way_and_each_transition_once():
    # Uncovered of positions 0 1 2 3 are 6, 3, 1, 0. The failure makes its progress in step 0.
    script = [(WALK, WALK), (WALK, STAY), (WALK, GIVE_UP), *WAIT]
    model, shaped = learner(script, encoder=PathEncoder()), ShapedReplayRewards("dense")
    learn(model, 4, shaped)
    expected = np.array([[3 / 6, 0.4], [2 / 6, 0], [1 / 6, 0], [0, 0]])
    np.testing.assert_allclose(model.replay_buffer.rewards[:4], expected, atol=1e-7)
    add_to_replay_buffer(model.replay_buffer, shaped._steps, shaped.groups, "dense")
    np.testing.assert_allclose(model.replay_buffer.rewards[:4], expected, atol=1e-7)


def test_dense_credit_pays_the_part_of_overwritten_transitions_on_the_oldest_one():
    # The success of the group ends in step 5, when the buffer holds the steps from 2 on.
    script = [(STAY, WALK), (STAY, STAY), (STAY, WALK), (WALK, GIVE_UP), (WALK, STAY), (WALK, STAY)]
    model = learner(script, buffer_size=4, encoder=PathEncoder(num_times=9), group_size=2)
    shaped = ShapedReplayRewards("dense")
    for env in model.env.wrapper.env.venv.envs:
        env.limit = 9
    learn(model, 6, shaped)
    (group,) = shaped.groups
    failure = next(e for e in group.episodes if not e.success)
    paid = failure.step_rewards
    assert paid[0] > 0
    assert paid[2] > 0
    rows = {step: row for row, step in enumerate(shaped._steps)}
    found = [model.replay_buffer.rewards[rows[step], 1] for step in (2, 3)]
    np.testing.assert_allclose(found, [paid[:3].sum(), paid[3]], atol=1e-7)
    assert sum(found) == pytest.approx(0.4)


def test_episode_credit_needs_only_the_last_transition_of_an_episode():
    script = [(STAY, WALK), (STAY, WALK), (STAY, GIVE_UP), (WALK, STAY), (WALK, STAY), (WALK, STAY)]
    model = learner(script, buffer_size=4, encoder=PathEncoder(), group_size=2)
    for env in model.env.wrapper.env.venv.envs:
        env.limit = 9
    shaped = ShapedReplayRewards()
    learn(model, 6, shaped)
    rows = {step: row for row, step in enumerate(shaped._steps)}
    assert model.replay_buffer.rewards[rows[2], 1] == pytest.approx(0.4)


def test_dense_credit_of_points_is_refused_before_training():
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        learn(learner(WAIT), 1, ShapedReplayRewards("dense"))


def test_failure_is_paid_when_its_group_closes_many_steps_later():
    # The failure ends in step 0, the success of its group in step 3.
    script = [(STAY, GIVE_UP), (WALK, STAY), (WALK, STAY), (WALK, STAY)]
    model, seen = learner(script), []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append(float(self.model.replay_buffer.rewards[0, 1]))
            return True

    learn(model, 4, ShapedReplayRewards(), Watch())
    assert seen == [0.0] * 4  # a callback comes before its step is stored
    np.testing.assert_allclose(model.replay_buffer.rewards[:4, 1], [0.4, 0, 0, 0])


@pytest.mark.parametrize("buffer_size", [4, 5, 7])
def test_right_cell_is_paid_after_the_buffer_has_wrapped_around(buffer_size):
    num_rounds = 5
    model, shaped = learner(SUCCESS_AND_FAILURE * num_rounds, buffer_size), ShapedReplayRewards()
    learn(model, 3 * num_rounds, shaped)
    expected = np.zeros((buffer_size, 2))
    for step in range(3 * num_rounds):  # written in order, the later ones over the earlier ones
        expected[step % buffer_size] = [1, 0.4] if step % 3 == 2 else [0, 0]
    np.testing.assert_allclose(model.replay_buffer.rewards, expected)
    assert (shaped.num_paid, shaped.num_missed) == (num_rounds, 0)


def test_overwritten_transition_is_not_paid():
    # The failure ends in step 0, and its row is used again in step 3, before the group closes.
    script = [(STAY, GIVE_UP)] + WAIT + 3 * [(WALK, STAY)]
    model, shaped = learner(script, buffer_size=3), ShapedReplayRewards()
    learn(model, 5, shaped)
    np.testing.assert_array_equal(model.replay_buffer.rewards, [[0, 0], [1, 0], [0, 0]])
    assert (shaped.num_paid, shaped.num_missed) == (0, 1)


def test_transition_that_was_not_stored_is_not_paid():
    # The first `learn` ends in a step with two ended episodes, which it does not store.
    stop = StopTrainingOnMaxEpisodes(max_episodes=1)
    model, shaped = learner(SUCCESS_AND_FAILURE * 2), ShapedReplayRewards()
    learn(model, 6, shaped, stop)
    assert model.replay_buffer.pos == 2
    learn(model, 3, shaped, reset_num_timesteps=False)
    np.testing.assert_allclose(
        model.replay_buffer.rewards[:6], [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0.4], [0, 0]]
    )
    assert (shaped.num_paid, shaped.num_missed) == (1, 1)


def test_training_that_is_continued_is_paid_in_the_right_cell():
    model, shaped = learner(SUCCESS_AND_FAILURE * 2 + WAIT, group_size=4), ShapedReplayRewards()
    learn(model, 3, shaped)
    learn(model, 4, shaped, reset_num_timesteps=False)
    rewards = model.replay_buffer.rewards[:7]
    np.testing.assert_array_equal(rewards[:, 0], [0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(rewards[:, 1], [0, 0, 0.4, 0, 0, 0.4, 0])
    assert shaped.num_paid == 2


def test_paid_failure_is_terminal_and_an_unpaid_one_stays_truncated():
    # A time limit of 3 steps: a group with a success, then one of two failures.
    script = [(WALK, STAY)] * 3 + [(STAY, STAY)] * 3
    venv = wrap_vec_env(Scripted(script, limit=3), ReadingEncoder(), group_size=2)
    settings = {"buffer_size": 12, "learning_starts": NEVER, "train_freq": 1, "device": "cpu"}
    model = DQN("MlpPolicy", venv, **settings)
    learn(model, 6, ShapedReplayRewards())
    buffer = model.replay_buffer
    np.testing.assert_allclose(buffer.rewards[[2, 5]], [[1, 0.4], [0, 0]])
    np.testing.assert_array_equal(buffer.dones[[2, 5]], [[1, 1], [1, 1]])
    np.testing.assert_array_equal(buffer.timeouts[[2, 5]], [[0, 0], [1, 1]])


def test_reward_is_not_added_twice():
    model, shaped = learner(SUCCESS_AND_FAILURE), ShapedReplayRewards()
    learn(model, 3, shaped)
    buffer, steps = model.replay_buffer, np.arange(100)
    before = buffer.rewards.copy()
    assert add_to_replay_buffer(buffer, steps, shaped.groups) == (1, 0)
    np.testing.assert_array_equal(buffer.rewards, before)


def test_cell_that_does_not_hold_the_reward_of_the_environment_raises_and_nothing_is_written():
    model, shaped = learner(SUCCESS_AND_FAILURE), ShapedReplayRewards()
    learn(model, 3, shaped)
    buffer = model.replay_buffer
    buffer.rewards[:3] = [[0, 0], [0, 0], [1.5, 0]]  # the success gained a bonus
    with pytest.raises(ValueError, match=r"must hold the reward 1 .* succeeded, got 1\.5"):
        add_to_replay_buffer(buffer, np.arange(100), shaped.groups)
    np.testing.assert_array_equal(buffer.rewards[:3], [[0, 0], [0, 0], [1.5, 0]])


def test_transition_that_is_not_the_end_of_the_episode_raises():
    model, shaped = learner(SUCCESS_AND_FAILURE), ShapedReplayRewards()
    learn(model, 3, shaped)
    buffer = model.replay_buffer
    shifted = np.arange(100) + 1  # as if a transition had been added by something else
    with pytest.raises(ValueError, match=r"last of episode 0, but its `done` is False"):
        add_to_replay_buffer(buffer, shifted, shaped.groups)


def test_failure_must_not_earn_more_than_a_success():
    model, shaped = learner(SUCCESS_AND_FAILURE), ShapedReplayRewards()
    learn(model, 3, shaped)
    (group,) = shaped.groups
    success, failure = group.episodes
    costly = replace(group, episodes=(replace(success, env_return=0.1), failure))
    with pytest.raises(ValueError, match="A failure must not earn more than a success"):
        add_to_replay_buffer(model.replay_buffer, np.arange(100), [costly])


# --- What it can be used with ---


def test_algorithm_trains_on_the_paid_rewards_without_a_warning():
    script = SUCCESS_AND_FAILURE * 50  # more episodes than it takes to suspect a forgotten callback
    model, shaped = learner(script, buffer_size=30, learning_starts=20), ShapedReplayRewards()
    learn(model, 150, shaped)
    assert shaped.num_paid == 50
    sampled = model.replay_buffer.sample(500).rewards.numpy()
    np.testing.assert_allclose(np.unique(sampled), [0, 0.4, 1])


def test_rewards_that_step_returned_already_are_not_added_again():
    venv = wrap_vec_env(Scripted(SUCCESS_AND_FAILURE * 2), ReadingEncoder(), reference="memory")
    settings = {"buffer_size": 200, "learning_starts": NEVER, "train_freq": 1, "device": "cpu"}
    model = DQN("MlpPolicy", venv, **settings)
    learn(model, 6, ShapedReplayRewards())
    np.testing.assert_allclose(model.replay_buffer.rewards[[2, 5]], [[1, 0.4], [1, 0.4]])


def test_algorithm_without_a_replay_buffer_is_refused():
    venv = wrap_vec_env(Scripted(SUCCESS_AND_FAILURE), ReadingEncoder())
    model = PPO("MlpPolicy", venv, n_steps=2, batch_size=2, device="cpu")
    with pytest.raises(TypeError, match="replay buffer, such as SAC, got PPO"):
        learn(model, 2, ShapedReplayRewards())


def test_replay_buffer_that_computes_rewards_is_refused():
    class Her(HerReplayBuffer):
        def __init__(self, *args, **kwargs):  # without an environment that has goals
            ReplayBuffer.__init__(self, *args, **kwargs)

    model = learner(SUCCESS_AND_FAILURE)
    model.replay_buffer = Her(100, model.observation_space, model.action_space, n_envs=2)
    with pytest.raises(TypeError, match="HerReplayBuffer computes new ones"):
        learn(model, 3, ShapedReplayRewards())


def test_environment_without_the_wrapper_is_refused():
    model = DQN("MlpPolicy", Scripted(SUCCESS_AND_FAILURE), buffer_size=20, device="cpu")
    with pytest.raises(TypeError, match="got Scripted: make it with wrap_vec_env"):
        learn(model, 3, ShapedReplayRewards())


def test_scaled_rewards_are_refused():
    venv = wrap_vec_env(Scripted(SUCCESS_AND_FAILURE), ReadingEncoder())
    model = DQN("MlpPolicy", VecNormalize(venv, norm_obs=False), buffer_size=20, device="cpu")
    with pytest.raises(ValueError, match="norm_reward=False"):
        learn(model, 3, ShapedReplayRewards())
