"""lerobot's ``LiberoEnv``: adds a time limit, and the task and initial state of each episode.

```python
make = lambda: LerobotLibero(LiberoEnv(suite, 0, "libero_object"), max_episode_steps=280)
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

NUM_INIT_STATES = 50
"""Number of initial states that LIBERO stores for each of its tasks."""


class LerobotLibero(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the time limit and the infos that lerobot's environment lacks.

    * ``truncated`` after ``max_episode_steps``; lerobot's environment never truncates.
    * ``task_id`` and ``init_state_id`` in the info of each reset. lerobot returns the task only
      from `step`, and never returns the initial state, so that episodes could not be grouped.
    * ``reset(options={"init_state_id": ..})`` selects the initial state. Otherwise lerobot uses
      the next one at every reset, and the episodes of a group would start differently.
    """

    def __init__(
        self, env: Any, max_episode_steps: int, *, num_init_states: int = NUM_INIT_STATES
    ) -> None:
        """Wraps a ``LiberoEnv`` of lerobot.

        Args:
            env: The environment.
            max_episode_steps: Number of control steps before truncation; LIBERO's suites are
                evaluated with 280 (spatial, object), 300 (goal), 520 (10) and 400 (90).
            num_init_states: Number of initial states that the task has.

        Raises:
            TypeError: If ``env`` is not a ``LiberoEnv``.
            ValueError: If a number is not positive.
        """
        super().__init__(env)
        needed = ("init_states", "init_state_id", "task_id")
        missing = [name for name in needed if not hasattr(env.unwrapped, name)]
        if missing:
            raise TypeError(f"`env` must be lerobot's LiberoEnv, {env} has no {', '.join(missing)}")
        if max_episode_steps < 1 or num_init_states < 1:
            raise ValueError(
                "`max_episode_steps` and `num_init_states` must be at least 1, got "
                f"{max_episode_steps} and {num_init_states}"
            )
        self.max_episode_steps = max_episode_steps
        self.num_init_states = num_init_states if env.unwrapped.init_states else 0
        self._num_steps = 0
        self._ids: dict[str, int] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; ``options`` may contain ``init_state_id``.

        Raises:
            ValueError: If there is no such initial state.
        """
        inner: Any = self.env.unwrapped
        options = dict(options or {})
        if "init_state_id" in options:
            chosen = options.pop("init_state_id")
            if not 0 <= chosen < self.num_init_states:
                raise ValueError(
                    f"`init_state_id` must be in 0..{self.num_init_states - 1}, got {chosen}"
                )
            inner.init_state_id = int(chosen)
        self._ids = {"task_id": int(inner.task_id)}
        if self.num_init_states:
            # Read before the reset, which increments it without a bound.
            self._ids["init_state_id"] = int(inner.init_state_id) % self.num_init_states
        self._num_steps = 0
        observation, info = self.env.reset(seed=seed, options=options or None)
        return observation, {**info, **self._ids}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Executes one control step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._num_steps += 1
        truncated = truncated or (self._num_steps >= self.max_episode_steps and not terminated)
        return observation, reward, terminated, truncated, {**info, **self._ids}


def upright_image(observation: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Returns the third-person image, for the wrapper's ``frames``; lerobot's is upside down."""
    image: npt.NDArray[np.uint8] = observation["pixels"]["image"][::-1]
    return image
