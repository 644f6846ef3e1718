"""Properties for any ends, groups and keys: no loss, no duplicate, bounded memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo_env import ProgressReward, SelfReferentialProgressWrapper
from tests.corridor import GIVE_UP, GOAL, WALK, ReadingEncoder, drive, make_corridor

MAX_FRAMES = 3


def key_of(info, env_index):
    """Keys that alternate: the number of the episode within its slot, modulo 2."""
    return info["num_resets"] % 2


runs = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(list(AutoresetMode)),
        "reference": st.sampled_from(["group", "task", "memory"]),
        "formula": st.sampled_from(["paper", "siirl"]),
        "group_size": st.integers(1, 4),
        "limit": st.integers(1, 6),
        "script": st.integers(1, 3).flatmap(
            lambda num_envs: st.lists(
                st.lists(st.sampled_from([0, 1, 1, 2]), min_size=num_envs, max_size=num_envs),
                min_size=1,
                max_size=24,
            )
        ),
    }
)


def wrap(run, envs=None):
    num_envs = len(run["script"][0])
    return SelfReferentialProgressWrapper(
        envs or make_corridor(num_envs, mode=run["mode"], limit=run["limit"]),
        ReadingEncoder(),
        group_size=run["group_size"],
        group_key=key_of,
        task_key=lambda info, env_index: 0,
        reference=run["reference"],
        reward=ProgressReward(run["formula"]),
        max_frames=MAX_FRAMES,
    )


def episodes_by_hand(run):
    """Returns the episodes of a script for each slot, computed from the corridor's rules."""
    episodes = set()
    for slot in range(len(run["script"][0])):
        first, position, resetting = 0, 0, False
        for step, actions in enumerate(run["script"]):
            if resetting:
                first, position, resetting = step + 1, 0, False
                continue
            position += actions[slot] == WALK
            ended = actions[slot] == GIVE_UP or step - first + 1 >= run["limit"]
            if position == GOAL or ended:
                episodes.add((slot, first, step, position == GOAL))
                resetting = run["mode"] is AutoresetMode.NEXT_STEP
                first, position = step + 1, 0
    return episodes


@given(runs)
@settings(max_examples=80)
def test_each_ended_episode_is_in_exactly_one_group(run):
    envs = wrap(run)
    envs.reset(seed=0)
    list(drive(envs, run["script"]))
    envs.close_groups()
    groups = envs.pop_groups()
    episodes = [(e.env_index, e.first_step, e.last_step, e.success)
                for group in groups for e in group.episodes]  # fmt: skip
    assert len(episodes) == len(set(episodes))
    assert set(episodes) == episodes_by_hand(run)
    assert all(1 <= len(group.episodes) <= run["group_size"] for group in groups)
    ids = [e.episode_id for group in groups for e in group.episodes]
    assert len(ids) == len(set(ids))


@given(runs)
@settings(max_examples=80)
def test_failures_earn_less_than_successes_and_nearer_ones_no_less_than_others(run):
    envs = wrap(run)
    envs.reset(seed=0)
    list(drive(envs, run["script"]))
    envs.close_groups()
    weight = {"paper": 0.8, "siirl": 0.6}[run["formula"]]
    for group in envs.pop_groups():
        for e in group.episodes:
            assert e.progress_reward == 1.0 if e.success else e.progress_reward < weight
            assert e.progress_reward >= 0
        if run["reference"] == "memory":
            continue  # measured at different times, from different centers
        failures = sorted((e.distance, -e.progress_reward) for e in group.episodes if not e.success)
        assert [pair[1] for pair in failures] == sorted(pair[1] for pair in failures)


@given(runs)
@settings(max_examples=60)
def test_number_of_held_frames_and_videos_is_bounded(run):
    envs = wrap(run)
    envs.reset(seed=0)
    num_envs = envs.num_envs
    for _ in drive(envs, run["script"]):
        assert envs.num_frames_held < 2 * MAX_FRAMES * num_envs
        assert envs.num_videos_held < run["group_size"] + num_envs
        assert all(len(video) <= MAX_FRAMES for video in envs.encoder.videos)


@given(runs, st.data())
@settings(max_examples=60)
def test_buffers_of_any_length_pay_each_failure_once(run, data):
    envs = wrap(run)
    envs.reset(seed=0)
    results = drive(envs, run["script"])
    buffers, left = [], len(run["script"])
    while left:
        length = data.draw(st.integers(1, left))
        buffer = np.array([next(results)[4]["env_reward"] for _ in range(length)])
        if data.draw(st.booleans()):
            envs.pop_groups()
        own = buffer.copy()
        envs.rewrite(buffer)
        buffers.append((own, buffer))
        left -= length
    own, rewritten = (np.concatenate(parts) for parts in zip(*buffers, strict=True))
    last_steps = {(last, slot): success for slot, _, last, success in episodes_by_hand(run)}
    for step, slot in np.ndindex(*own.shape):
        if last_steps.get((step, slot), True):
            assert rewritten[step, slot] == own[step, slot]
        else:
            assert own[step, slot] == 0 <= rewritten[step, slot] < 0.8


@given(runs, st.data())
@settings(max_examples=60)
def test_saved_state_continues_to_the_bit_after_any_step(run, data):
    script = run["script"]
    split = data.draw(st.integers(0, len(script)))
    straight = wrap(run)
    straight.reset(seed=0)
    dones = np.zeros(straight.num_envs, bool)
    for *_, terminations, truncations, _infos in drive(straight, script[:split]):
        dones = terminations | truncations

    resumed = wrap(run, copy.deepcopy(straight.env))
    resumed.load_state_dict(straight.state_dict())

    buffers = [[], []]
    for actions in script[split:]:
        for envs in (straight, resumed):
            if run["mode"] is AutoresetMode.DISABLED and dones.any():
                envs.reset(options={"reset_mask": dones})
        one, other = (envs.step(np.array(actions)) for envs in (straight, resumed))
        for *_, infos in (one, other):
            infos.pop("final_obs", None)  # objects, which the assertion below cannot compare
        np.testing.assert_equal(one, other)
        for buffer, result in zip(buffers, (one, other), strict=True):
            buffer.append(result[1])
        dones = one[2] | one[3]
    buffers = [np.array(rows).reshape(-1, straight.num_envs) for rows in buffers]
    assert straight.rewrite(buffers[0]) == resumed.rewrite(buffers[1])
    np.testing.assert_array_equal(*buffers)
    assert straight.state_dict() == resumed.state_dict()
    assert straight.step_count == resumed.step_count == len(script)


def test_state_of_other_settings_raises_and_names_them():
    run = {"mode": AutoresetMode.NEXT_STEP, "reference": "group", "formula": "paper",
           "group_size": 2, "limit": 5, "script": [[0]]}  # fmt: skip
    saved = wrap(run).state_dict()
    with pytest.raises(ValueError, match=r"group_size.*2, 3"):
        wrap({**run, "group_size": 3}).load_state_dict(saved)


def test_load_state_dict_raises_for_other_dictionaries():
    run = {"mode": AutoresetMode.NEXT_STEP, "reference": "group", "formula": "paper",
           "group_size": 2, "limit": 5, "script": [[0]]}  # fmt: skip
    with pytest.raises(ValueError, match="Not a saved state"):
        wrap(run).load_state_dict({"weights": np.zeros(3)})
