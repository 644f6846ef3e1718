"""The task of the examples: walk around a wall to a goal, filmed from above.

The reward is sparse: 1 at the goal, 0 before. Random actions reach the goal in 4 of 100 episodes,
and the straight line to the goal ends at the wall.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

START, GOAL = np.array([0.2, 0.2]), np.array([0.8, 0.2])
GOAL_RADIUS = 0.15
WALL_X, WALL_TOP = 0.5, 0.45
"""The wall stands on the lower edge of the room, which is a unit square."""
STRIDE = 0.12
"""Distance that an action of 1 moves along an axis."""
MAX_STEPS = 40


class Detour(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """A point that walks in a room with a wall.

    Observation: the position, scaled to [-1, 1], shape ``(2,)``. Action: the step to take, in
    [-1, 1], shape ``(2,)``. An episode terminates at the goal and is truncated after `MAX_STEPS`;
    ``info["is_success"]`` is the success flag, ``info["way_left"]`` the distance still to walk.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        """Initialises the spaces."""
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Starts an episode, always at the same place."""
        super().reset(seed=seed)
        self._position, self._steps = START, 0
        return self._observe(), {}

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Takes one step; a step into the wall leaves the position unchanged."""
        old = self._position
        new = np.clip(old + STRIDE * np.clip(action, -1.0, 1.0), 0.0, 1.0)
        if (old[0] < WALL_X) != (new[0] < WALL_X):
            crossing = old[1] + (new[1] - old[1]) * (WALL_X - old[0]) / (new[0] - old[0])
            new = old if crossing < WALL_TOP else new
        self._position = new
        self._steps += 1
        success = bool(np.linalg.norm(new - GOAL) < GOAL_RADIUS)
        truncated = self._steps == MAX_STEPS and not success
        info = {"is_success": success, "way_left": way_left(new)}
        return self._observe(), float(success), success, truncated, info

    def render(self) -> npt.NDArray[np.uint8] | None:  # type: ignore[override]
        """Returns the camera image, or None without a ``render_mode``."""
        return None if self.render_mode is None else draw(self._observe())

    def _observe(self) -> npt.NDArray[np.float32]:
        return (2.0 * self._position - 1.0).astype(np.float32)


def draw(observation: npt.NDArray[np.float32], size: int = 32) -> npt.NDArray[np.uint8]:
    """Draws the room from above, ``(size, size, 3)``: goal green, wall dark, walker red."""
    background, xs, ys = _room(size)
    x, y = (observation + 1.0) / 2.0
    image = background.copy()
    image[(xs - x) ** 2 + (ys - y) ** 2 < 0.08**2] = (200, 40, 40)
    return image


def noisy_policy(
    observation: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns an action towards the goal, around the wall, with noise: about 60% success."""
    position = (observation + 1.0) / 2.0
    if position[0] > WALL_X:
        direction = GOAL - position
    elif position[1] > WALL_TOP:
        direction = np.array([1.0, 0.0])
    else:
        direction = np.array([0.4, 1.0])
    action = 0.25 * direction / np.linalg.norm(direction) + 0.6 * rng.standard_normal(2)
    return np.clip(action, -1.0, 1.0).astype(np.float32)


def way_left(position: npt.NDArray[np.floating]) -> float:
    """Returns the length of the shortest way to the goal, around the wall if it is in between."""
    corner = np.array([WALL_X, WALL_TOP])
    straight = position + (GOAL - position) * (WALL_X - position[0]) / (GOAL[0] - position[0] or 1)
    if position[0] < WALL_X and straight[1] < WALL_TOP:
        return float(np.linalg.norm(position - corner) + np.linalg.norm(corner - GOAL))
    return float(np.linalg.norm(position - GOAL))


_rooms: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[Any], npt.NDArray[Any]]] = {}


def _room(size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns the image of the empty room and the coordinates of its pixels; cached by size."""
    if size not in _rooms:
        centers = (np.arange(size) + 0.5) / size
        xs, ys = np.meshgrid(centers, centers[::-1])
        image = np.full((size, size, 3), 235, np.uint8)
        image[np.hypot(xs - GOAL[0], ys - GOAL[1]) < GOAL_RADIUS] = (120, 200, 120)
        image[(np.abs(xs - WALL_X) < 0.03) & (ys < WALL_TOP)] = (60, 60, 60)
        _rooms[size] = image, xs, ys
    return _rooms[size]
