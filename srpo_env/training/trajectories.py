"""What a policy saw and did in its episodes, as an update needs it, and its form in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from srpo_env.policy.base import Policy
from srpo_env.training.replay import Beginning

INPUTS = "inputs."
"""start of the names of a policy's inputs in a packed state"""


class Chunk(NamedTuple):
    """One decision of a policy, of T tokens. Stacked chunks have a leading axis of N."""

    inputs: dict[str, Tensor]
    """the observation as the policy reads it"""
    tokens: Tensor
    """(T,), sampled"""
    log_probs: Tensor
    """(T,), under the policy that acted"""
    mask: Tensor
    """(T,), true for control steps that were executed"""

    @classmethod
    def stack(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Stacks chunks along a new first axis."""
        names = chunks[0].inputs
        inputs = {name: torch.stack([chunk.inputs[name] for chunk in chunks]) for name in names}
        tokens, log_probs, mask = (
            torch.stack([getattr(chunk, name) for chunk in chunks]) for name in ROW_FIELDS
        )
        return cls(inputs, tokens, log_probs, mask)

    def select(self, rows: Any, device: torch.device | str = "cpu") -> Chunk:
        """Returns rows of stacked chunks, on a device."""
        inputs = {name: value[rows].to(device) for name, value in self.inputs.items()}
        tokens, log_probs, mask = (getattr(self, name)[rows].to(device) for name in ROW_FIELDS)
        return Chunk(inputs, tokens, log_probs, mask)


ROW_FIELDS = Chunk._fields[1:]
"""names of a chunk's tensors besides the inputs"""


@dataclass
class Trajectory:
    """The decisions of one episode, which may still be running."""

    task_id: int
    init_state_id: int
    max_progress: float = math.nan
    """highest ground-truth progress so far, in [0, 1]; NaN if it is not measured"""
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def executed(self) -> int:
        """Number of tokens that were executed."""
        return sum(int(chunk.mask.sum()) for chunk in self.chunks)

    def beginning(self, policy: Policy) -> Beginning:
        """Returns the actions so far, from which a simulator can continue the episode."""
        actions = policy.actions(torch.stack([chunk.tokens for chunk in self.chunks]))
        return Beginning(self.task_id, self.init_state_id, actions)


def pack(trajectories: Mapping[int, Trajectory]) -> dict[str, Any]:
    """Returns trajectories as named tensors and a list for JSON.

    Args:
        trajectories: Trajectories by their ids.
    """
    content = [
        (key, t.task_id, t.init_state_id, t.max_progress, len(t.chunks))
        for key, t in trajectories.items()
    ]
    chunks = [chunk for t in trajectories.values() for chunk in t.chunks]
    if not chunks:
        return {"trajectories": content}
    stacked = Chunk.stack(chunks)
    inputs = {f"{INPUTS}{name}": value for name, value in stacked.inputs.items()}
    return {
        "trajectories": content,
        **inputs,
        **{name: getattr(stacked, name) for name in ROW_FIELDS},
    }


def unpack(state: Mapping[str, Any]) -> dict[int, Trajectory]:
    """Returns the trajectories that `pack` was given."""
    inputs = {x.removeprefix(INPUTS): state[x] for x in state if x.startswith(INPUTS)}
    trajectories, first = {}, 0
    for key, task_id, init_state_id, max_progress, length in state["trajectories"]:
        t = trajectories[key] = Trajectory(task_id, init_state_id, max_progress)
        if length:
            stacked = Chunk(inputs, state["tokens"], state["log_probs"], state["mask"])
            t.chunks = [stacked.select(row) for row in range(first, first + length)]
        first += length
    return trajectories
