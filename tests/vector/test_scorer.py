"""Batches for the encoder, and warnings about groups that are never fetched."""

from __future__ import annotations

import re

import numpy as np
import pytest

from srpo_env import ProgressReward, SelfReferentialProgressWrapper
from srpo_env.vector import scorer, wrapper
from tests.corridor import GIVE_UP, STAY, WALK, ReadingEncoder, drive, make_corridor


class CountingEncoder(ReadingEncoder):
    def __init__(self):
        super().__init__()
        self.batches = []

    def encode(self, videos):
        self.batches.append(len(videos))
        return super().encode(videos)


def play(script, **kwargs):
    encoder = CountingEncoder()
    envs = SelfReferentialProgressWrapper(make_corridor(len(script[0])), encoder, **kwargs)
    envs.reset(seed=0)
    list(drive(envs, script))
    return envs, encoder.batches


def test_group_is_encoded_in_one_call_when_it_closes():
    # Slots end one after the other; nothing is encoded before the last of them.
    script = [[GIVE_UP, STAY, STAY], [STAY, GIVE_UP, STAY], [STAY, STAY, GIVE_UP]]
    assert play(script, group_size=3)[1] == [3]


@pytest.mark.parametrize("reference", ["group", "task"])
def test_videos_of_open_groups_are_encoded_once_group_size_of_them_wait(reference):
    # Each episode has a key of its own, so that no group is ever complete.
    key = iter(range(99))
    envs, batches = play(
        [[GIVE_UP] * 3] * 4,
        group_size=4,
        group_key=lambda info, i: next(key),
        reference=reference,
    )
    assert batches == [6]  # three episodes end twice; the reset takes one step
    assert envs.pop_groups() == []


def test_memory_reference_encodes_an_episode_at_its_end():
    script = [[GIVE_UP, STAY], [STAY, STAY], [STAY, GIVE_UP]]
    assert play(script, group_size=4, reference="memory")[1] == [1, 1]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("group", "3 closed groups wait: call `pop_groups` or `rewrite`"),
        ("task", "3 groups wait to be scored: .* call `close_groups`"),
    ],
)
def test_groups_that_are_never_fetched_cause_one_warning(reference, message, monkeypatch, caplog):
    monkeypatch.setattr(scorer, "MANY_GROUPS", 3)
    monkeypatch.setattr(wrapper, "MANY_CLOSED", 3)
    play([[GIVE_UP]] * 9, group_size=1, reference=reference)
    assert len(caplog.records) == 1
    assert re.search(message, caplog.text)


def test_unique_keys_cause_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(scorer, "MANY_INCOMPLETE", 3)
    key = iter(range(99))
    settings = {"group_size": 2, "group_key": lambda info, i: next(key)}
    play([[GIVE_UP]] * 3, **settings)  # two have ended, and the third is running
    assert not caplog.records
    envs, _ = play([[GIVE_UP]] * 9, **settings)
    assert envs.pop_groups() == []
    assert len(caplog.records) == 1
    assert "3 groups wait for more of their 2 episodes: too few episodes share" in caplog.text


def test_memory_reference_holds_the_newest_groups_without_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(wrapper, "MANY_CLOSED", 3)
    envs, _ = play([[GIVE_UP]] * 9, group_size=1, reference="memory")
    assert [group.episodes[0].episode_id for group in envs.pop_groups()] == [2, 3, 4]
    assert not caplog.records


def test_latents_are_copies_of_the_batch():
    envs, _ = play([[GIVE_UP] * 3], group_size=3)
    (group,) = envs.pop_groups()
    assert all(episode.latent.base is None for episode in group.episodes)
    assert group.latents.dtype == np.float32


@pytest.mark.parametrize("reference", ["group", "task", "memory"])
def test_custom_distance_is_used_by_every_reference(reference):
    def walked(latents, centers):
        """Grows with the position, so that the nearest failure is ranked last."""
        return latents[:, 0], np.zeros(len(latents), int)

    script = [[WALK, GIVE_UP, WALK], [WALK, STAY, WALK], [WALK, STAY, GIVE_UP]]
    envs, _ = play(
        script, group_size=3, reference=reference, reward=ProgressReward(distance=walked)
    )
    envs.close_groups()
    success, stayed, went = envs.pop_groups()[0].episodes
    assert success.success
    assert went.distance == 2.0
    # With the memory, the first failure ended before there was a success.
    if reference == "memory":
        assert np.isnan(stayed.distance)
    else:
        assert stayed.distance == 0.0
        assert stayed.progress_reward > went.progress_reward
