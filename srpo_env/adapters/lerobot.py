"""lerobot's ``LiberoEnv``: a time limit, and which task and initial state an episode has.

```python
make = lambda: LerobotLibero(LiberoEnv(suite, 0, "libero_object"))
envs = SyncVectorEnv([make] * 8)  # or AsyncVectorEnv
envs = SelfReferentialProgressWrapper(envs, encoder, frames=upright_image)
```

Facts about lerobot are those of version 0.4.4, ``lerobot/envs/libero.py``.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt


class LerobotLibero(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Completes what lerobot leaves to its evaluation loop.

    * ``truncated`` after the suite's limit, which lerobot's environment has but does not apply.
    * ``task_id`` and ``init_state_id`` in the info of each reset: lerobot tells the task only in
      `step`, and the initial state nowhere, so that episodes could not be grouped.
    * ``reset(options={"init_state_id": ..})`` selects the initial state. Otherwise lerobot goes on
      to another one at every reset, and the members of a group start differently.
    """

    def __init__(self, env: Any) -> None:
        """Wraps a ``LiberoEnv`` of lerobot.

        Raises:
            TypeError: If it is none.
        """
        super().__init__(env)
        needed = ("_max_episode_steps", "_init_states", "init_state_id", "task_id")
        missing = [name for name in needed if not hasattr(env.unwrapped, name)]
        if missing:
            raise TypeError(f"`env` must be lerobot's LiberoEnv, {env} has no {', '.join(missing)}")
        self._num_steps = 0
        self._ids: dict[str, int] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; ``options`` may hold ``init_state_id``.

        Raises:
            ValueError: If there is no such initial state.
        """
        inner: Any = self.env.unwrapped
        options, states = dict(options or {}), inner._init_states
        if "init_state_id" in options:
            chosen, count = options.pop("init_state_id"), 0 if states is None else len(states)
            if not 0 <= chosen < count:
                raise ValueError(f"`init_state_id` must be in 0..{count - 1}, got {chosen}")
            inner.init_state_id = int(chosen)
        self._ids = {"task_id": int(inner.task_id)}
        if states is not None:
            # Read now: the reset moves it on.
            self._ids["init_state_id"] = int(inner.init_state_id) % len(states)
        self._num_steps = 0
        observation, info = self.env.reset(seed=seed, options=options or None)
        return observation, {**info, **self._ids}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Executes one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._num_steps += 1
        inner: Any = self.env.unwrapped
        truncated = truncated or (self._num_steps >= inner._max_episode_steps and not terminated)
        return observation, reward, terminated, truncated, {**info, **self._ids}


def upright_image(observation: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The third-person image, for the wrapper's ``frames``; lerobot leaves it upside down."""
    image: npt.NDArray[np.uint8] = observation["pixels"]["image"][::-1]
    return image
