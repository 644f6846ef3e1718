"""Fakes with known answers: a corridor whose frames show its state, an encoder that reads them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from srpo_env import SelfReferentialProgressWrapper

STAY, WALK, GIVE_UP = 0, 1, 2
GOAL = 3

PRELOADED = ["tests.corridor", "pytest"]
"""What the workers of `async_vector_env` import, once for all of them."""
multiprocessing.set_forkserver_preload(PRELOADED)


class Corridor(gymnasium.Env):
    """Walk right `GOAL` times to succeed; give up to fail at once; truncated after `limit` steps.

    The frame shows the complete state: ``frame[0, 0] == (position, time, slot)``. ``options`` may
    contain ``task_id`` and ``init_state_id``, each one value or an array with one for each slot.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, slot: int = 0, limit: int = 5, as_dict: bool = False, render: bool = False):
        image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        position = spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = (
            spaces.Dict({"agentview": image, "proprio": position}) if as_dict else image
        )
        self.action_space = spaces.Discrete(3)
        self.render_mode = "rgb_array" if render else None
        self.slot, self.limit, self.as_dict = slot, limit, as_dict
        self.num_resets = 0

    def observation(self):
        if self.as_dict:
            return {"agentview": self.render(), "proprio": np.array([self.position], np.float64)}
        return self.render()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.time = 0
        self.num_resets += 1
        info = {"num_resets": self.num_resets}
        for name in ("task_id", "init_state_id"):
            value = np.asarray((options or {}).get(name, 0))
            info[name] = int(value[self.slot] if value.ndim else value)
        return self.observation(), info

    def step(self, action):
        self.position += int(action == WALK)
        self.time += 1
        success = self.position == GOAL
        gave_up = action == GIVE_UP
        truncated = self.time >= self.limit and not (success or gave_up)
        info = {"is_success": success}
        return self.observation(), float(success), success or gave_up, truncated, info

    def render(self):
        pixel = np.array([self.position, self.time % 256, self.slot], np.uint8)
        return np.tile(pixel, (4, 4, 1))


class ReadingEncoder:
    """Latent ``(last position, number of frames)``, so that distances can be calculated by hand."""

    latent_shape = (2,)

    def __init__(self):
        self.videos: list[np.ndarray] = []

    def encode(self, videos: Sequence[np.ndarray]) -> np.ndarray:
        self.videos += [video[:, 0, 0] for video in videos]
        return np.array([[video[-1, 0, 0, 0], len(video)] for video in videos], np.float32)


class PathEncoder:
    """Path of ``(position, weight * time)`` at evenly spaced frames; time counts the steps."""

    def __init__(self, num_times: int = 4, weight: float = 0.0):
        self.latent_shape, self.weight = (num_times, 2), weight

    def encode(self, videos: Sequence[np.ndarray]) -> np.ndarray:
        paths = np.empty((len(videos), *self.latent_shape), np.float32)
        for path, video in zip(paths, videos, strict=True):
            rows = np.linspace(0, len(video) - 1, len(path)).round().astype(int)
            path[:] = video[rows, 0, 0, :2] * [1.0, self.weight]
        return paths


def async_vector_env(
    makers: Sequence[Callable[[], gymnasium.Env]], **kwargs: Any
) -> AsyncVectorEnv:
    """Makes an AsyncVectorEnv whose workers are not forks of this process.

    Other tests may have used Ray in it. A fork has the locks that Ray's threads held, but not the
    threads, and waits for these locks forever.
    """
    return AsyncVectorEnv(makers, context="forkserver", **kwargs)


def make_corridor(
    num_envs: int = 2,
    *,
    mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    vector: Callable[..., VectorEnv] = SyncVectorEnv,
    **kwargs: Any,
) -> VectorEnv:
    """Makes a vector environment of corridors; `kwargs` are passed to `Corridor`."""
    makers = [partial(Corridor, slot, **kwargs) for slot in range(num_envs)]
    return vector(makers, autoreset_mode=mode)


def drive(envs: VectorEnv, script: Sequence[Sequence[int]]) -> Iterator[tuple]:
    """Executes actions ``(num_steps, num_envs)``; with DISABLED, resets the ended environments."""
    dones = np.zeros(envs.num_envs, bool)
    for actions in script:
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and dones.any():
            envs.reset(options={"reset_mask": dones})
        result = envs.step(np.array(actions))
        dones = result[2] | result[3]
        yield result


def wrap(envs, encoder=None, **kwargs):
    return SelfReferentialProgressWrapper(envs, encoder or ReadingEncoder(), **kwargs)
