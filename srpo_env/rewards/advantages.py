"""Advantages of single decisions, with a baseline from other episodes instead of a critic.

The expected return at a moment is estimated from the other episodes of the batch at a similar
progress potential and time: a weighted mean of their returns. No network has to be trained, and a
weak estimate costs variance only, because the baseline of an episode does not depend on the episode
itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srpo_env.types import Floats, Ints

POTENTIAL_WIDTH = 0.06
"""Standard deviation of the kernel over the potential, which is in [0, 1]."""

TIME_WIDTH = 0.15
"""Standard deviation of the kernel over time, as a share of the time limit."""

OTHER_TASK_WEIGHT = 0.05
"""Weight of the episodes of other tasks: they count where a task has few episodes."""


def baseline_values(
    returns: Floats, potentials: Sequence[Floats], times: Sequence[Floats], tasks: Ints
) -> list[Floats]:
    """Estimates the expected return at each decision from the other episodes.

    Args:
        returns: Return of each episode, shape ``(num_episodes,)``.
        potentials: Progress potential before each of an episode's decisions, in [0, 1], shape
            ``(num_decisions,)`` each.
        times: Share of the time limit that has passed before each of them, same shapes.
        tasks: Task of each episode, shape ``(num_episodes,)``.

    Returns:
        Expected returns, of the same shapes as ``potentials``.

    Raises:
        ValueError: If there is only one episode.
    """
    if len(returns) < 2:
        raise ValueError("a baseline needs at least 2 episodes, got 1")
    lengths = np.array([len(part) for part in potentials])
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    phi, time = np.concatenate(potentials), np.concatenate(times)
    distances = ((phi[:, None] - phi) / POTENTIAL_WIDTH) ** 2
    distances += ((time[:, None] - time) / TIME_WIDTH) ** 2
    weights = np.exp(-distances / 2)
    # Far from all others, the weights underflow. The floor makes the baseline their plain mean.
    weights += 1e-6
    weights *= np.where(tasks[episodes][:, None] == tasks[episodes], 1.0, OTHER_TASK_WEIGHT)
    weights *= episodes[:, None] != episodes
    values: Floats = weights @ returns[episodes] / weights.sum(axis=1)
    return np.split(values, np.cumsum(lengths)[:-1])


def decision_advantages(
    returns: Floats,
    potentials: Sequence[Floats],
    times: Sequence[Floats],
    tasks: Ints,
    decay: float = 0.9,
) -> list[Floats]:
    """Computes the advantage of each decision: how much it changed the expected return.

    The temporal differences of `baseline_values` are summed with a weight that decays along the
    episode, as in generalised advantage estimation (arXiv:1506.02438) without discounting.

    Args:
        returns: As in `baseline_values`.
        potentials: As in `baseline_values`.
        times: As in `baseline_values`.
        tasks: As in `baseline_values`.
        decay: Weight of the next difference relative to the one before it, in [0, 1]; lambda.

    Returns:
        Advantages, of the same shapes as ``potentials``.

    Raises:
        ValueError: If there is only one episode.
    """
    advantages = []
    for total, values in zip(
        returns, baseline_values(returns, potentials, times, tasks), strict=True
    ):
        differences = np.diff(np.append(values, total))
        for step in range(len(differences) - 2, -1, -1):
            differences[step] += decay * differences[step + 1]
        advantages.append(differences)
    return advantages
