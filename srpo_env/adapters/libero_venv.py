"""Converts LIBERO's own `DummyVectorEnv` and `SubprocVectorEnv` to Gymnasium's interface.

```python
venv = SubprocVectorEnv([lambda: OffScreenRenderEnv(bddl_file_name=file)] * 8)
envs = LiberoVenvToGymnasium(venv, benchmark.get_task_init_states(0), max_episode_steps=280)
envs = SelfReferentialProgressWrapper(envs, encoder)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from srpo_env.types import Array

Observations = dict[str, Array]

OBSERVATIONS = (
    "agentview_image",
    "robot0_eye_in_hand_image",
    "robot0_eef_pos",
    "robot0_eef_quat",
    "robot0_gripper_qpos",
)
"""LIBERO's names of the observations that policies use; other names differ between tasks."""

SETTLE_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
"""No motion, gripper open. Evaluations of LIBERO start with it, until the objects are at rest."""

RESET_ATTEMPTS = 100
"""Number of random placements that a reset tries before it fails; LIBERO has no such limit."""


class LiberoVenvToGymnasium(VectorEnv[Observations, Array, Array]):
    """LIBERO's vector environment with Gymnasium's interface, a time limit and initial states.

    * Observations are those of LIBERO that are named in ``observations``, with its images upside
      down, and ``agentview``, the upright third-person image.
    * An action is one control step, shape ``(7,)``. The reward is LIBERO's, 1 on success.
    * An episode terminates on success and is truncated after ``max_episode_steps``. LIBERO itself
      has no limit, so a failure would never end.
    * ``info`` has ``task_id``, ``init_state_id`` and ``is_success``.
    * ``reset(options={"init_state_id": .., "reset_mask": ..})`` takes one value for all
      environments or an array; without ``init_state_id``, the initial states are random.
    """

    venv: Any = None

    def __init__(
        self,
        venv: Any,
        init_states: Array | Sequence[Array],
        *,
        max_episode_steps: int,
        task_ids: int | Sequence[int] = 0,
        observations: Sequence[str] = OBSERVATIONS,
        settle_steps: int = 10,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        timeout: float = 300.0,
    ) -> None:
        """Converts ``venv``; gets one observation of each environment for the spaces.

        Args:
            venv: A vector environment of LIBERO's ``OffScreenRenderEnv``.
            init_states: Flattened simulator states, shape ``(num_states, state_dim)``, as
                ``benchmark.get_task_init_states`` returns them; if the tasks differ, a list with
                such an array for each environment.
            max_episode_steps: Number of control steps before truncation; LIBERO's suites are
                evaluated with 280 (spatial, object), 300 (goal), 520 (10) and 400 (90).
            task_ids: Value of ``info["task_id"]``, for all environments or for each of them.
            observations: Names of the observations to return.
            settle_steps: Number of control steps without motion after a reset; they do not count as
                steps of the episode.
            autoreset_mode: ``NEXT_STEP`` or ``DISABLED``. With ``DISABLED``, an environment whose
                episode has ended waits for its reset, and a step returns its last result again with
                reward 0.
            timeout: Maximum duration of a reset in a worker process, in seconds.

        Raises:
            ValueError: If an argument is out of its range, or ``venv`` steps asynchronously.
        """
        if autoreset_mode is AutoresetMode.SAME_STEP:
            raise ValueError("`autoreset_mode` must be NEXT_STEP or DISABLED, got SAME_STEP")
        if max_episode_steps < 1 or settle_steps < 0:
            raise ValueError(
                "`max_episode_steps` must be at least 1 and `settle_steps` at least 0, got "
                f"{max_episode_steps} and {settle_steps}"
            )
        if venv.is_async:
            raise ValueError(
                "`venv` must be made without `wait_num` and `timeout`: with them, it does not step "
                "all environments in each step"
            )
        self.venv, self.num_envs = venv, len(venv)
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.max_episode_steps, self.settle_steps = max_episode_steps, settle_steps
        self._names = tuple(observations)
        self._timeout = timeout
        self._init_states = self._states_of_each(init_states)
        self._task_ids = [int(number) for number in self._per_env("task_ids", task_ids)]
        self._rng = np.random.default_rng()
        first = [self._pick(raw) for raw in self._place(range(self.num_envs), [0] * self.num_envs)]
        self._last: list[Observations] = first
        self.single_observation_space = Dict({name: _box(first[0][name]) for name in first[0]})
        for index, observation in enumerate(first):
            if Dict({name: _box(observation[name]) for name in first[0]}) != (
                self.single_observation_space
            ):
                raise ValueError(
                    "`observations` must have the same shapes in all environments, those of "
                    f"environments 0 and {index} differ: leave out the names that differ"
                )
        self.single_action_space = Box(-1.0, 1.0, SETTLE_ACTION.shape, np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._state_ids = np.zeros(self.num_envs, dtype=np.int64)
        self._num_steps = np.zeros(self.num_envs, dtype=np.int64)
        self._terminated = np.zeros(self.num_envs, dtype=np.bool_)
        self._started = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Starts episodes: in all environments, or in those of ``options["reset_mask"]``.

        Raises:
            ValueError: If an option is unknown or has a wrong shape, or there is no such state.
            RuntimeError: If an environment cannot be reset.
        """
        options = dict(options or {})
        mask = self._per_env("reset_mask", options.pop("reset_mask", True)).astype(np.bool_)
        state_ids: Array | list[None] = [None] * self.num_envs
        if "init_state_id" in options:
            state_ids = self._per_env("init_state_id", options.pop("init_state_id"))
        if options:
            raise ValueError(
                "`options` may contain only reset_mask and init_state_id, got also "
                f"{', '.join(options)}"
            )
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        chosen = [int(index) for index in np.flatnonzero(mask)]
        self._start(chosen, [state_ids[index] for index in chosen])
        infos: dict[str, Any] = {}
        for index in chosen:
            infos = self._add_info(infos, self._info(index), index)
        return self._observe(), infos

    def step(self, actions: Array) -> tuple[Observations, Array, Array, Array, dict[str, Any]]:
        """Executes one control step in every environment.

        Raises:
            ValueError: If the actions are not of shape ``(num_envs, 7)``, or not finite.
            gymnasium.error.ResetNeeded: If an environment was not reset, or all wait for a reset.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape != self.action_space.shape or not np.isfinite(actions).all():
            raise ValueError(
                f"actions must be finite and of shape {self.action_space.shape}: (num_envs, 7), "
                f"got {actions}"
            )
        ended = self._terminated | self._truncated
        if not self._started.all() or (self._waits and ended.all()):
            raise ResetNeeded("`reset` must be called before `step`: an environment has no episode")
        running = [int(index) for index in np.flatnonzero(~ended)]
        rewards = np.zeros(self.num_envs)
        if running:
            raw, earned, dones, _ = self.venv.step(actions[running], id=running)
            for row, index in enumerate(running):
                self._last[index] = self._pick(raw[row])
                rewards[index] = earned[row]
                self._terminated[index] = bool(dones[row])
                self._num_steps[index] += 1
        if not self._waits:
            slots = [int(index) for index in np.flatnonzero(ended)]
            self._start(slots, [None] * len(slots))
        infos: dict[str, Any] = {}
        for index in range(self.num_envs):
            infos = self._add_info(infos, self._info(index), index)
        return self._observe(), rewards, self._terminated.copy(), self._truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Closes LIBERO's environments, if they are open."""
        if self.venv is not None and not self.venv.is_closed:
            self.venv.close()

    def __del__(self) -> None:
        """Leaves ``venv`` open, because it is the caller's; Gymnasium 1.2 would close it."""

    # --- Episodes ---

    @property
    def _waits(self) -> bool:
        return self.metadata["autoreset_mode"] is AutoresetMode.DISABLED

    @property
    def _truncated(self) -> npt.NDArray[np.bool_]:
        over: npt.NDArray[np.bool_] = self._num_steps >= self.max_episode_steps
        return over & ~self._terminated

    def _start(self, slots: list[int], chosen: Sequence[Any]) -> None:
        """Starts episodes; None stands for a random initial state."""
        if not slots:
            return
        state_ids: list[int] = []
        for state_id, index in zip(chosen, slots, strict=True):
            count = len(self._init_states[index])
            if state_id is None:
                state_id = self._rng.integers(count)
            if not isinstance(state_id, (int, np.integer)) or not 0 <= state_id < count:
                raise ValueError(
                    f"`init_state_id` must be an integer in 0..{count - 1}, got {state_id}; leave "
                    "it out to draw one"
                )
            state_ids.append(int(state_id))
        self._reset_simulators(slots)
        raw = self._place(slots, state_ids)
        for _ in range(self.settle_steps):
            raw = self.venv.step(np.tile(SETTLE_ACTION, (len(slots), 1)), id=slots)[0]
        for row, index in enumerate(slots):
            self._last[index] = self._pick(raw[row])
        self._state_ids[slots] = state_ids
        self._num_steps[slots], self._terminated[slots], self._started[slots] = 0, False, True

    def _place(self, slots: Sequence[int], state_ids: Sequence[int]) -> Any:
        states = [self._init_states[i][state] for i, state in zip(slots, state_ids, strict=True)]
        return self.venv.set_init_state(states, id=list(slots))

    def _reset_simulators(self, slots: list[int]) -> None:
        """Resets without LIBERO's `ControlEnv.reset`, which repeats a failing reset without end."""
        workers = [self.venv.workers[index] for index in slots]
        in_processes = hasattr(workers[0], "parent_remote")
        for worker in workers:
            if in_processes:
                worker.send(None)
            else:
                _reset_here(worker.env)
        if in_processes:
            for index, worker in zip(slots, workers, strict=True):
                if not worker.parent_remote.poll(self._timeout):
                    worker.process.kill()
                    worker.is_closed = True  # else LIBERO would wait for its answer when closing
                    raise RuntimeError(
                        f"Environment {index} was not reset within {self._timeout:g} s. LIBERO "
                        "repeats a reset that raises an error, without end or message: create the "
                        "environment in this process and call `env.env.reset()` to see the error"
                    )
                worker.recv()

    def _observe(self) -> Observations:
        return {
            name: np.stack([observation[name] for observation in self._last])
            for name in self._last[0]
        }

    def _pick(self, raw: dict[str, Any]) -> Observations:
        missing = [name for name in self._names if name not in raw]
        if missing:
            raise ValueError(
                f"`observations` must be names that LIBERO returns, {missing} are not among "
                f"{sorted(raw)}"
            )
        picked = {name: np.asarray(raw[name]) for name in self._names}
        if "agentview_image" in raw:
            # OpenGL stores the lowest row first.
            picked["agentview"] = np.asarray(raw["agentview_image"])[::-1]
        return picked

    def _info(self, index: int) -> dict[str, Any]:
        return {
            "task_id": self._task_ids[index],
            "init_state_id": int(self._state_ids[index]),
            "is_success": bool(self._terminated[index]),
        }

    # --- Checks of arguments ---

    def _states_of_each(self, init_states: Array | Sequence[Array]) -> list[Array]:
        if isinstance(init_states, (list, tuple)):
            states = [np.asarray(part) for part in init_states]
        else:
            states = [np.asarray(init_states)] * self.num_envs
        if len(states) != self.num_envs or any(part.ndim != 2 for part in states):
            raise ValueError(
                f"`init_states` must be an array (num_states, state_dim), or a list of "
                f"{self.num_envs} such arrays, got shapes {[part.shape for part in states]}"
            )
        return states

    def _per_env(self, name: str, value: Any) -> Array:
        values = np.asarray(value)
        if values.shape not in ((), (self.num_envs,)):
            raise ValueError(
                f"`{name}` must be one value or of shape ({self.num_envs},), got {values.shape}"
            )
        return np.broadcast_to(values, (self.num_envs,))


def _reset_here(env: Any) -> None:
    from libero.libero.envs.env_wrapper import ControlEnv
    from robosuite.utils.errors import RandomizationError

    if type(env).reset is not ControlEnv.reset:
        env.reset()
        return
    for attempt in range(1, RESET_ATTEMPTS + 1):
        try:
            env.env.reset()
            return
        except RandomizationError:  # a random placement did not fit; the next one may
            if attempt == RESET_ATTEMPTS:
                raise


def _box(value: Array) -> Box:
    if value.dtype == np.uint8:
        return Box(0, 255, value.shape, np.uint8)
    return Box(-np.inf, np.inf, value.shape, value.dtype.type)
