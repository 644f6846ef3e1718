"""lerobot's LiberoEnv; played by an environment with its interface, as lerobot is too heavy here.

The interface is that of lerobot 0.4.4: nested images upside down, no truncation, the task only in
the info of a step, a reset of its own in the step that succeeds, another initial state each reset.
"""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from srpo_env import SelfReferentialProgressWrapper
from srpo_env.adapters import lerobot
from srpo_env.adapters.lerobot import LerobotLibero, upright_image
from tests.corridor import GOAL, Corridor, ReadingEncoder
from tests.snippets import python_blocks

WALK, STAY = np.array([1.0]), np.array([0.0])


class FakeLiberoEnv(gymnasium.Env):
    """Walk `GOAL` times to succeed; the image's lowest row tells position and initial state."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, task_id=0, episode_index=0, n_envs=1, init_states=True):
        self.task_id, self.init_state_id = task_id, episode_index
        self._init_states = np.zeros((10, 3)) if init_states else None
        self._reset_stride = n_envs
        self._max_episode_steps = 4
        image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {"pixels": spaces.Dict({"image": image, "image2": image})}
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def _observation(self):
        image = np.zeros((4, 4, 3), np.uint8)
        image[-1] = self.position, self.started_in, 0
        return {"pixels": {"image": image, "image2": image + 50}}

    def reset(self, seed=None, **kwargs):
        super().reset(seed=seed)
        self.position, self.started_in = 0, self.init_state_id % 10
        self.init_state_id += self._reset_stride
        return self._observation(), {"is_success": False}

    def step(self, action):
        self.position += int(action[0] > 0.5)
        is_success = self.position == GOAL
        info = {"task": "walk", "task_id": self.task_id, "done": is_success}
        info["is_success"] = is_success
        observation = self._observation()
        if is_success:
            info["final_info"] = dict(info)
            self.reset()
        return observation, float(is_success), is_success, False, info


def make(slot, num_envs=2, **kwargs):
    return LerobotLibero(FakeLiberoEnv(episode_index=slot, n_envs=num_envs, **kwargs))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv], ids=["sync", "async"])
def test_a_failure_is_truncated_and_paid_beside_the_success_of_its_group(vector, mode):
    envs = vector([partial(make, 0), partial(make, 1)], autoreset_mode=mode)
    envs = SelfReferentialProgressWrapper(
        envs, ReadingEncoder(), group_size=2, frames=upright_image
    )
    envs.reset(options={"init_state_id": 7})
    rewards = []
    for _ in range(4):
        _, reward, terminations, truncations, _ = envs.step(np.stack([WALK, STAY]))
        rewards.append(reward)
    assert (terminations.tolist(), truncations.tolist()) == ([False, False], [False, True])
    (group,) = envs.pop_groups()
    assert group.key == (0, 7)
    won, lost = group.episodes
    assert (won.success, won.length, won.distance) == (True, 3, 0.0)
    # Position 0 against 3, and 5 frames against 4.
    assert (lost.success, lost.length) == (False, 4)
    assert lost.distance == pytest.approx(np.sqrt(9 + 1))
    buffer = np.array(rewards)
    assert envs.rewrite(buffer) == 1
    np.testing.assert_array_equal(buffer[:, 0], [0, 0, 1, 0])
    np.testing.assert_array_equal(buffer[:, 1], [0, 0, 0, 0.4])
    envs.close()


def test_the_example_of_the_module_runs():
    names = {
        "LiberoEnv": lambda suite, task_id, suite_name: FakeLiberoEnv(task_id, n_envs=8),
        "suite": None,
        "encoder": ReadingEncoder(),
        **{name: globals()[name] for name in ("LerobotLibero", "SyncVectorEnv", "upright_image")},
        "SelfReferentialProgressWrapper": SelfReferentialProgressWrapper,
    }
    (block,) = python_blocks(lerobot.__doc__)
    exec(block, names)
    _, infos = names["envs"].reset(options={"init_state_id": 3})
    assert infos["init_state_id"].tolist() == [3] * 8


def test_the_frames_are_found_by_default_too():
    envs = SelfReferentialProgressWrapper(SyncVectorEnv([partial(make, 0)]), ReadingEncoder())
    envs.reset()  # several cameras, of which pixels/image is lerobot's third-person one


def test_the_info_names_the_initial_state_that_was_started_from():
    env = make(3, num_envs=4)
    for expected in (3, 7, 1):  # lerobot's own order: 4 on, of 10
        observation, info = env.reset()
        assert info["init_state_id"] == expected == upright_image(observation)[0, 0, 1]
        assert info["task_id"] == 0
    observation, info = env.reset(options={"init_state_id": 5})
    assert info["init_state_id"] == 5 == upright_image(observation)[0, 0, 1]
    # A success resets inside lerobot, which is no episode and must not be taken for one.
    for _ in range(GOAL):
        *_, info = env.step(WALK)
    assert (info["is_success"], info["init_state_id"]) == (True, 5)


def test_without_stored_states_the_task_alone_is_told():
    _, info = make(0, init_states=False).reset()
    assert info == {"is_success": False, "task_id": 0}


def test_a_state_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match=r"0\.\.9, got 10"):
        make(0).reset(options={"init_state_id": 10})


def test_another_environment_is_refused_by_what_it_lacks():
    with pytest.raises(TypeError, match=r"lerobot's LiberoEnv, .*_max_episode_steps"):
        LerobotLibero(Corridor())
