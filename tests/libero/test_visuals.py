from __future__ import annotations

import pytest

from srpo_env.libero.env import LiberoEnv

pytestmark = pytest.mark.libero


def test_a_task_reserves_little_more_memory_than_it_uses():
    env = LiberoEnv(image_size=32)
    env.reset(options={"task_id": 0, "init_state_id": 0})
    data = env.simulation.data
    assert data.narena == 64 * 2**20  # bytes; as LIBERO has it, twenty times that
    assert data.maxuse_arena < data.narena / 20
    env.close()
