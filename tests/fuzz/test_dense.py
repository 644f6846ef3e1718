"""Dense credit over random timelines, against the definition of the potential in slow loops."""

from __future__ import annotations

import numpy as np
from gymnasium.vector import AutoresetMode
from hypothesis import assume
from hypothesis import strategies as st

from srpo_env import ProgressReward
from tests.corridor import PathEncoder, drive, make_corridor, wrap
from tests.fuzz.oracle import Ambiguous, potential_of, shares_of
from tests.fuzz.running import fuzz

runs = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(list(AutoresetMode)),
        "reference": st.sampled_from(["group", "task", "memory"]),
        "formula": st.sampled_from(["paper", "siirl"]),
        "group_size": st.integers(1, 4),
        "limit": st.integers(1, 6),
        "num_times": st.integers(1, 5),
        "weight": st.sampled_from([0.0, 0.25]),
        "max_frames": st.integers(2, 5),
        "cuts": st.sets(st.integers(1, 23), max_size=3),
        "save": st.booleans(),
        "script": st.integers(1, 3).flatmap(
            lambda num_envs: st.lists(
                st.lists(st.sampled_from([0, 1, 1, 1, 2]), min_size=num_envs, max_size=num_envs),
                min_size=1, max_size=24,
            )
        ),
    }
)  # fmt: skip


def make(run, base):
    return wrap(
        base, PathEncoder(run["num_times"], run["weight"]), group_size=run["group_size"],
        reference=run["reference"], reward=ProgressReward(run["formula"]),
        max_frames=run["max_frames"], memory_size=3,
    )  # fmt: skip


def play(run, credit):
    """Steps a script and rewrites a buffer at each cut; returns the groups and both buffers."""
    script = run["script"]
    base = make_corridor(len(script[0]), mode=run["mode"], limit=run["limit"])
    envs = make(run, base)
    envs.reset(seed=0)
    results = drive(envs, script)
    own, written, groups, first = [], [], [], 0
    for cut in sorted({cut for cut in run["cuts"] if cut < len(script)} | {len(script)}):
        rows = [next(results) for _ in range(cut - first)]
        rewards = np.array([row[1] for row in rows], np.float64)
        own += [row[4]["env_reward"] for row in rows]
        envs.rewrite(rewards, credit=credit)
        once = rewards.copy()
        envs.rewrite(rewards, credit=credit)
        np.testing.assert_array_equal(rewards, once)
        written.append(rewards)
        groups += envs.pop_groups()
        if run["save"]:
            state = envs.state_dict()
            envs.load_state_dict(state)
            assert envs.state_dict() == state
        first = cut
    return groups, np.array(own), np.concatenate(written), first


def first_row_of(run, step):
    """The first step of the buffer that holds a step."""
    return max((cut for cut in {0, *run["cuts"]} if cut <= step), default=0)


@fuzz(50, 3_000, run=runs)
def test_dense_credit_agrees_with_the_definition(run):
    groups, own, dense, _ = play(run, "dense")
    same, _, sparse, _ = play(run, "episode")
    assert [g.rewards.tolist() for g in groups] == [g.rewards.tolist() for g in same]
    expected = own.copy()
    for group in groups:
        for episode in group.episodes:
            where = slice(episode.first_step, episode.last_step + 1), episode.env_index
            # One sum, whatever the credit.
            assert abs(written_sum(dense, where) - written_sum(sparse, where)) <= 1e-9
            if not episode.success and np.isnan(episode.distance):
                continue
            center = group.centers[episode.nearest_center].tolist()
            try:
                potential = potential_of(episode.latent.tolist(), center, episode.success)
            except Ambiguous:
                assume(False)
            np.testing.assert_allclose(episode.potential, potential, rtol=0, atol=1e-6)
            assert episode.potential_steps[-1] == episode.length or run["num_times"] == 1
            shares = shares_of(
                episode.potential.tolist(), episode.potential_steps.tolist(), episode.length
            )
            amount = episode.last_env_reward if episode.success else episode.progress_reward
            added = amount * np.array(shares)
            np.testing.assert_allclose(
                episode.step_rewards, episode.progress_reward * np.array(shares), atol=1e-9
            )
            assert (episode.step_rewards >= 0).all()
            # Earned before the buffer of its end: paid on the first step there.
            before = max(0, first_row_of(run, episode.last_step) - episode.first_step)
            added[before] += added[:before].sum()
            added[:before] = 0
            if episode.success:
                added[-1] -= episode.last_env_reward
            expected[where] += added
    np.testing.assert_allclose(dense, expected, rtol=0, atol=1e-9)


def written_sum(rewards, where):
    return rewards[where].sum()


@fuzz(30, 2_000, run=runs)
def test_no_prefix_of_a_failure_earns_as_much_as_a_success_of_its_group(run):
    groups, _, _, _ = play(run, "dense")
    for group in groups:
        sums = [np.cumsum(rewards) for rewards in group.step_rewards]
        for episode, prefixes in zip(group.episodes, sums, strict=True):
            assert (np.diff(prefixes, prepend=0) >= 0).all()
            assert abs(prefixes[-1] - episode.progress_reward) <= 1e-9
            if not episode.success:
                assert (prefixes < 1).all()
