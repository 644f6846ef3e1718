"""lerobot's LiberoEnv, replaced by a fake with its interface, because lerobot is a large package.

The interface is that of lerobot 0.4.4: nested images upside down, no truncation, the task only in
the info of a step, a reset within the step that succeeds, another initial state at each reset.
"""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from srpo_env import SelfReferentialProgressWrapper
from srpo_env.adapters import lerobot
from srpo_env.adapters.lerobot import LerobotLibero, upright_image
from tests.corridor import GOAL, Corridor, ReadingEncoder, async_vector_env
from tests.snippets import python_blocks

WALK, STAY = np.array([1.0]), np.array([0.0])


class FakeLiberoEnv(gymnasium.Env):
    """Walk `GOAL` times to succeed; the lowest row of the image has position and initial state."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, task_id=0, episode_index=0, n_envs=1, init_states=True):
        self.task_id, self.init_state_id = task_id, episode_index
        self.init_states, self.stride = init_states, n_envs
        image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {"pixels": spaces.Dict({"image": image, "image2": image})}
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def observation(self):
        image = np.zeros((4, 4, 3), np.uint8)
        image[-1] = self.position, self.started_in, 0
        return {"pixels": {"image": image, "image2": image + 50}}

    def reset(self, seed=None, **kwargs):
        super().reset(seed=seed)
        self.position, self.started_in = 0, self.init_state_id % 10
        self.init_state_id += self.stride
        return self.observation(), {"is_success": False}

    def step(self, action):
        self.position += int(action[0] > 0.5)
        is_success = self.position == GOAL
        info = {"task": "walk", "task_id": self.task_id, "done": is_success}
        info["is_success"] = is_success
        observation = self.observation()
        if is_success:
            info["final_info"] = dict(info)
            self.reset()
        return observation, float(is_success), is_success, False, info


def make(slot, num_envs=2, **kwargs):
    env = FakeLiberoEnv(episode_index=slot, n_envs=num_envs, **kwargs)
    return LerobotLibero(env, max_episode_steps=4, num_init_states=10)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("vector", [SyncVectorEnv, async_vector_env], ids=["sync", "async"])
def test_failure_is_truncated_and_compared_with_the_success_of_its_group(vector, mode):
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


def test_example_of_the_module_runs():
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


def test_frames_are_found_by_default():
    envs = SelfReferentialProgressWrapper(SyncVectorEnv([partial(make, 0)]), ReadingEncoder())
    envs.reset()  # several cameras; pixels/image is lerobot's third-person one


def test_info_of_a_reset_has_the_initial_state():
    env = make(3, num_envs=4)
    for expected in (3, 7, 1):  # lerobot's own order: it adds 4, modulo 10
        observation, info = env.reset()
        assert info["init_state_id"] == expected == upright_image(observation)[0, 0, 1]
        assert info["task_id"] == 0
    observation, info = env.reset(options={"init_state_id": 5})
    assert info["init_state_id"] == 5 == upright_image(observation)[0, 0, 1]
    # After a success lerobot resets by itself; that does not start an episode.
    for _ in range(GOAL):
        *_, info = env.step(WALK)
    assert (info["is_success"], info["init_state_id"]) == (True, 5)


def test_info_without_stored_states_has_the_task_only():
    _, info = make(0, init_states=False).reset()
    assert info == {"is_success": False, "task_id": 0}


def test_unknown_initial_state_is_an_error():
    with pytest.raises(ValueError, match=r"0\.\.9, got 10"):
        make(0).reset(options={"init_state_id": 10})


def test_other_environments_are_refused():
    with pytest.raises(TypeError, match=r"lerobot's LiberoEnv, .* init_state_id"):
        LerobotLibero(Corridor(), 280)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LerobotLibero(FakeLiberoEnv(), 0)
