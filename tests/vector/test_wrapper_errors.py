"""Errors of the wrapper and their messages."""

from __future__ import annotations

import gc
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from srpo_env import SelfReferentialProgressWrapper
from tests.corridor import GIVE_UP, STAY, WALK, Corridor, ReadingEncoder, drive, make_corridor, wrap


def test_undeclared_autoreset_mode_raises():
    envs = make_corridor(1)
    envs.metadata = {}
    with pytest.raises(ValueError, match=r"autoreset_mode.*SAME_STEP if the step that ends"):
        wrap(envs)


@pytest.mark.parametrize("envs", [Corridor(), None])
def test_other_than_a_vector_environment_raises_and_names_the_fix(envs):
    with pytest.raises(TypeError, match=r"VectorEnv: use gymnasium.make_vec.* Got <class"):
        wrap(envs)


@pytest.mark.parametrize("encoder", [ReadingEncoder, "pixels", lambda videos: videos])
def test_constructor_raises_without_an_encoder(encoder):
    with pytest.raises(TypeError, match=r"`latent_shape` and `encode\(videos\)`, .* got"):
        SelfReferentialProgressWrapper(make_corridor(1), encoder)


def test_settings_may_be_numpy_integers():
    class Encoder(ReadingEncoder):
        latent_shape = (np.int64(2),)

    settings = {"group_size": 2, "max_frames": 4, "memory_size": 8}
    counted = {name: np.int64(value) for name, value in settings.items()}
    saved = wrap(make_corridor(1), Encoder(), **counted).state_dict()
    wrap(make_corridor(1), Encoder(), **settings).load_state_dict(saved)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"group_size": 0}, "`group_size` .* at least 1, got 0"),
        ({"group_size": 2.5}, "`group_size` must be an integer .*, got 2.5"),
        ({"max_frames": "64"}, "`max_frames` must be an integer .*, got '64'"),
        ({"max_frames": 1}, "at least 2, got 1"),
        ({"reference": "tasks"}, "got 'tasks'"),
        ({"memory_size": 0}, "at least 1, got 0"),
    ],
)
def test_setting_out_of_range_raises_and_states_the_rule(setting, message):
    with pytest.raises(ValueError, match=message):
        wrap(make_corridor(1), **setting)


def test_step_before_reset_raises():
    with pytest.raises(gymnasium.error.ResetNeeded):
        wrap(make_corridor(1)).step(np.array([WALK]))


def test_close_may_be_repeated_and_use_after_it_raises(vector):
    envs = wrap(make_corridor(2, vector=vector, render=True), group_size=2)
    envs.reset(seed=0)
    list(drive(envs, [[GIVE_UP, GIVE_UP]]))
    envs.close()
    envs.close()
    assert envs.closed
    for use in (
        lambda: envs.step(np.array([WALK, WALK])),
        envs.reset,
        envs.render,
        lambda: envs.call("limit"),
        lambda: envs.get_attr("limit"),
        lambda: envs.set_attr("limit", 3),
    ):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make new ones"):
            use()
    assert len(envs.pop_groups()) == 1


def test_environments_stay_open_when_a_wrapper_of_them_is_deleted(vector):
    envs = make_corridor(2, vector=vector)
    wrapped = wrap(envs)
    wrapped.reset(seed=0)
    del wrapped
    with pytest.raises(ValueError, match="group_size"):
        wrap(envs, group_size=0)
    gc.collect()
    envs.step(np.array([WALK, WALK]))
    envs.close()


def test_calls_and_attributes_reach_the_environments(vector):
    envs = wrap(make_corridor(2, vector=vector))
    envs.reset(seed=0)
    assert envs.get_attr("slot") == (0, 1)
    envs.set_attr("limit", [3, 4])
    assert envs.call("limit") == (3, 4)
    assert len(envs.call("render")) == 2
    envs.close()


def test_environment_that_repeats_its_last_transition_raises():
    class Frozen(Corridor):
        """Repeats its last transition until it is reset, as lerobot's wrapper does."""

        def reset(self, **kwargs):
            if self.num_resets and self.last[2]:
                self.num_resets += 1
                return self.last[0], {}
            return super().reset(**kwargs)

        def step(self, action):
            self.last = super().step(action)
            return self.last

    class Replaying(SyncVectorEnv):
        def step(self, actions):
            observations, rewards, terminations, truncations, infos = super().step(actions)
            frozen = np.array([env.num_resets > 1 for env in self.envs])
            return observations, rewards, terminations | frozen, truncations, infos

    envs = wrap(Replaying([Frozen]))
    envs.reset()
    list(drive(envs, [[GIVE_UP]]))
    with pytest.raises(RuntimeError, match="ended again in the step that should have reset it"):
        envs.step(np.array([STAY]))


def test_same_step_without_final_observation_raises():
    class Forgetful(SyncVectorEnv):
        def step(self, actions):
            *result, infos = super().step(actions)
            infos.pop("final_obs", None)
            return *result, infos

    envs = wrap(Forgetful([Corridor], autoreset_mode=AutoresetMode.SAME_STEP))
    envs.reset()
    with pytest.raises(ValueError, match=r"infos\['final_obs'\]"):
        envs.step(np.array([GIVE_UP]))


def test_non_finite_latent_raises_and_names_the_episode():
    class Broken(ReadingEncoder):
        def encode(self, videos):
            return super().encode(videos) * np.nan

    envs = wrap(make_corridor(1), Broken(), group_size=1)
    envs.reset()
    with pytest.raises(ValueError, match="episode 0 of environment 0"):
        envs.step(np.array([GIVE_UP]))


def test_tasks_that_only_the_step_info_contains_raise():
    class Late(Corridor):
        def reset(self, **kwargs):
            observation, _ = super().reset(**kwargs)
            return observation, {}

        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "task_id": self.slot}

    envs = wrap(SyncVectorEnv([partial(Late, slot) for slot in range(2)]))
    envs.reset()
    with pytest.raises(ValueError, match="only the info of `step` names the task"):
        envs.step(np.array([GIVE_UP, GIVE_UP]))
