"""Rendered images in the info, in all autoreset modes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from srpo_env import RenderInInfo, SelfReferentialProgressWrapper
from tests.corridor import GIVE_UP, WALK, Corridor, ReadingEncoder, drive


def rendering_corridor(slot):
    return RenderInInfo(Corridor(slot, render=True))


def test_video_contains_first_and_last_frame_of_each_episode(vector, mode):
    inner = vector([partial(rendering_corridor, slot) for slot in range(2)], autoreset_mode=mode)
    envs = SelfReferentialProgressWrapper(
        inner, ReadingEncoder(), group_size=1, frames="info/rendered"
    )
    envs.reset(seed=0)
    list(drive(envs, [[WALK, GIVE_UP]] * 3))
    videos = {tuple(map(tuple, video.tolist())) for video in envs.encoder.videos}
    walked = ((0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 0))
    assert videos == {walked, ((0, 0, 1), (0, 1, 1))}
    envs.close()


def test_other_entries_of_the_info_are_kept():
    env = rendering_corridor(3)
    _, info = env.reset(options={"task_id": 7})
    assert (info["task_id"], info["rendered"][0, 0].tolist()) == (7, [0, 0, 3])
    *_, info = env.step(WALK)
    assert (info["is_success"], info["rendered"][0, 0].tolist()) == (False, [1, 1, 3])
    np.testing.assert_array_equal(info["rendered"], env.render())


def test_environment_without_render_mode_raises():
    with pytest.raises(ValueError, match=r'render_mode="rgb_array", .* has None'):
        RenderInInfo(Corridor())
