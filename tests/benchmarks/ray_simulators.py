"""Compares the speed of simulators in Ray actors with that of local ones, on the same work.

    python -m tests.benchmarks.ray_simulators --envs 8 --workers 2 --repeats 7

Both execute the same actions in turn, on this machine, and must return the same observations. The
ratio is computed within a repeat, so that drift of the machine cancels. Asserts no speed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import closing

import numpy as np
import ray
from gymnasium.vector import AutoresetMode

from srpo_env.libero.ray_vector import RayVectorEnv
from srpo_env.libero.vector import LiberoVectorEnv

CHOSEN = {"task_id": 0, "init_state_id": 0}


def steps_per_second(envs, actions):
    """Returns control steps per second, and the last results."""
    envs.reset(options=CHOSEN)
    begin = time.perf_counter()
    for chunk in actions:
        results = envs.step(chunk)
    seconds = time.perf_counter() - begin
    return actions.shape[0] * actions.shape[1] * actions.shape[2] / seconds, results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    ray.init(num_cpus=args.workers, object_store_memory=200 * 2**20, include_dashboard=False)
    settings = {
        "num_envs": args.envs, "num_workers": args.workers,
        "autoreset_mode": AutoresetMode.DISABLED, "timeout": 600.0,
    }  # fmt: skip
    rng, ratios = np.random.default_rng(0), []
    with closing(LiberoVectorEnv(**settings)) as local, closing(RayVectorEnv(**settings)) as remote:
        shape = (args.chunks, *local.action_space.shape)
        actions = rng.uniform(-1, 1, shape).astype(np.float32)
        for repeat in range(args.repeats + 1):
            order = (local, remote) if repeat % 2 else (remote, local)
            found = {envs: steps_per_second(envs, actions) for envs in order}
            np.testing.assert_equal(found[remote][1], found[local][1])
            if repeat:  # the first one compiles the task
                ratios.append(found[remote][0] / found[local][0])
                print(
                    f"local {found[local][0]:.0f} steps/s, Ray {found[remote][0]:.0f} steps/s, "
                    f"ratio {ratios[-1]:.2f}",
                    flush=True,
                )
    low, high = min(ratios), max(ratios)
    print(f"median ratio {statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]")
    ray.shutdown()


if __name__ == "__main__":
    main()
