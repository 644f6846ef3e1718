"""Groups of episodes with given rewards."""

import math

import numpy as np

from srpo_env import Episode, Group


def make_group(successes, progress_rewards, key=(0, 0)):
    episodes = tuple(
        Episode(
            episode_id=index, env_index=index, first_step=0, last_step=1, success=success,
            env_return=float(success), last_env_reward=float(success), distance=math.nan,
            progress_reward=reward, nearest_center=-1, latent=np.zeros(1, np.float32),
        )
        for index, (success, reward) in enumerate(zip(successes, progress_rewards, strict=True))
    )  # fmt: skip
    return Group(key, key[0], episodes, np.zeros((0, 1)), 0, 0)
