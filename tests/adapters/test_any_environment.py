"""That "any environment" is meant: one that knows nothing of us, from another project."""

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
def test_fetch_reach_is_rewarded_by_what_it_renders():
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
        group_key=lambda info, env_index: 0,  # goals are drawn: all episodes are of one task
    )
    observations, _ = envs.reset(seed=3)
    rewards = []
    for _ in range(20):
        # The first environment goes where it should, the second stays where it is.
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
    # Fetch pays -1 for each step away from the goal; the progress comes on top of the last one.
    np.testing.assert_array_equal(buffer[:-1, 1], -1)
    assert buffer[-1, 1] == pytest.approx(-1 + 0.4)
    assert buffer[-1, 0] == 0
    envs.close()
