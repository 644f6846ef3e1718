"""Rendered pictures for environments whose observations have none, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium


class RenderInInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts what one environment renders into ``info["rendered"]``, for ``frames="info/rendered"``.

    Unlike ``frames="render"`` this works with `AutoresetMode.SAME_STEP`, as CleanRL uses it: when a
    step has returned, the episode's last picture can be rendered no more, but the info still has
    it. And in an AsyncVectorEnv each process renders its own.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wraps ``env``.

        Raises:
            ValueError: If it was not made with ``render_mode="rgb_array"``.
        """
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f'`env` must be made with render_mode="rgb_array", {env} has {env.render_mode!r}'
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets, and renders the first picture."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "rendered": self.env.render()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps, and renders what came of it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "rendered": self.env.render()}
