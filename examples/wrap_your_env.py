"""Wrap an environment that srpo-env has never seen, and look at the rewards of one group.

    python examples/wrap_your_env.py

Two arguments are about your environment: where the picture is (here: rendered), and which episodes
are comparable (here: all). Needs nothing beyond `pip install srpo-env`.
"""

from __future__ import annotations

import argparse

import numpy as np
from detour import Detour, stroll
from gymnasium.vector import SyncVectorEnv

from srpo_env import PixelEncoder, SelfReferentialProgressWrapper


def main(num_steps: int) -> None:
    """Plays with a policy that succeeds now and then, and prints the last group."""
    envs = SyncVectorEnv([lambda: Detour(render_mode="rgb_array")] * 8)
    envs = SelfReferentialProgressWrapper(envs, PixelEncoder(), frames="render", group_size=8)

    rng = np.random.default_rng(0)
    observations, _ = envs.reset(seed=0)
    buffer = np.zeros((num_steps, envs.num_envs))
    for step in range(num_steps):
        actions = np.stack([stroll(observation, rng) for observation in observations])
        observations, buffer[step], *_ = envs.step(actions)

    paid_before = np.count_nonzero(buffer)
    num_paid = envs.rewrite(buffer)
    print(
        f"{num_steps} steps of 8 environments: {paid_before} successes were paid by the environment"
    )
    print(f"and {num_paid} failures by `rewrite`, each at its last step.\n")

    shaped = [group for group in envs.pop_groups() if group.shaped]
    print("episode  env  steps  outcome  distance  reward")
    for episode in sorted(shaped[0].episodes, key=lambda episode: -episode.progress_reward):
        print(
            f"{episode.episode_id:7}  {episode.env_index:3}  {episode.length:5}  "
            f"{'success' if episode.success else 'failure'}  {episode.distance:8.2f}  "
            f"{episode.progress_reward:6.2f}"
        )
    envs.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=200, help="default: %(default)s")
    main(parser.parse_args().num_steps)
