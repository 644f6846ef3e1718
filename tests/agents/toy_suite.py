"""A suite of two tasks without a simulator: move the gripper up, summed over the episode."""

from __future__ import annotations

from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from agents.vla_grpo import Args
from tests.policy.fakes import make_policy

CHUNK, SIZE = 8, 32


class ToySuite(VectorEnv):
    """Has the interface of LiberoVectorEnv."""

    num_tasks, suite, assets = 2, "libero_object", "placeholder"
    gl = "toy graphics"
    chunks_of_task = (2, 2)
    """length of the episodes of each task, in chunks"""
    before_step = staticmethod(lambda count: None)
    """called with the number of each step of any suite; may raise, or send a signal"""
    count = 0
    crash_slot: int | None = None
    """this slot's next step ends in a worker error"""
    move = None
    """replaces the actions: how far each slot's gripper moves, ``(num_envs,)``"""

    def __init__(
        self, num_envs, num_workers=None, autoreset_mode=None, max_steps=None, physics="exact",
        true_progress=False, look="libero",
    ):  # fmt: skip
        self.look = look
        self.num_envs, self.max_steps, self.physics = num_envs, max_steps, physics
        self.true_progress = true_progress
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        image = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        proprio = Box(-np.inf, np.inf, (8,), np.float32)
        self.single_observation_space = Dict(agentview=image, wrist=image, proprio=proprio)
        self.single_action_space = Box(-1, 1, (CHUNK, 7), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._height, self._highest = np.zeros((2, num_envs))
        self._chunks, self._steps, self._task, self._state = np.zeros((4, num_envs), int)
        self._perturbations = np.full(num_envs, "", dtype=object)

    @property
    def conditions(self):
        return {"assets": self.assets, "look": self.look}

    def reset(self, *, seed=None, options=None):
        mask = options["reset_mask"]
        for value in (self._height, self._highest, self._chunks, self._steps):
            value[mask] = 0
        self._task[mask] = options["task_id"][mask]
        self._state[mask] = options["init_state_id"][mask]
        perturbations = options.get("perturbation", [""] * self.num_envs)
        self._perturbations[mask] = np.array(perturbations, dtype=object)[mask]
        return self._observe(), self._infos(np.zeros(self.num_envs, bool), mask)

    def step(self, actions):
        type(self).count += 1
        self.before_step(self.count)
        lengths = np.array(self.chunks_of_task)[self._task]
        running = self._chunks < lengths
        moves = actions[:, :, 2].mean(axis=1) if self.move is None else np.array(self.move)
        self._height += np.where(running, moves, 0)
        self._highest = np.maximum(self._highest, self._height)
        self._chunks += running
        self._steps += CHUNK * running
        ended = self._chunks == lengths
        success = ended & (self._height > 0)
        infos = self._infos(success, np.ones(self.num_envs, bool))
        infos["positions"] = np.zeros((self.num_envs, CHUNK, 3), np.float32)
        if self.crash_slot is not None:
            slot, self.crash_slot = self.crash_slot, None
            # A new worker knows nothing of the episode.
            self._chunks[slot], ended[slot], success[slot] = lengths[slot], True, False
            infos["control_steps"][slot], infos["is_success"][slot] = 0, False
            infos["worker_error"] = np.array([None] * self.num_envs, dtype=object)
            infos["worker_error"][slot] = "WorkerDied"
            infos["_worker_error"] = np.arange(self.num_envs) == slot
        return self._observe(), success.astype(float), success, ended & ~success, infos

    def set_attr(self, name, values):
        setattr(self, name, values[0] if isinstance(values, list) else values)

    def get_attr(self, name):
        return (getattr(self, name),) * self.num_envs

    def _observe(self):
        image = np.zeros((self.num_envs, SIZE, SIZE, 3), np.uint8)
        image[:] = (100 + 50 * np.tanh(self._height)).astype(np.uint8)[:, None, None, None]
        image[:, 0, 0, 0] = [len(text) for text in self._perturbations]  # the policy sees it
        proprio = np.zeros((self.num_envs, 8), np.float32)
        proprio[:, 2] = self._height
        return {"agentview": image, "wrist": image.copy(), "proprio": proprio}

    def _infos(self, success, mask):
        infos = {
            "task": np.array([f"lift toy {task}" for task in self._task], dtype=object),
            "task_id": self._task.copy(),
            "init_state_id": self._state.copy(),
            "is_success": success.copy(),
            "control_steps": self._steps.copy(),
        }
        if self.true_progress:
            infos["max_progress"] = np.tanh(self._highest)
        masks = {f"_{name}": mask.copy() for name in infos}
        if self._perturbations.any():
            infos["perturbation"] = self._perturbations.copy()
            masks["_perturbation"] = mask & (self._perturbations != "")
        return {**infos, **masks}


@contextmanager
def registered_toy():
    """Registers the suite as ``toy`` for a while."""
    gymnasium.register("srpo_env/toy", vector_entry_point=ToySuite)
    try:
        yield ToySuite
    finally:
        del gymnasium.registry["srpo_env/toy"]


def toy_args(folder, **settings):
    """Settings of a short run of ``agents/vla_grpo.py`` on the toy suite.

    Some of its episodes are running whenever an iteration ends.
    """
    make_policy().save(folder / "start")
    common = {
        "env_id": "toy", "checkpoint": str(folder / "start"), "num_envs": 6, "group_size": 4,
        "iterations": 2, "groups_per_iteration": 2, "max_groups_per_iteration": 4,
        "eval_every": 1, "eval_episodes": 4, "torch_threads": 1, "device": "cpu",
        "run_dir": folder / "runs", "learning_rate": 1e-3, "encoder": "pixels",
        "replay_steps": 0, "credit": "episode",
    }  # fmt: skip
    return Args(**{**common, **settings})
