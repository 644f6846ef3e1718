"""Input from callers, wrappers and other libraries gives the right reward or a clear error."""

from __future__ import annotations

import tracemalloc

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import TransformReward

from srpo_env import PixelEncoder, ProgressReward, SelfReferentialProgressWrapper
from srpo_env.rewards.distances import coverage_distance

SHAPED = [1.0, 0.607, 0.430, 0.172]
"""Returns of a success and of failures that stopped after 3, 1 and 0 steps"""


class Toy(gym.Env):
    """Action 1 walks; the goal is 5 steps away, the limit is 8 steps."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    pay = 1.0

    def obs(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[2:6, 2 * self.x : 2 * self.x + 3] = 255
        return frame

    def reset(self, *, seed=None, options=None):
        self.x = self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        self.x += int(action == 1)
        success = self.x >= 5
        truncated = self.t >= 8 and not success
        return self.obs(), self.pay * success, success, truncated, {"is_success": success}


class Other(Toy):
    """Another task."""


def make(mode=AutoresetMode.SAME_STEP, env=Toy, num_envs=4):
    return SyncVectorEnv([env] * num_envs, autoreset_mode=mode)


def wrap(envs, encoder=None, **settings):
    settings = {"group_size": 4, **settings}
    wrapped = SelfReferentialProgressWrapper(envs, encoder or PixelEncoder(), **settings)
    wrapped.reset(seed=0)
    return wrapped


def play(envs, reach=(5, 3, 1, 0), num_steps=8):
    """Slot 0 succeeds at step 4; the others fail at step 7. With SAME_STEP slot 0 starts again."""
    rows = [envs.step(np.array([int(t % 8 < r) for r in reach]))[1] for t in range(num_steps)]
    return np.array(rows, float)


def test_failures_earn_more_the_nearer_they_came():
    envs = wrap(make())
    rewards = play(envs)
    assert envs.rewrite(rewards) == 3
    np.testing.assert_allclose(rewards.sum(axis=0), SHAPED, atol=0.001)


# --- Exceptions in the encoder and the distance ---


class FailsOnce(PixelEncoder):
    """Runs out of memory in its first call."""

    num_calls = 0

    def encode(self, videos):
        self.num_calls += 1
        if self.num_calls == 1:
            raise RuntimeError("out of memory")
        return super().encode(videos)


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
@pytest.mark.parametrize("where", ["encoder", "distance"])
def test_call_can_be_repeated_after_an_exception(reference, where):
    calls = []

    def distance(latents, centers):
        calls.append(1)
        if len(calls) == 2:  # the first call is the wrapper's own check
            raise RuntimeError("out of memory")
        gaps = np.linalg.norm(latents[:, None] - centers, axis=2)
        return gaps.min(axis=1), gaps.argmin(axis=1)

    settings = {"reference": reference, "reward": ProgressReward(distance=distance)}
    if where == "encoder":
        settings.pop("reward")
    envs = wrap(make(), FailsOnce() if where == "encoder" else None, **settings)
    other = wrap(make(), reference=reference)
    rewards, expected = [], play(other)
    failed = 0
    for t in range(8):
        actions = np.array([int(t < r) for r in (5, 3, 1, 0)])
        try:
            rewards.append(envs.step(actions)[1])
        except RuntimeError:
            failed += 1
            rewards.append(envs.step(actions)[1])
        assert envs.step_count == t + 1
    rewards = np.array(rewards, float)
    try:
        paid = envs.rewrite(rewards)
    except RuntimeError:
        failed += 1
        paid = envs.rewrite(rewards)
    assert failed == 1
    assert paid == other.rewrite(expected)
    np.testing.assert_allclose(rewards, expected)


def test_failed_step_must_be_repeated_with_the_same_actions():
    envs = wrap(make(num_envs=1), FailsOnce(), group_size=1)
    for _ in range(4):
        envs.step(np.array([1]))
    with pytest.raises(RuntimeError, match="out of memory"):
        envs.step(np.array([1]))
    with pytest.raises(RuntimeError, match="repeat it with the same actions"):
        envs.step(np.array([0]))
    with pytest.raises(RuntimeError, match="repeat it, or call `reset`"):
        envs.state_dict()
    envs.reset()
    assert envs.step_count == 5


def test_exception_in_a_key_function_leaves_the_wrapper_unchanged():
    keys = iter([0, 0, KeyError("late"), 0, 0, 0])

    def key(info, env_index):
        value = next(keys)
        if isinstance(value, Exception):
            raise value
        return value

    envs = wrap(make(num_envs=1), group_size=1, group_key=key, task_key=lambda *_: 0)
    envs.step(np.array([1]))
    envs.reset()
    with pytest.raises(KeyError):
        envs.reset()
    assert [envs.step(np.array([1]))[4]["episode_id"][0] for _ in range(5)] == [1] * 5
    assert len(envs.pop_groups()) == 1


# --- Buffers that do not hold what `step` returned ---


def test_rewrite_raises_if_rewards_are_scaled_outside():
    envs = wrap(make())
    rewards = play(TransformReward(envs, lambda reward: 10 * reward - 1))
    before = rewards.copy()
    with pytest.raises(ValueError, match="scales or shifts rewards"):
        envs.rewrite(rewards)
    np.testing.assert_array_equal(rewards, before)


@pytest.mark.parametrize("cell", [(4, 0), (7, 2)], ids=["success", "failure"])
def test_rewrite_raises_if_a_bonus_was_added_to_the_buffer(cell):
    envs = wrap(make())
    rewards = play(envs)
    rewards[cell] += 0.25
    with pytest.raises(ValueError, match="add it after `rewrite`"):
        envs.rewrite(rewards)


def test_rewrite_raises_if_the_buffer_is_transposed():
    envs = wrap(make(), group_size=2, group_key=lambda info, env_index: env_index // 2)
    rewards = play(envs, reach=(0, 0, 5, 3))
    square = np.zeros((8, 8))
    envs8 = wrap(make(num_envs=8))
    square[:] = play(envs8, reach=(0, 0, 5, 3, 1, 0, 0, 0))
    with pytest.raises(ValueError, match="transposed"):
        envs8.rewrite(square.T.copy())
    assert envs.rewrite(rewards) > 0


def test_rewrite_raises_if_a_step_is_missing_in_the_buffer():
    envs = wrap(make())
    rewards = play(envs)
    envs.step(np.zeros(4, int))
    with pytest.raises(ValueError, match="steps were made that are not in the buffer"):
        envs.rewrite(rewards)
    assert envs.rewrite(rewards, first_step=0) == 3


@pytest.mark.parametrize("pay", [0.0, 0.2, -1.0])
def test_rewrite_raises_if_a_failure_would_earn_more_than_a_success(pay):
    class Stingy(Toy):
        pass

    Stingy.pay = pay
    envs = wrap(make(env=Stingy))
    rewards = play(envs)
    with pytest.raises(ValueError, match="A failure must not earn more than a success"):
        envs.rewrite(rewards)
    # The rewards of whole episodes do not depend on the environment's.
    (group,) = envs.pop_groups()[:1]
    np.testing.assert_allclose(group.rewards, SHAPED, atol=0.001)


def test_memory_reference_raises_if_success_pays_too_little():
    class Stingy(Toy):
        pay = 0.2

    with pytest.raises(ValueError, match="must pay 1 for success"):
        play(wrap(make(env=Stingy), reference="memory"))


def test_rewrite_of_an_empty_buffer_pays_nothing():
    assert wrap(make()).rewrite(np.zeros((0, 4))) == 0


# --- Tasks, keys, infos ---


def test_environments_of_different_kinds_without_a_task_are_not_compared():
    envs = SyncVectorEnv([Toy] * 4 + [Other] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = wrap(envs, group_size=8)
    rewards = play(envs, reach=(5, 3, 1, 0, 3, 2, 1, 0))
    assert envs.rewrite(rewards) == 3
    assert len({group.task for group in envs.pop_groups()}) == 2


def test_key_functions_get_the_index_of_the_sub_environment():
    envs = wrap(make(), group_size=2, group_key=lambda info, env_index: env_index // 2)
    rewards = play(envs)
    assert envs.rewrite(rewards) == 1  # environments 2 and 3 have no success


@pytest.mark.parametrize("key", [np.int64(3), np.array(3), np.array([3]), 3.0])
def test_keys_are_equal_by_value(key):
    keys = iter([3, key] * 50)
    envs = wrap(make(), group_key=lambda *_: next(keys), task_key=lambda *_: 0)
    assert envs.rewrite(play(envs)) == 3


def test_nan_as_a_key_raises():
    with pytest.raises(ValueError, match="must not be NaN"):
        wrap(make(), group_key=lambda *_: float("nan"))


class ForAll(SyncVectorEnv):
    """Puts values for all sub-environments into the infos."""

    values = {"task": "pick up the cube", "scale": 0.5, "nested": {"gravity": 9.8}}  # noqa: RUF012

    def reset(self, **kwargs):
        observations, infos = super().reset(**kwargs)
        return observations, {**infos, **self.values}

    def step(self, actions):
        *result, infos = super().step(actions)
        return *result, {**infos, **self.values}


def test_string_or_scalar_in_the_infos_applies_to_all_environments():
    envs = wrap(ForAll([Toy] * 4, autoreset_mode=AutoresetMode.SAME_STEP))
    assert envs.rewrite(play(envs)) == 3
    assert {group.task for group in envs.pop_groups()} == {"pick up the cube"}


def test_episode_id_of_the_environment_is_kept():
    class Numbered(Toy):
        def step(self, action):
            *result, info = super().step(action)
            return *result, {**info, "episode_id": 77}

    envs = wrap(make(AutoresetMode.NEXT_STEP, Numbered))
    *_, infos = envs.step(np.zeros(4, int))
    assert infos["env_episode_id"].tolist() == [77] * 4
    assert infos["episode_id"].tolist() == [0, 1, 2, 3]


# --- Autoreset ---


class SameStepAs(SyncVectorEnv):
    """Resets in the step that ends an episode, as Isaac Lab does, and declares another mode."""

    def __init__(self, declared, env=Toy, num_envs=4):
        super().__init__([env] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        self.metadata = {**self.metadata, "autoreset_mode": declared}

    def step(self, actions):
        *result, infos = super().step(actions)
        infos = {"is_success": result[2].copy()}
        return *result, infos


@pytest.mark.parametrize("declared", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_wrongly_declared_autoreset_mode_raises(declared):
    envs = wrap(SameStepAs(declared))
    with pytest.raises(RuntimeError, match="set metadata"):
        play(envs, reach=(5, 3, 1, 2), num_steps=100)


def test_reused_observation_arrays_raise():
    class Reusing(Toy):
        def obs(self):
            self.array = getattr(self, "array", np.zeros((16, 16, 3), np.uint8))
            self.array[:] = super().obs()
            return self.array

    envs = SyncVectorEnv([Reusing] * 4, autoreset_mode=AutoresetMode.SAME_STEP, copy=False)
    envs = wrap(envs)
    with pytest.raises(RuntimeError, match="one array for both"):
        play(envs, reach=(99, 99, 99, 99), num_steps=24)


@pytest.mark.parametrize("name", ["env_idx", "env_ids"])
def test_other_options_that_select_environments_raise(name):
    envs = wrap(make(AutoresetMode.DISABLED))
    with pytest.raises(ValueError, match=r"only options\['reset_mask'\]"):
        envs.reset(options={name: [1]})


class ResetsSome(SyncVectorEnv):
    """Resets the sub-environments of its own option, or those of the mask and one more."""

    extra = ()

    def reset(self, *, seed=None, options=None):
        options = dict(options or {})
        chosen = options.pop("who", None)
        mask = options.get("reset_mask")
        if chosen is not None:
            mask = np.isin(np.arange(self.num_envs), chosen)
        if mask is not None:
            mask = mask.copy()
            mask[list(self.extra)] = True
            options["reset_mask"] = mask
        return super().reset(seed=seed, options=options or None)


def test_partial_reset_by_an_unknown_option_raises():
    envs = wrap(ResetsSome([Toy] * 4, autoreset_mode=AutoresetMode.DISABLED))
    for _ in range(2):
        envs.step(np.ones(4, int))
    with pytest.raises(RuntimeError, match="image did not change: if an option selects"):
        envs.reset(options={"who": [0]})


def test_masked_reset_that_resets_other_environments_raises():
    envs = ResetsSome([Toy] * 4, autoreset_mode=AutoresetMode.DISABLED)
    envs.extra = (2,)
    envs = wrap(envs)
    for _ in range(2):
        envs.step(np.ones(4, int))
    with pytest.raises(RuntimeError, match="changed the image of environment 2"):
        envs.reset(options={"reset_mask": np.array([True, False, False, False])})


def test_wrapper_has_the_autoreset_mode_as_an_attribute():
    assert wrap(make()).autoreset_mode is AutoresetMode.SAME_STEP


# --- Other libraries' conventions ---


def test_same_step_works_without_final_info_if_success_is_the_termination():
    class NoFinalInfo(SyncVectorEnv):
        def step(self, actions):
            *result, infos = super().step(actions)
            infos.pop("final_info", None)
            return *result, infos

    envs = NoFinalInfo([Toy] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = wrap(envs, success="terminated")
    assert envs.rewrite(play(envs)) == 3
    envs = wrap(NoFinalInfo([Toy] * 4, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(ValueError, match=r'final_info.*success="terminated"'):
        play(envs)


def test_final_observation_is_accepted_as_the_older_name_of_final_obs():
    class Older(SyncVectorEnv):
        def step(self, actions):
            *result, infos = super().step(actions)
            for name in ("final_obs", "_final_obs"):
                if name in infos:
                    infos[name.replace("obs", "observation")] = infos.pop(name)
            return *result, infos

    envs = wrap(Older([Toy] * 4, autoreset_mode=AutoresetMode.SAME_STEP))
    assert envs.rewrite(play(envs)) == 3


def test_frames_rewards_and_ends_may_be_tensors():
    torch = pytest.importorskip("torch", reason="needs torch")

    class Tensors(SyncVectorEnv):
        def reset(self, **kwargs):
            observations, infos = super().reset(**kwargs)
            return torch.from_numpy(observations), infos

        def step(self, actions):
            *result, infos = super().step(actions)
            return *(torch.from_numpy(np.asarray(value)) for value in result), infos

    envs = wrap(Tensors([Toy] * 4, autoreset_mode=AutoresetMode.DISABLED))
    rows = [envs.step(np.array([t < 5, t < 3, t < 1, 0], int))[1] for t in range(5)]
    assert all(isinstance(row, torch.Tensor) for row in rows)
    buffer = torch.stack(rows).float()
    assert envs.rewrite(buffer) == 0  # the failures are still running


def test_key_of_an_observation_may_contain_a_slash():
    class Slashed(Toy):
        observation_space = gym.spaces.Dict({"observation/image": Toy.observation_space})

        def obs(self):
            return {"observation/image": super().obs()}

    envs = wrap(make(env=Slashed))
    assert envs.rewrite(play(envs)) == 3


def test_frames_of_different_sizes_raise():
    class Growing(Toy):
        observation_space = gym.spaces.Dict(x=gym.spaces.Box(0, 9, (1,)))

        def obs(self):
            return {"x": np.array([self.t], np.float32)}

    def frames(observation):
        size = 8 + int(observation["x"][0])
        return np.zeros((size, size, 3), np.uint8)

    with pytest.raises(ValueError, match="must have one size"):
        play(wrap(make(env=Growing), frames=frames))


def test_success_once_counts_a_success_in_any_step():
    class Passing(Toy):
        """Sets the success flag when the goal is passed, and does not terminate."""

        def step(self, action):
            observation = super().step(action)[0]
            return observation, float(self.x == 5), False, self.t >= 8, {"success": self.x == 5}

    envs = wrap(make(env=Passing), success="once")
    play(envs, reach=(7, 3, 1, 0))
    (group,) = envs.pop_groups()
    assert [episode.success for episode in group.episodes] == [True, False, False, False]


def test_constructor_raises_if_the_distance_does_not_fit_the_latents():
    with pytest.raises(ValueError, match="need latents that are paths"):
        wrap(make(), reward=ProgressReward(distance=coverage_distance))


def test_load_state_dict_raises_if_encoder_or_distance_differ():
    saved = wrap(make()).state_dict()
    with pytest.raises(ValueError, match=r"differ: .*'size': \(16, 8\)"):
        wrap(make(), PixelEncoder(size=8)).load_state_dict(saved)

    def distance(latents, centers):
        return np.zeros(len(latents)), np.zeros(len(latents), int)

    with pytest.raises(ValueError, match=r"differ: {'distance'"):
        wrap(make(), reward=ProgressReward(distance=distance)).load_state_dict(saved)


def test_torch_loads_the_state_with_weights_only(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    envs = wrap(make())
    play(envs, num_steps=6)
    torch.save({"envs": envs.state_dict()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other = wrap(make())
    other.load_state_dict(loaded["envs"])
    assert other.state_dict() == envs.state_dict()


def test_max_frame_size_reduces_memory():
    envs = wrap(make(AutoresetMode.DISABLED), max_frame_size=8)
    for _ in range(3):
        envs.step(np.ones(4, int))
    small, large = envs.num_bytes_held, wrap(make(AutoresetMode.DISABLED)).num_bytes_held
    assert small == large  # four frames of a quarter of the size, and one frame


@pytest.mark.parametrize(
    "num_rounds", [10, pytest.param(60, marks=pytest.mark.exhaustive)], ids=["1600", "10000"]
)
def test_memory_does_not_grow_with_the_number_of_episodes(num_rounds):
    envs = wrap(make(num_envs=8), group_size=8)
    held = []
    tracemalloc.start()
    for number in range(num_rounds):
        rewards = play(envs, reach=(5, 3, 1, 0, 5, 2, 2, 4), num_steps=160)
        envs.rewrite(rewards)
        if number >= 4:
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(held) < 1.05 * min(held)
