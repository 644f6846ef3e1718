"""Wrap an environment of your own: check it, collect a rollout, look at the rewards of one group.

    python examples/wrap_your_env.py

The environment (`Detour`) has no image in its observation, so the frames are rendered. Its encoder
finds the walker in each frame; `your_encoder.py` shows that pixels are not enough for a small
object. The table compares the reward with what only the simulator knows: the way that was left at
the end. Needs `pip install srpo-env` only.
"""

from __future__ import annotations

import argparse

import numpy as np
from detour import Detour, noisy_policy
from gymnasium.vector import SyncVectorEnv
from your_encoder import WalkerEncoder, rank_correlation

from srpo_env import SelfReferentialProgressWrapper, check_wrapped


def make_envs() -> SelfReferentialProgressWrapper:
    """Makes eight wrapped environments.

    `Detour` puts ``is_success`` into its info, which the wrapper finds by itself. All of its
    episodes have one goal and one initial state, which `group_key` declares. Each failure is
    compared with all successes of the rollout (``reference="task"``).
    """
    envs = SyncVectorEnv([lambda: Detour(render_mode="rgb_array")] * 8)
    return SelfReferentialProgressWrapper(
        envs,
        WalkerEncoder(),
        frames="render",
        group_key=lambda info, env_index: 0,
        reference="task",
        group_size=8,
    )


def main(num_steps: int) -> None:
    """Checks the environments, collects a rollout and prints its first group."""
    rng = np.random.default_rng(0)

    def policy(observations: np.ndarray) -> np.ndarray:
        return np.stack([noisy_policy(observation, rng) for observation in observations])

    print(check_wrapped(make_envs(), policy=policy), "\n")

    envs = make_envs()
    observations, _ = envs.reset(seed=0)
    buffer = np.zeros((num_steps, envs.num_envs))
    ways_left: dict[int, float] = {}  # by episode: the value of its last step remains
    for step in range(num_steps):
        observations, buffer[step], _, _, infos = envs.step(policy(observations))
        for index in np.flatnonzero(infos["_way_left"]):
            ways_left[int(infos["episode_id"][index])] = float(infos["way_left"][index])

    num_successes = np.count_nonzero(buffer)
    num_failures = envs.rewrite(buffer)
    print(f"{num_steps} steps of {envs.num_envs} environments: {num_successes} successes earned 1,")
    print(f"and `rewrite` paid {num_failures} failures at their last step. The first group:\n")

    groups = envs.pop_groups()
    print("episode  steps  outcome  way left  distance  reward")
    for episode in sorted(groups[0].episodes, key=lambda episode: -episode.progress_reward):
        print(
            f"{episode.episode_id:7}  {episode.length:5}  "
            f"{'success' if episode.success else 'failure'}  "
            f"{ways_left[episode.episode_id]:8.2f}  {episode.distance:8.2f}  "
            f"{episode.progress_reward:6.2f}"
        )
    failures = [e for group in groups for e in group.episodes if not e.success]
    correlation = rank_correlation(
        [episode.progress_reward for episode in failures],
        [-ways_left[episode.episode_id] for episode in failures],
    )
    print(f"\nRank correlation of reward and true progress, all failures: {correlation:.2f}")
    envs.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=400, help="default: %(default)s")
    main(parser.parse_args().num_steps)
