"""Stable-Baselines3 in both directions, and its own PPO on the shaped rewards."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

pytest.importorskip(
    "stable_baselines3",
    reason="Stable-Baselines3 is not installed: pip install 'srpo-env[sb3]'",
)

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecMonitor,
    VecNormalize,
)

from srpo_env import SelfReferentialProgressWrapper
from srpo_env.adapters import stable_baselines3
from srpo_env.adapters.stable_baselines3 import (
    GymnasiumToVecEnv,
    ShapedRewards,
    VecEnvToGymnasium,
    wrap_vec_env,
)
from tests.corridor import GIVE_UP, STAY, WALK, Corridor, ReadingEncoder, make_corridor
from tests.snippets import python_blocks


def corridors(num_envs=2, kind=DummyVecEnv, **kwargs):
    return kind([partial(Corridor, slot, **kwargs) for slot in range(num_envs)])


def shaped(envs, **kwargs):
    return GymnasiumToVecEnv(SelfReferentialProgressWrapper(envs, ReadingEncoder(), **kwargs))


def short_ppo(venv, **kwargs):
    # With gamma and lambda of 1 the buffer's return is the plain sum of the rewards to the end.
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "gamma": 1.0, "gae_lambda": 1.0}
    return PPO("MlpPolicy", venv, seed=0, device="cpu", **{**settings, **kwargs})


# --- VecEnv -> Gymnasium ---


@pytest.mark.parametrize(
    ("kind", "as_dict"),
    [(DummyVecEnv, False), (DummyVecEnv, True), (SubprocVecEnv, True)],
    ids=["dummy-box", "dummy-dict", "subproc-dict"],
)
def test_a_vec_env_can_be_wrapped_and_its_failure_is_paid_on_its_last_step(kind, as_dict):
    envs = VecEnvToGymnasium(corridors(kind=kind, as_dict=as_dict))
    envs = SelfReferentialProgressWrapper(envs, ReadingEncoder(), group_size=2)
    envs.reset(seed=0)
    rewards = [
        envs.step(np.array(actions))[1] for actions in ([WALK, STAY], [WALK, STAY], [WALK, GIVE_UP])
    ]
    buffer = np.array(rewards)
    np.testing.assert_array_equal(buffer, [[0, 0], [0, 0], [1, 0]])
    (group,) = envs.pop_groups()
    # Last seen at position 0 against 3, after the same 4 frames: the last one is not the next
    # episode's first, which Stable-Baselines3 returns in its place.
    assert [episode.distance for episode in group.episodes] == [0.0, 3.0]
    assert envs.rewrite(buffer) == 1
    np.testing.assert_array_equal(buffer, [[0, 0], [0, 0], [1, 0.4]])
    envs.close()


def test_the_info_of_a_reset_within_a_step_tells_the_next_episodes_task():
    envs = VecEnvToGymnasium(corridors())
    envs.reset(options={"task_id": [4, 7]})
    *_, infos = envs.step(np.array([STAY, GIVE_UP]))
    # The reset in the step has no options, so the task is 0; the ended episode's was not repeated.
    np.testing.assert_array_equal(infos["task_id"], [0, 0])
    np.testing.assert_array_equal(infos["_task_id"], [False, True])
    np.testing.assert_array_equal(infos["_final_obs"], [False, True])
    np.testing.assert_array_equal(infos["final_obs"][1][0, 0], [0, 1, 1])


def test_an_end_by_the_time_limit_is_a_truncation_to_gymnasium():
    envs = VecEnvToGymnasium(corridors(limit=1))
    envs.reset()
    _, _, terminations, truncations, _ = envs.step(np.array([STAY, GIVE_UP]))
    np.testing.assert_array_equal(terminations, [False, True])
    np.testing.assert_array_equal(truncations, [True, False])


def test_calls_reach_the_environments_in_both_directions():
    venv = shaped(VecEnvToGymnasium(corridors()))
    assert venv.get_attr("slot") == [0, 1]
    assert venv.get_attr("slot", indices=1) == [1]
    venv.set_attr("limit", 2)
    assert venv.get_attr("limit") == [2, 2]
    venv.reset()
    assert [image[0, 0].tolist() for image in venv.env_method("render")] == [[0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="all sub-environments at once, got indices 0"):
        venv.env_method("render", indices=0)


def test_stable_baselines_cannot_reset_some_environments_only():
    envs = VecEnvToGymnasium(corridors())
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match=r"counts up .* got \[3, 3\]"):
        envs.reset(seed=[3, 3])


# --- Gymnasium -> VecEnv ---


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_an_end_is_returned_as_stable_baselines_expects_it(vector, mode, as_dict):
    venv = shaped(make_corridor(vector=vector, mode=mode, as_dict=as_dict), group_size=2)
    venv.seed(0)
    venv.reset()
    assert [info["task_id"] for info in venv.reset_infos] == [0, 0]
    observations, rewards, dones, infos = venv.step(np.array([WALK, GIVE_UP]))
    if as_dict:
        observations = observations["agentview"]
        infos[1]["terminal_observation"] = infos[1]["terminal_observation"]["agentview"]
    np.testing.assert_array_equal(dones, [False, True])
    np.testing.assert_array_equal(rewards, [0, 0])
    assert rewards.dtype == np.float32
    # Position, time and slot: the next episode's first frame is returned, the last is in the info.
    np.testing.assert_array_equal(observations[:, 0, 0], [[1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(infos[1]["terminal_observation"][0, 0], [0, 1, 1])
    assert "terminal_observation" not in infos[0]
    assert (infos[1]["is_success"], infos[1]["episode_id"], infos[1]["env_reward"]) == (False, 1, 0)
    assert set(venv.reset_infos[1]) >= {"task_id", "init_state_id"}
    assert set(venv.reset_infos[1]).isdisjoint({"episode_id", "env_reward", "is_success"})
    venv.close()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_time_limit_is_no_reason_to_add_the_value_of_the_last_state(mode):
    venv = shaped(make_corridor(mode=mode, limit=1))
    venv.reset()
    *_, infos = venv.step(np.array([STAY, GIVE_UP]))
    assert [info["truncated"] for info in infos] == [True, False]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False]


def test_a_reset_in_the_next_step_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"autoreset_mode=AutoresetMode.SAME_STEP"):
        shaped(make_corridor(mode=AutoresetMode.NEXT_STEP))


def test_environments_without_the_wrapper_are_refused():
    with pytest.raises(ValueError, match="must have a SelfReferentialProgressWrapper"):
        GymnasiumToVecEnv(make_corridor(mode=AutoresetMode.SAME_STEP))


def test_options_reach_the_next_reset_only():
    venv = shaped(make_corridor(mode=AutoresetMode.SAME_STEP))
    venv.set_options({"task_id": [4, 7]})
    venv.reset()
    assert [info["task_id"] for info in venv.reset_infos] == [4, 7]
    venv.reset()
    assert [info["task_id"] for info in venv.reset_infos] == [0, 0]
    venv.set_options([{"task_id": 1}, {"task_id": 2}])
    with pytest.raises(ValueError, match="one set of options for all"):
        venv.reset()


def test_rendered_frames_work_with_a_policy_that_sees_no_image():
    envs = make_corridor(mode=AutoresetMode.DISABLED, render=True)
    venv = shaped(envs, frames="render", group_size=2)
    venv.reset()
    for actions in ([WALK, STAY], [WALK, STAY], [WALK, GIVE_UP]):
        venv.step(np.array(actions))
    (group,) = venv.wrapper.pop_groups()
    assert [episode.distance for episode in group.episodes] == [0.0, 3.0]


# --- Training ---


class Keep(BaseCallback):
    """Keeps the groups and the buffer as training will use them."""

    def __init__(self, shaped_rewards):
        super().__init__()
        self.shaped_rewards = shaped_rewards
        self.rollouts = []
        self.logged = {}

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.rollouts.append(
            (self.shaped_rewards.groups, buffer.returns.copy(), buffer.advantages + buffer.values)
        )
        self.logged = dict(self.logger.name_to_value)


def test_the_example_of_the_module_runs():
    class BriefPPO:
        def __init__(self, policy, venv):
            self.model = short_ppo(venv)

        def learn(self, total_timesteps, callback):
            self.model.learn(32, callback=callback)
            assert callback.groups

    (block,) = python_blocks(stable_baselines3.__doc__)
    names = {"make_vec_env": lambda _: corridors(), "encoder": ReadingEncoder(), "PPO": BriefPPO}
    exec(block, {**names, "wrap_vec_env": wrap_vec_env, "ShapedRewards": ShapedRewards})


@pytest.mark.parametrize(
    "make",
    [
        lambda: wrap_vec_env(corridors(4), ReadingEncoder(), group_size=4),
        lambda: shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=4),
        lambda: shaped(make_corridor(4, mode=AutoresetMode.DISABLED), group_size=4),
    ],
    ids=["vec_env", "same_step", "disabled"],
)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_advantages_are_computed_from_the_shaped_rewards(make, algorithm):
    venv = make()
    if algorithm is PPO:
        model = short_ppo(venv)
    else:
        settings = {"n_steps": 16, "gamma": 1.0, "gae_lambda": 1.0}
        model = A2C("MlpPolicy", venv, seed=0, device="cpu", **settings)
    shaped_rewards = ShapedRewards()
    keep = Keep(shaped_rewards)
    model.learn(2 * 4 * 16, callback=[shaped_rewards, keep])
    paid = 0
    assert len(keep.rollouts) == 2
    for number, (groups, returns, from_advantages) in enumerate(keep.rollouts):
        np.testing.assert_allclose(returns, from_advantages, atol=1e-6)
        for episode in (episode for group in groups for episode in group.episodes):
            paid += not episode.success and episode.progress_reward > 0
            # A success returns 1 and a failure its progress, whatever cut it off: the value of the
            # state after a time limit is not added.
            row = max(episode.first_step - 16 * number, 0)
            expected = episode.progress_reward
            assert returns[row, episode.env_index] == pytest.approx(expected, abs=1e-5)
    assert paid > 10


def test_figures_of_the_signal_are_logged():
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=4)
    shaped_rewards = ShapedRewards()
    keep = Keep(shaped_rewards)
    short_ppo(venv).learn(4 * 16, callback=[shaped_rewards, keep])
    groups = shaped_rewards.groups
    episodes = [episode for group in groups for episode in group.episodes]
    assert keep.logged["srpo/num_groups"] == len(groups) > 0
    assert keep.logged["srpo/success_rate"] == np.mean([episode.success for episode in episodes])
    assert keep.logged["srpo/failures_above_success"] == 0


def test_a_saved_model_and_the_wrappers_state_continue_together(tmp_path):
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=4)
    model = short_ppo(venv)
    model.learn(4 * 16, callback=ShapedRewards())
    model.save(tmp_path / "model.zip")
    torch = pytest.importorskip("torch")
    torch.save(venv.wrapper.state_dict(), tmp_path / "wrapper.pt")

    other = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=4)
    other.wrapper.load_state_dict(torch.load(tmp_path / "wrapper.pt", weights_only=True))
    assert other.wrapper.step_count == venv.wrapper.step_count == 16
    loaded = PPO.load(tmp_path / "model.zip", env=other, device="cpu")
    observations = other.reset()
    chosen = [each.policy.predict(observations, deterministic=True)[0] for each in (model, loaded)]
    np.testing.assert_array_equal(*chosen)
    loaded.learn(4 * 16, callback=ShapedRewards(), reset_num_timesteps=False)
    assert loaded.num_timesteps == 2 * 4 * 16


def test_a_replay_buffer_gets_the_rewards_of_the_memory():
    venv = shaped(make_corridor(2, mode=AutoresetMode.SAME_STEP), reference="memory")
    model = DQN(
        "MlpPolicy",
        venv,
        learning_starts=0,
        buffer_size=200,
        exploration_fraction=1.0,
        seed=0,
        device="cpu",
    )
    model.learn(200)
    rewards = model.replay_buffer.rewards[:100]
    assert ((rewards > 0) & (rewards < 0.8)).any()
    with pytest.raises(TypeError, match=r'DQN; .* reference="memory"'):
        model.learn(1, callback=ShapedRewards())


def test_stable_baselines_own_wrappers_and_evaluation_work_on_top():
    venv = VecMonitor(shaped(make_corridor(2, mode=AutoresetMode.SAME_STEP)))
    model = short_ppo(venv)
    model.learn(64, callback=ShapedRewards())
    returns, lengths = evaluate_policy(model, venv, n_eval_episodes=3, return_episode_rewards=True)
    assert len(returns) == 3
    assert all(0 < length <= 5 for length in lengths)


def test_a_monitor_inside_is_found():
    venv = shaped(VecEnvToGymnasium(make_vec_env(Corridor, n_envs=2)))
    assert venv.env_is_wrapped(Monitor) == [True, True]
    assert (
        shaped(make_corridor(mode=AutoresetMode.SAME_STEP)).env_is_wrapped(Monitor) == [False] * 2
    )


def test_scaled_rewards_are_refused_inside_and_outside():
    with pytest.raises(ValueError, match="norm_reward=False"):
        VecEnvToGymnasium(VecNormalize(corridors(), norm_obs=False))
    outside = VecNormalize(shaped(make_corridor(mode=AutoresetMode.SAME_STEP)), norm_obs=False)
    with pytest.raises(ValueError, match="norm_reward=False"):
        short_ppo(outside).learn(16, callback=ShapedRewards())


def test_the_callback_needs_the_wrapper_innermost():
    with pytest.raises(TypeError, match=r"needs a GymnasiumToVecEnv .* got DummyVecEnv"):
        short_ppo(corridors()).learn(16, callback=ShapedRewards())
