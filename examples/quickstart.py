"""The example of the README: one line around the environments, one line after the rollout.

python examples/quickstart.py
"""

import gymnasium as gym
import numpy as np

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper


class Reach(gym.Env):  # an arm that succeeds if it extends 12 times within 20 steps
    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)  # the camera image
    action_space = gym.spaces.Discrete(2)  # 0: wait, 1: extend

    def image(self):
        image = np.full((32, 32, 3), 230, np.uint8)
        image[14:18, : 4 + 2 * self.reached] = (200, 60, 40)
        return image

    def reset(self, *, seed=None, options=None):
        self.reached = self.steps = 0
        return self.image(), {}

    def step(self, action):
        self.reached, self.steps = self.reached + action, self.steps + 1
        success = self.reached == 12
        return self.image(), float(success), success, self.steps == 20, {"is_success": success}


envs = gym.vector.SyncVectorEnv([Reach] * 8)
envs = SelfReferentialProgressWrapper(envs, PixelEncoder())  # + one line around the environments

rewards = np.zeros((20, 8))  # your rollout buffer: (num_steps, num_envs)
reached, rng = np.zeros(8, int), np.random.default_rng(1)
envs.reset()
for step in range(20):
    actions = rng.random(8) < np.linspace(0.1, 0.8, 8)  # your policy
    _, rewards[step], *_ = envs.step(actions.astype(int))
    reached = np.maximum(reached, envs.get_attr("reached"))
print("reached, of 12:", reached)
print("reward before: ", rewards.sum(axis=0))
envs.rewrite(rewards)  # + one line after the rollout: failures get their progress reward
print("reward after:  ", rewards.sum(axis=0).round(2))
