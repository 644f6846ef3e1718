"""A policy's own successes, kept to be imitated: the newest of each task.

Imitation needs no comparison of episodes, so that a single success is a signal. It does not say
what was wrong with a failure, which is what the policy gradient is for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch.optim.lr_scheduler import LambdaLR

from srpo_env.policy.base import Policy
from srpo_env.policy.imitation import Examples, waypoint_targets
from srpo_env.training.distributed import Ranks
from srpo_env.training.gradients import clip_gradients
from srpo_env.training.progress_bar import with_progress
from srpo_env.training.trajectories import Trajectory, pack, unpack
from srpo_env.types import Group

CAPACITY = 40
"""Number of successes that are kept of each task; older ones are of a worse policy."""

BATCH_SIZE = 96
"""Number of decisions per gradient step."""

GRIPPER_FILTER = 9
"""Window in control steps of the median filter of the gripper's actions.

A sampled token now and then opens or closes the gripper for a step or two, too short for the
fingers to follow. Imitated, such a step would be repeated, and it would count as a waypoint.
"""

MAX_GRAD_NORM = 1.0
"""Maximum norm of the gradient."""


class SuccessReplay:
    """The newest successes of each task."""

    def __init__(
        self, num_tasks: int, capacity: int = CAPACITY, ranks: Ranks | None = None
    ) -> None:
        """Initialises an empty replay.

        Args:
            num_tasks: Number of tasks.
            capacity: Number of successes that are kept of each task.
            ranks: The learners that imitate together, each its own successes; None: this process
                alone.
        """
        self.ranks = ranks or Ranks()
        self.successes = [deque[Trajectory](maxlen=capacity) for _ in range(num_tasks)]

    def __len__(self) -> int:
        """Returns the number of successes."""
        return sum(map(len, self.successes))

    def add(self, trajectory: Trajectory) -> None:
        """Adds a success."""
        self.successes[trajectory.task_id].append(trajectory)

    def add_successes(self, group: Group, trajectories: Sequence[Trajectory]) -> None:
        """Adds the trajectories of a group's successes."""
        for episode, trajectory in zip(group.episodes, trajectories, strict=True):
            if episode.success:
                self.add(trajectory)

    def imitate(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        success_rates: Sequence[float],
        max_steps: int,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Imitates successes, mainly of tasks that rarely succeed; returns metrics.

        The learning rate falls linearly to 0 over the gradient steps, and is restored at the end:
        at a constant rate, the success of a cloned policy changes from one step to the next.

        Args:
            policy: The policy to train.
            optimizer: Its optimizer for this loss, with the rate of the first gradient step.
            success_rates: Current success rate of each task.
            max_steps: Number of gradient steps if no task succeeds; fewer by the mean success rate.
            generator: Random number generator.
        """
        weights = [1.0 - rate for rate in success_rates]
        # Successes have observations, which stay where they are: each rank draws from its own.
        size, num_ranks = self.ranks.sum(len(self), bool(len(self)))
        steps = round(max_steps * float(np.mean(weights))) if size else 0
        batch_size = BATCH_SIZE if num_ranks <= 1 else math.ceil(BATCH_SIZE / num_ranks)
        device, losses = next(policy.parameters()).device, []
        schedule = LambdaLR(optimizer, lambda step: 1 - step / max(steps, 1))
        try:
            for _ in with_progress("imitation, minibatches", steps, iter(range(steps))):
                optimizer.zero_grad()
                losses.append(0.0)
                if len(self):
                    examples = self.examples(policy, weights, batch_size, generator)
                    examples = examples.select(slice(None), device)
                    examples.inputs = policy.augment(examples.inputs, generator)
                    loss = policy.imitation_loss(examples)[0] / num_ranks
                    loss.backward()  # type: ignore[no-untyped-call]
                    losses[-1] = float(loss.detach())
                self.ranks.add_gradients(policy.parameters())
                clip_gradients(policy.parameters(), MAX_GRAD_NORM)
                optimizer.step()
                schedule.step()
        finally:
            for group, rate in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
                group["lr"] = rate
        metrics = {"charts/replay_size": float(size), "charts/replay_steps": float(steps)}
        if losses:
            (metrics["losses/imitation"],) = self.ranks.sum(float(np.mean(losses)))
        return metrics

    def examples(
        self, policy: Policy, weights: Sequence[float], batch_size: int, generator: torch.Generator
    ) -> Examples:
        """Samples decisions to imitate: a task by its weight, then a success, then a decision.

        Args:
            policy: The policy, for the actions of its tokens.
            weights: Weight of each task, not negative; tasks without a success are left out.
            batch_size: Number of examples.
            generator: Random number generator.

        Raises:
            ValueError: If no task with a success has a positive weight.
        """
        known = [w if s else 0.0 for w, s in zip(weights, self.successes, strict=True)]
        if not any(known):
            raise ValueError("there must be a success of a task with a positive weight")
        tasks = torch.multinomial(
            torch.tensor(known), batch_size, replacement=True, generator=generator
        )
        draws = torch.rand(batch_size, 2, generator=generator).tolist()
        rows = []
        for task, (episode_draw, chunk_draw) in zip(tasks.tolist(), draws, strict=True):
            successes = self.successes[task]
            trajectory = successes[int(episode_draw * len(successes))]
            rows.append((trajectory, int(chunk_draw * len(trajectory.chunks))))
        return hindsight_examples(rows, policy)

    def state_dict(self) -> dict[str, Any]:
        """Returns all successes, the oldest of each task first."""
        every = [trajectory for successes in self.successes for trajectory in successes]
        return pack(dict(enumerate(every)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for successes in self.successes:
            successes.clear()
        for trajectory in unpack(state).values():
            self.add(trajectory)


def hindsight_examples(rows: Sequence[tuple[Trajectory, int]], policy: Policy) -> Examples:
    """Returns decisions with the actions that were taken, and the waypoints that were reached.

    The gripper's actions, the last of each step, are filtered (see `GRIPPER_FILTER`), and are fully
    open or closed. A change in an episode's last two steps is taken for noise, too.

    Args:
        rows: Trajectories of whole episodes, and the number of a decision in each.
        policy: The policy, for the actions of its tokens.
    """
    targets = {id(trajectory): _targets(trajectory, policy) for trajectory, _ in rows}
    chunks = [trajectory.chunks[index] for trajectory, index in rows]
    inputs = {
        name: torch.stack([chunk.inputs[name] for chunk in chunks]) for name in chunks[0].inputs
    }
    mask = torch.stack([chunk.mask for chunk in chunks])[:, :: policy.action_dim]
    actions, waypoints = (
        torch.stack([targets[id(trajectory)][part][index] for trajectory, index in rows])
        for part in range(2)
    )
    return Examples(inputs, actions, mask, waypoints)


def _targets(trajectory: Trajectory, policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what to imitate at each decision of an episode.

    Returns:
        Actions, ``(num_chunks, chunk, action_dim)``, and where the gripper closed and opened,
        ``(num_chunks, 2, 3)``.
    """
    tokens = torch.stack([chunk.tokens for chunk in trajectory.chunks])
    actions = policy.actions(tokens).copy()
    executed = torch.stack([chunk.mask for chunk in trajectory.chunks])[:, :: policy.action_dim]
    positions = torch.stack([chunk.positions for chunk in trajectory.chunks])
    kept = executed.numpy()
    closed = median_filter((actions[kept][:, -1] > 0).astype(np.int8), GRIPPER_FILTER)
    actions[kept, -1] = gripper = np.where(closed, 1.0, -1.0)
    waypoints = waypoint_targets(gripper, positions.numpy()[kept])
    first_steps = kept.sum(axis=1).cumsum() - kept.sum(axis=1)
    return torch.as_tensor(actions), torch.as_tensor(waypoints[first_steps]).float()
