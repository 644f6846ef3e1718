"""Stable-Baselines3: conversion in both directions, and its algorithms on shaped rewards."""

from __future__ import annotations

import copy
import gc
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

pytest.importorskip(
    "stable_baselines3",
    reason="Stable-Baselines3 is not installed: pip install 'srpo-env[sb3]'",
)

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
)

from srpo_env import RenderInInfo, SelfReferentialProgressWrapper
from srpo_env.adapters import stable_baselines3
from srpo_env.adapters.stable_baselines3 import (
    GymnasiumToVecEnv,
    ShapedRewards,
    VecEnvToGymnasium,
    wrap_vec_env,
)
from tests.corridor import (
    GIVE_UP,
    STAY,
    WALK,
    Corridor,
    PathEncoder,
    ReadingEncoder,
    async_vector_env,
    make_corridor,
)
from tests.snippets import python_blocks


def corridors(num_envs=2, kind=DummyVecEnv, **kwargs):
    return kind([partial(Corridor, slot, **kwargs) for slot in range(num_envs)])


def shaped(envs, encoder=None, **kwargs):
    encoder = encoder or ReadingEncoder()
    return GymnasiumToVecEnv(SelfReferentialProgressWrapper(envs, encoder, **kwargs))


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
def test_failure_in_a_wrapped_vec_env_is_paid_on_its_last_step(kind, as_dict):
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


def test_infos_of_a_step_that_resets_describe_the_next_episode():
    envs = VecEnvToGymnasium(corridors())
    envs.reset(options={"task_id": [4, 7]})
    *_, infos = envs.step(np.array([STAY, GIVE_UP]))
    # The reset in the step has no options, so the task is 0.
    np.testing.assert_array_equal(infos["task_id"], [0, 0])
    np.testing.assert_array_equal(infos["_task_id"], [False, True])
    np.testing.assert_array_equal(infos["_final_obs"], [False, True])
    np.testing.assert_array_equal(infos["final_obs"][1][0, 0], [0, 1, 1])


def test_time_limit_is_a_truncation():
    envs = VecEnvToGymnasium(corridors(limit=1))
    envs.reset()
    _, _, terminations, truncations, _ = envs.step(np.array([STAY, GIVE_UP]))
    np.testing.assert_array_equal(terminations, [False, True])
    np.testing.assert_array_equal(truncations, [True, False])


@pytest.mark.parametrize(
    "make",
    [
        lambda: VecEnvToGymnasium(corridors()),
        lambda: make_corridor(mode=AutoresetMode.SAME_STEP),
        lambda: make_corridor(mode=AutoresetMode.SAME_STEP, vector=async_vector_env),
    ],
    ids=["vec_env", "sync", "async"],
)
def test_attributes_and_methods_of_sub_environments(make):
    venv = shaped(make())
    assert venv.get_attr("slot") == [0, 1]
    assert venv.get_attr("slot", indices=1) == [1]
    venv.set_attr("limit", 2)
    assert venv.get_attr("limit") == [2, 2]
    venv.reset()
    assert [image[0, 0].tolist() for image in venv.env_method("render")] == [[0, 0, 0], [0, 0, 1]]
    venv.set_attr("limit", 3, indices=1)
    venv.set_attr("limit", 4, indices=[0])
    assert venv.get_attr("limit") == [4, 3]
    if isinstance(venv.envs.unwrapped, AsyncVectorEnv):
        with pytest.raises(ValueError, match=r"all sub-environments only, got indices \[1\]"):
            venv.env_method("render", indices=[1])
    else:
        (image,) = venv.env_method("render", indices=[1])
        assert image[0, 0].tolist() == [0, 0, 1]
    venv.close()


@pytest.mark.parametrize("vector", [SyncVectorEnv, async_vector_env])
def test_missing_attribute_does_not_end_the_workers(vector):
    venv = shaped(make_corridor(mode=AutoresetMode.SAME_STEP, vector=vector))
    assert venv.has_attr("limit")
    assert not venv.has_attr("missing")
    with pytest.raises(AttributeError, match="missing"):
        venv.get_attr("missing")
    with pytest.raises(AttributeError, match="missing"):
        venv.env_method("missing")
    venv.reset()
    venv.step(np.array([WALK, WALK]))
    venv.close()


def test_vec_env_without_terminal_observations_is_an_error():
    class Forgetful(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            *rest, infos = self.venv.step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
            return *rest, infos

    envs = VecEnvToGymnasium(Forgetful(corridors()))
    envs.reset()
    with pytest.raises(ValueError, match=r"last observation .*'terminal_observation'\]"):
        envs.step(np.array([STAY, GIVE_UP]))


def test_partial_resets_and_unordered_seeds_are_refused():
    envs = VecEnvToGymnasium(corridors())
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match=r"counts up .* got \[3, 3\]"):
        envs.reset(seed=[3, 3])


def test_venv_stays_open_when_its_adapter_is_deleted_and_wrong_ones_raise_once():
    class Counting(DummyVecEnv):
        num_closed = 0

        def close(self):
            self.num_closed += 1
            super().close()

    venv = corridors(kind=Counting)
    envs = VecEnvToGymnasium(venv)
    del envs
    with pytest.raises(TypeError, match="must be a VecEnv"):
        VecEnvToGymnasium(make_corridor())
    gc.collect()  # pytest turns an exception of a destructor into a warning, and that into an error
    assert venv.num_closed == 0
    VecEnvToGymnasium(venv).close()
    assert venv.num_closed == 1


# --- Gymnasium -> VecEnv ---


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_end_of_an_episode_is_returned_as_stable_baselines_expects_it(vector, mode, as_dict):
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
def test_time_limits_are_not_bootstrapped(mode):
    venv = shaped(make_corridor(mode=mode, limit=1))
    venv.reset()
    *_, infos = venv.step(np.array([STAY, GIVE_UP]))
    assert [info["truncated"] for info in infos] == [True, False]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False]


def test_next_step_autoreset_is_refused_with_code_that_works():
    with pytest.raises(ValueError, match=r'vector_kwargs=\{"autoreset_mode": .*DISABLED\}'):
        shaped(make_corridor(mode=AutoresetMode.NEXT_STEP))
    gymnasium.register("Corridor-v0", Corridor, disable_env_checker=True)
    kwargs = {"vector_kwargs": {"autoreset_mode": AutoresetMode.DISABLED}, "render": True}
    envs = gymnasium.make_vec("Corridor-v0", 2, vectorization_mode="sync", **kwargs)
    gymnasium.registry.pop("Corridor-v0")
    short_ppo(shaped(envs, frames="render")).learn(32, callback=ShapedRewards())


def test_render_frames_are_refused_with_code_that_works():
    with pytest.raises(ValueError, match=r"wrapper_class=srpo_env.RenderInInfo"):
        wrap_vec_env(corridors(), ReadingEncoder(), frames="render")
    venv = make_vec_env(Corridor, n_envs=2, env_kwargs={"render": True}, wrapper_class=RenderInInfo)
    venv = wrap_vec_env(venv, ReadingEncoder(), frames="info/rendered")
    short_ppo(venv).learn(32, callback=ShapedRewards())


def test_vector_environment_of_gymnasium_is_refused_by_wrap_vec_env():
    with pytest.raises(TypeError, match="must be a VecEnv of Stable-Baselines3"):
        wrap_vec_env(make_corridor(), ReadingEncoder())


def test_environments_without_the_wrapper_are_refused():
    with pytest.raises(ValueError, match="must have a SelfReferentialProgressWrapper"):
        GymnasiumToVecEnv(make_corridor(mode=AutoresetMode.SAME_STEP))


def test_options_apply_to_the_next_reset_only():
    venv = shaped(make_corridor(mode=AutoresetMode.SAME_STEP))
    venv.set_options({"task_id": [4, 7]})
    venv.reset()
    assert [info["task_id"] for info in venv.reset_infos] == [4, 7]
    venv.reset()
    assert [info["task_id"] for info in venv.reset_infos] == [0, 0]
    venv.set_options([{"task_id": 1}, {"task_id": 2}])
    with pytest.raises(ValueError, match="one set of options for all"):
        venv.reset()


def test_rendered_frames_work_with_disabled_autoreset():
    envs = make_corridor(mode=AutoresetMode.DISABLED, render=True)
    venv = shaped(envs, frames="render", group_size=2)
    venv.reset()
    for actions in ([WALK, STAY], [WALK, STAY], [WALK, GIVE_UP]):
        venv.step(np.array(actions))
    (group,) = venv.wrapper.pop_groups()
    assert [episode.distance for episode in group.episodes] == [0.0, 3.0]


# --- Training ---


class Keep(BaseCallback):
    """Keeps the groups and the buffer that training uses."""

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


def test_examples_of_the_module_run():
    class BriefPPO:
        def __init__(self, policy, venv):
            self.model = short_ppo(venv)

        def learn(self, total_timesteps, callback):
            self.model.learn(32, callback=callback)
            assert callback.groups

    def make_corridors(env_id=None, n_envs=2, **kwargs):
        return make_vec_env(Corridor, n_envs, env_kwargs={"render": True}, **kwargs)

    names = {"make_vec_env": make_corridors, "encoder": ReadingEncoder(), "PPO": BriefPPO}
    names |= {name: globals()[name] for name in ("wrap_vec_env", "ShapedRewards", "RenderInInfo")}
    with_image, rendered = python_blocks(stable_baselines3.__doc__)
    exec(with_image, names)
    exec(rendered, names)
    short_ppo(names["venv"]).learn(2 * 16, callback=ShapedRewards())


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
def test_returns_are_those_of_the_shaped_rewards(make, algorithm):
    venv = make()
    if algorithm is PPO:
        model = short_ppo(venv)
    else:
        settings = {"n_steps": 16, "gamma": 1.0, "gae_lambda": 1.0}
        model = A2C("MlpPolicy", venv, seed=0, device="cpu", **settings)
    shaped_rewards = ShapedRewards()
    keep = Keep(shaped_rewards)
    model.learn(3 * 4 * 16, callback=[shaped_rewards, keep])
    paid = 0
    assert len(keep.rollouts) == 3
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


class MaskedCorridor(Corridor):
    """May not give up."""

    def action_masks(self):
        return np.array([True, True, False])


ALGORITHMS = {
    "PPO": lambda venv, **kwargs: PPO("MlpPolicy", venv, batch_size=16, n_epochs=1, **kwargs),
    "A2C": lambda venv, **kwargs: A2C("MlpPolicy", venv, **kwargs),
    "TRPO": lambda venv, **kwargs: sb3_contrib().TRPO("MlpPolicy", venv, batch_size=16, **kwargs),
    "RecurrentPPO": lambda venv, **kwargs: sb3_contrib().RecurrentPPO(
        "MlpLstmPolicy", venv, batch_size=16, n_epochs=1, **kwargs
    ),
    "MaskablePPO": lambda venv, **kwargs: sb3_contrib().MaskablePPO(
        "MlpPolicy", venv, batch_size=16, n_epochs=1, **kwargs
    ),
}


def sb3_contrib():
    return pytest.importorskip(
        "sb3_contrib", reason="sb3-contrib is not installed: pip install 'srpo-env[dev]'"
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("pays", ["episode", "dense", None])
def test_advantages_are_those_that_stable_baselines_computes(monkeypatch, algorithm, pays):
    """Compares with Stable-Baselines3's own computation, from the shaped rewards."""
    last = {}
    compute = RolloutBuffer.compute_returns_and_advantage

    def spy(buffer, last_values, dones):
        last.update(last_values=last_values, dones=dones)
        compute(buffer, last_values, dones)

    monkeypatch.setattr(RolloutBuffer, "compute_returns_and_advantage", spy)

    class Compare(BaseCallback):
        def _on_rollout_start(self):
            self.rollout_ended = False

        def _on_step(self):
            return True

        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            expected = copy.deepcopy(buffer)
            compute(expected, **last)
            np.testing.assert_allclose(buffer.advantages, expected.advantages, atol=1e-5)
            np.testing.assert_allclose(buffer.returns, expected.returns, atol=1e-5)
            rewards.append(buffer.rewards.copy())

    rewards = []
    envs = SyncVectorEnv(
        [partial(MaskedCorridor, slot) for slot in range(4)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    # A failure is paid only in a group with a success, and no group of one episode has both.
    venv = shaped(envs, PathEncoder(), group_size=4 if pays else 1)
    settings = {"n_steps": 16, "gamma": 0.9, "gae_lambda": 0.8, "seed": 0, "device": "cpu"}
    model = ALGORITHMS[algorithm](venv, **settings)
    model.learn(2 * 4 * 16, callback=[ShapedRewards(pays or "episode"), Compare()])
    values = np.unique(rewards)
    assert len(rewards) == 2
    assert (values[(values > 0) & (values < 1)].size > 0) == bool(pays)


def test_dense_credit_of_points_is_refused_before_training():
    venv = wrap_vec_env(corridors(), ReadingEncoder())
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        short_ppo(venv).learn(32, callback=ShapedRewards("dense"))


def test_advantages_are_unchanged_to_the_bit_if_nothing_is_paid():
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=1)
    plain = make_corridor(4, mode=AutoresetMode.SAME_STEP)
    buffers = []
    for callback in (ShapedRewards(), None):
        if callback is None:
            venv = GymnasiumToVecEnv(SelfReferentialProgressWrapper(plain, ReadingEncoder()))
            venv.rewards_are_fetched = True
        model = short_ppo(venv, gamma=0.9, gae_lambda=0.8)
        model.learn(4 * 16, callback=callback)
        buffers.append((model.rollout_buffer.advantages, model.rollout_buffer.returns))
    np.testing.assert_array_equal(*buffers)


def test_buffer_with_another_advantage_estimator_is_refused():
    class OtherBuffer(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values, dones):
            pass

    venv = shaped(make_corridor(mode=AutoresetMode.SAME_STEP))
    model = short_ppo(venv, rollout_buffer_class=OtherBuffer)
    with pytest.raises(TypeError, match="OtherBuffer overrides `compute_returns_and_advantage`"):
        model.learn(32, callback=ShapedRewards())


# --- A forgotten callback ---


@pytest.mark.parametrize("reference", ["group", "task"])
def test_forgotten_callback_is_warned_about_once(reference):
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), reference=reference)
    with pytest.warns(UserWarning, match=r"callback=ShapedRewards\(\)") as warned:
        short_ppo(venv).learn(1000)
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("reference", "callback", "is_fetched"),
    [("group", True, False), ("memory", False, False), ("group", False, True)],
    ids=["callback", "memory", "own code"],
)
def test_no_warning_where_the_rewards_are_fetched(reference, callback, is_fetched):
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), reference=reference)
    venv.rewards_are_fetched |= is_fetched
    short_ppo(venv).learn(1000, callback=ShapedRewards() if callback else None)


# --- Logging, saving ---


def test_group_statistics_are_logged():
    venv = shaped(make_corridor(4, mode=AutoresetMode.SAME_STEP), group_size=4)
    shaped_rewards = ShapedRewards()
    keep = Keep(shaped_rewards)
    short_ppo(venv).learn(4 * 16, callback=[shaped_rewards, keep])
    groups = shaped_rewards.groups
    episodes = [episode for group in groups for episode in group.episodes]
    assert keep.logged["srpo/num_groups"] == len(groups) > 0
    assert keep.logged["srpo/success_rate"] == np.mean([episode.success for episode in episodes])
    assert keep.logged["srpo/failures_above_success"] == 0


def test_training_continues_from_a_saved_model_and_wrapper_state(tmp_path):
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


def test_replay_buffer_gets_the_rewards_of_the_memory_reference():
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
    with pytest.raises(TypeError, match=r"DQN; .*ShapedReplayRewards"):
        model.learn(1, callback=ShapedRewards())


def test_vec_monitor_and_evaluate_policy_work():
    venv = VecMonitor(shaped(make_corridor(2, mode=AutoresetMode.SAME_STEP)))
    model = short_ppo(venv)
    model.learn(64, callback=ShapedRewards())
    returns, lengths = evaluate_policy(model, venv, n_eval_episodes=3, return_episode_rewards=True)
    assert len(returns) == 3
    assert all(0 < length <= 5 for length in lengths)


def test_wrappers_of_sub_environments_are_found():
    venv = shaped(VecEnvToGymnasium(make_vec_env(Corridor, n_envs=2)))
    assert venv.env_is_wrapped(Monitor) == [True, True]
    assert (
        shaped(make_corridor(mode=AutoresetMode.SAME_STEP)).env_is_wrapped(Monitor) == [False] * 2
    )


def test_scaled_rewards_are_refused():
    with pytest.raises(ValueError, match="norm_reward=False"):
        VecEnvToGymnasium(VecNormalize(corridors(), norm_obs=False))
    outside = VecNormalize(shaped(make_corridor(mode=AutoresetMode.SAME_STEP)), norm_obs=False)
    with pytest.raises(ValueError, match="norm_reward=False"):
        short_ppo(outside).learn(16, callback=ShapedRewards())


def test_callback_needs_a_wrapped_environment():
    with pytest.raises(TypeError, match=r"needs a GymnasiumToVecEnv .* got DummyVecEnv"):
        short_ppo(corridors()).learn(16, callback=ShapedRewards())
