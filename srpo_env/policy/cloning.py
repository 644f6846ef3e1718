"""Demonstrations as examples for supervised training of a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from srpo_env.libero.demos import Demo
from srpo_env.policy.base import Policy
from srpo_env.policy.imitation import IMAGES, Examples, chunk_targets, waypoint_targets


@dataclass
class ClonedFrames(Examples):
    """Frames of demonstrations with the targets of the policy."""

    demos: Counter[str] = field(default_factory=Counter)
    """Number of demonstrations of each instruction."""

    @classmethod
    def from_demos(cls, demos: Iterable[Demo], policy: Policy, stride: int) -> ClonedFrames:
        """Takes every ``stride``-th frame of each demonstration.

        Raises:
            ValueError: If the stride is not positive, there is no demonstration, or the size of an
                action differs from the policy's.
        """
        if stride < 1:
            raise ValueError(f"`stride` must be at least 1, got {stride}")
        parts: list[Examples] = []
        counts: Counter[str] = Counter()
        for demo in demos:
            if demo.actions.shape[1:] != (policy.action_dim,):
                raise ValueError(
                    f"actions must have {policy.action_dim} entries, "
                    f"got shape {demo.actions.shape} in {demo.source}"
                )
            steps = np.arange(0, len(demo.actions), stride)
            observations: dict[str, npt.NDArray[Any]]
            observations = {name: demo.images[name][steps] for name in IMAGES}
            observations["proprio"] = demo.proprio[steps]
            prepared = policy.prepare(observations, [demo.instruction] * len(steps))
            inputs = {name: value.cpu() for name, value in prepared.items()}
            chunks, mask = chunk_targets(demo.actions, steps, policy.chunk)
            waypoints = waypoint_targets(demo.actions[:, -1], demo.proprio[:, :3])[steps]
            arrays = chunks.astype(np.float32), mask, waypoints.astype(np.float32)
            parts.append(Examples(inputs, *map(torch.as_tensor, arrays)))
            counts[demo.instruction] += 1
        if not parts:
            raise ValueError("there must be at least one demonstration, got none")
        return cls(**vars(Examples.concatenate(parts)), demos=counts)
