"""Measures the wrapper's cost per step, per group and per batch.

    python tests/benchmarks/wrapper.py

Prints the results and asserts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from srpo_env import SelfReferentialProgressWrapper, relabel

NUM_ENVS, SIZE, EPISODE = 8, 128, 280
LIBERO_STEP = 1 / 490
"""Seconds of LIBERO's fastest control step in one process, without images"""


class StaticVectorEnv(VectorEnv):
    """Returns the same image at every step, and ends every episode after `EPISODE` steps."""

    def __init__(self) -> None:
        camera = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.num_envs = NUM_ENVS
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = spaces.Dict(agentview=camera, wrist=camera)
        self.observation_space = batch_space(self.single_observation_space, NUM_ENVS)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, NUM_ENVS)
        self.observations = self.observation_space.sample()
        self.time = 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.observations, {}

    def step(self, actions):
        self.time = (self.time + 1) % (EPISODE + 1)
        ended = np.full(NUM_ENVS, self.time == EPISODE)
        infos = {"is_success": ended & (np.arange(NUM_ENVS) < 3)} if ended.all() else {}
        return self.observations, ended.astype(float), ended, ended & ~ended, infos


class RandomEncoder:
    """Returns random latents at almost no cost, so that only the wrapper is measured."""

    latent_shape = (1408,)

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def encode(self, videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return self.rng.standard_normal((len(videos), 1408), dtype=np.float32)


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Returns the mean CPU time of a call, after one warm-up call."""
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return 1e3 * (time.process_time() - start) / repeats


def main() -> None:
    actions = np.zeros(NUM_ENVS, int)
    bare: gymnasium.vector.VectorEnv = StaticVectorEnv()
    bare.reset()
    without = milliseconds(lambda: bare.step(actions), 2000)
    wrapped = SelfReferentialProgressWrapper(StaticVectorEnv(), RandomEncoder(), frames="agentview")
    wrapped.reset()

    def step_and_fetch() -> None:
        wrapped.step(actions)
        wrapped.pop_groups()

    for _ in range(2 * EPISODE):
        step_and_fetch()  # imports scikit-learn at the first end, and fills the memory pools
    within = milliseconds(step_and_fetch, 10 * (EPISODE + 1))
    cost = within - without
    print(f"step of {NUM_ENVS} envs, {SIZE} px, groups closed and popped, encoder excluded:")
    print(f"  without {without:.3f} ms, with {within:.3f} ms: {cost:.3f} ms")
    share = cost / (1e3 * LIBERO_STEP * NUM_ENVS)
    print(f"  {share:.1%} of {NUM_ENVS} control steps of {1e3 * LIBERO_STEP:.1f} ms in one process")

    rng = np.random.default_rng(0)
    latents = rng.standard_normal((512, 1408), dtype=np.float32)
    successes = rng.random(512) < 0.5
    group = milliseconds(lambda: relabel(latents[:8], np.arange(8) < 4), 100)
    print(f"reward of a group of 8, 1408-d: {group:.2f} ms")
    ids = np.arange(512) // 8
    groups = milliseconds(lambda: relabel(latents, successes, ids), 5)
    print(f"reward of 512 episodes in 64 groups: {groups:.1f} ms")
    batch = milliseconds(lambda: relabel(latents, successes), 5)
    print(f"reward of 512 episodes of one task: {batch:.1f} ms")


if __name__ == "__main__":
    main()
