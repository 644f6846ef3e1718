"""Episodes that are encoded where they are simulated: the same rewards without frames."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.vector.latent_in_info import EncodeEpisodes, LatentInInfo
from tests.corridor import STAY, WALK, Corridor, PathEncoder, ReadingEncoder, drive, make_corridor

SCRIPT = [[WALK, STAY, WALK], [WALK, STAY, STAY], [WALK, WALK, STAY], *[[STAY, WALK, WALK]] * 7]


def closed_groups(envs, encoder, **kwargs):
    wrapped = SelfReferentialProgressWrapper(envs, encoder, group_size=3, **kwargs)
    wrapped.reset(seed=0)
    rewards = [result[1] for result in drive(wrapped, SCRIPT)]
    wrapped.close_groups()
    return wrapped.pop_groups(), rewards


@pytest.mark.parametrize("reference", ["group", "memory"])
@pytest.mark.parametrize("encoder", [ReadingEncoder(), PathEncoder(3)], ids=["points", "paths"])
def test_rewards_are_those_of_recorded_frames(mode, encoder, reference):
    def make(slot):
        return lambda: LatentInInfo(Corridor(slot, render=True), encoder)

    encoded = SyncVectorEnv([make(slot) for slot in range(3)], autoreset_mode=mode)
    found, paid = closed_groups(encoded, encoder, frames="encoded", reference=reference)
    plain = make_corridor(3, mode=mode)
    expected, paid_before = closed_groups(plain, encoder, reference=reference)
    np.testing.assert_array_equal(paid, paid_before)
    assert len(found) == len(expected) > 0
    for group, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(group.rewards, other.rewards)
        np.testing.assert_array_equal(group.latents, other.latents)
        for episode, same in zip(group.episodes, other.episodes, strict=True):
            np.testing.assert_array_equal(episode.potential, same.potential)
            np.testing.assert_array_equal(episode.potential_steps, same.potential_steps)


def test_a_saved_state_continues_with_encoded_episodes():
    def make():
        one = [lambda slot=slot: LatentInInfo(Corridor(slot, render=True), ReadingEncoder())
               for slot in range(3)]  # fmt: skip
        envs = SyncVectorEnv(one, autoreset_mode=AutoresetMode.NEXT_STEP)
        return SelfReferentialProgressWrapper(
            envs, ReadingEncoder(), group_size=3, frames="encoded"
        )

    first, second = make(), make()
    first.reset(seed=0)
    for _ in drive(first, SCRIPT[:4]):
        pass
    second.load_state_dict(first.state_dict())
    first.close_groups()
    second.close_groups()
    (group,), (same,) = first.pop_groups(), second.pop_groups()
    np.testing.assert_array_equal(group.rewards, same.rewards)


def test_environments_that_do_not_encode_are_named():
    envs = SelfReferentialProgressWrapper(make_corridor(1), ReadingEncoder(), frames="encoded")
    envs.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"`latent` and `latent_steps`.*environment 0.*LatentInInfo"
    ):
        for _ in drive(envs, [[STAY]] * 5):
            pass


def test_another_encoder_is_refused():
    envs = SyncVectorEnv([lambda: LatentInInfo(Corridor(render=True), PixelEncoder(size=4))])
    wrapped = SelfReferentialProgressWrapper(envs, PixelEncoder(size=2), frames="encoded")
    wrapped.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(96,\).*got \(384,\): use the same encoder"):
        for _ in drive(wrapped, [[STAY]] * 5):
            pass


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "render_mode=.*pass the path of an image"),
        ({"frames": "wrist"}, "`frames` must name an image in the observations, got 'wrist'"),
    ],
)
def test_a_missing_image_is_an_error_at_the_start(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LatentInInfo(Corridor(as_dict=True), ReadingEncoder(), **kwargs)


@pytest.mark.libero
def test_workers_of_libero_encode_what_the_learner_would():
    from srpo_env.libero.vector import LiberoVectorEnv

    settings = {"num_envs": 2, "num_workers": 2, "chunk": 2, "image_size": 32, "max_steps": 6}
    settings["autoreset_mode"] = AutoresetMode.DISABLED
    wrap = EncodeEpisodes("pixels")
    blind = LiberoVectorEnv(cameras=(), render_mode="rgb_array", wrap=wrap, **settings)
    seeing = LiberoVectorEnv(**settings)
    groups = []
    for envs, frames in ((blind, "encoded"), (seeing, None)):
        wrapped = SelfReferentialProgressWrapper(envs, PixelEncoder(), frames=frames, group_size=2)
        observations, _ = wrapped.reset(options={"task_id": 0, "init_state_id": 0})
        for seed in range(3):
            actions = np.random.default_rng(seed).uniform(-1, 1, envs.action_space.shape)
            wrapped.step(actions)
        groups += wrapped.pop_groups()
        wrapped.close()
        if envs is blind:
            assert list(observations) == ["proprio"]
    np.testing.assert_array_equal(groups[0].latents, groups[1].latents)
