"""An environment of another project, which was not written for this package."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper
from srpo_env.libero.gl import choose_gl

choose_gl()
gymnasium_robotics = pytest.importorskip(
    "gymnasium_robotics", reason="Gymnasium-Robotics is not installed: pip install '.[dev]'"
)

pytestmark = pytest.mark.libero  # it renders with MuJoCo


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*Overriding environment:UserWarning")
def test_fetch_reach_is_rewarded_from_rendered_frames():
    gymnasium.register_envs(gymnasium_robotics)
    envs = gymnasium.make_vec(
        "FetchReach-v4",
        num_envs=2,
        vectorization_mode="sync",
        render_mode="rgb_array",
        width=64,
        height=64,
        max_episode_steps=20,
    )
    envs = SelfReferentialProgressWrapper(
        envs,
        PixelEncoder(),
        frames="render",
        group_size=2,
        group_key=lambda info, env_index: 0,  # the goals are random, but the task is one
    )
    observations, _ = envs.reset(seed=3)
    rewards = []
    for _ in range(20):
        # The first environment moves to its goal, the second stays where it is.
        way = observations["desired_goal"] - observations["achieved_goal"]
        actions = np.clip(np.pad(10 * way, ((0, 0), (0, 1))), -1, 1)
        observations, reward, _, truncations, _ = envs.step(actions * [[1], [0]])
        rewards.append(reward)
    assert truncations.all()  # by its TimeLimit; Fetch never terminates
    (group,) = envs.pop_groups()
    won, lost = group.episodes
    assert (won.success, lost.success) == (True, False)
    assert lost.distance > 0
    buffer = np.array(rewards)
    envs.rewrite(buffer)
    # Fetch pays -1 for each step away from the goal; progress is added to the last of them.
    np.testing.assert_array_equal(buffer[:-1, 1], -1)
    assert buffer[-1, 1] == pytest.approx(-1 + 0.4)
    assert buffer[-1, 0] == 0
    envs.close()
