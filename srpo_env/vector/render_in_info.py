"""Rendered frames for environments whose observations have no image, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium


class RenderInInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds the rendered image of an environment to its info, for ``frames="info/rendered"``.

    Unlike ``frames="render"``, this works with `AutoresetMode.SAME_STEP`, which CleanRL uses: there
    a step that ends an episode also resets, so that the last frame can be rendered only inside the
    step. In an AsyncVectorEnv, the worker processes render in parallel.
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
        """Resets the environment, and renders the first frame."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "rendered": self.env.render()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and renders the next frame."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "rendered": self.env.render()}
