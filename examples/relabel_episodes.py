"""Compute rewards of recorded episodes, without an environment.

    python examples/relabel_episodes.py

First records a few episodes into a file in LIBERO's layout, as you may have them, then computes
their rewards. The command line does the second part, too:

    PYTHONPATH=examples srpo-env relabel --encoder your_encoder:WalkerEncoder FILE

Needs `pip install h5py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import numpy as np
from detour import Detour, draw, noisy_policy
from your_encoder import WalkerEncoder

from srpo_env.offline import read_libero, relabel_episodes, write_rewards


def main(folder: Path, num_episodes: int) -> None:
    """Records episodes, computes their rewards and prints them."""
    folder.mkdir(parents=True, exist_ok=True)
    recording = folder / "walk_around_the_wall_demo.hdf5"
    record(recording, num_episodes)

    result = relabel_episodes(read_libero(recording), WalkerEncoder())
    file = write_rewards(result, overwrite=True)[str(recording)]

    print(f"{recording} is unchanged; the rewards are in {file}\n")
    with np.load(file) as saved:
        print("episode       outcome  distance  reward")
        for row in np.argsort(-saved["rewards"], kind="stable"):
            print(
                f"{saved['names'][row]:12}  {'success' if saved['successes'][row] else 'failure'}  "
                f"{saved['distances'][row]:8.2f}  {saved['rewards'][row]:6.2f}"
            )


def record(path: Path, num_episodes: int) -> None:
    """Records episodes of a policy that succeeds in about 60% of them."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["macros_image_convention"] = "opencv"  # upright images
        for number in range(num_episodes):
            env = Detour()
            observation, _ = env.reset()
            images, rewards, ended = [], [], False
            while not ended:
                observation, reward, success, truncated, _ = env.step(
                    noisy_policy(observation, rng)
                )
                images.append(draw(observation))
                rewards.append(reward)
                ended = success or truncated
            episode = file.create_group(f"data/demo_{number}")
            episode["obs/agentview_rgb"] = np.stack(images)
            episode["rewards"] = np.array(rewards)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/relabel_episodes"))
    parser.add_argument("--num-episodes", type=int, default=12, help="default: %(default)s")
    args = parser.parse_args()
    main(args.folder, args.num_episodes)
