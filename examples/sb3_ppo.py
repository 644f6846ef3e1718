"""Stable-Baselines3's PPO with shaped rewards.

    python examples/sb3_ppo.py

The three lines that end in ``# SRPO`` are the difference to a script without: two are new, and
`learn` gets a callback. Saving and loading do not change. Needs `pip install 'srpo-env[sb3]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detour import Detour, draw
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from your_encoder import WalkerEncoder

from srpo_env.adapters.stable_baselines3 import ShapedRewards, wrap_vec_env  # SRPO
from srpo_env.types import Credit


def main(total_timesteps: int, folder: Path, credit: Credit = "episode") -> None:
    """Trains a policy, saves and loads it, and runs it for one episode."""
    venv = make_vec_env(Detour, n_envs=8, seed=1)
    venv = wrap_vec_env(venv, WalkerEncoder(), frames=draw, reference="task")  # SRPO
    model = PPO("MlpPolicy", venv, n_steps=256, learning_rate=1e-3, seed=1, device="cpu", verbose=1)
    model.learn(total_timesteps, log_interval=4, callback=ShapedRewards(credit))  # SRPO

    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "sb3_ppo.zip")
    model = PPO.load(folder / "sb3_ppo.zip", device="cpu")
    env = Detour()
    observation, _ = env.reset()
    ended = False
    while not ended:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, success, truncated, _ = env.step(action)
        ended = success or truncated
    print(f"The loaded policy, without exploration, {'reached' if success else 'missed'} the goal.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--total-timesteps", type=int, default=40_000, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument(
        "--credit",
        choices=("episode", "dense"),
        default="episode",
        help="when an episode's return is paid: on its last step, or along its way",
    )
    args = parser.parse_args()
    main(args.total_timesteps, args.folder, args.credit)
