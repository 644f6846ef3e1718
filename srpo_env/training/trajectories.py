"""What a policy saw and did in its episodes, as an update needs it, and its form in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_env.policy.base import Policy
from srpo_env.training.replay import Beginning
from srpo_env.training.task_sampler import Start

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
    positions: Tensor
    """(chunk, 3), position of the gripper before each control step, in metres"""
    progress: Tensor
    """(), highest ground-truth progress until its end, in [0, 1]; NaN if it is not measured"""

    @classmethod
    def stack(cls, chunks: Sequence[Chunk]) -> Chunk:
        """Stacks chunks along a new first axis."""
        names = chunks[0].inputs
        inputs = {name: torch.stack([chunk.inputs[name] for chunk in chunks]) for name in names}
        rows = (torch.stack([getattr(chunk, name) for chunk in chunks]) for name in ROW_FIELDS)
        return cls(inputs, *rows)

    def select(self, rows: Any, device: torch.device | str = "cpu") -> Chunk:
        """Returns rows of stacked chunks, on a device."""
        inputs = {name: value[rows].to(device) for name, value in self.inputs.items()}
        return Chunk(inputs, *(getattr(self, name)[rows].to(device) for name in ROW_FIELDS))


ROW_FIELDS = Chunk._fields[1:]
"""names of a chunk's tensors besides the inputs"""


@dataclass
class Trajectory:
    """The decisions of one episode, which may still be running."""

    task_id: int
    init_state_id: int
    chunks: list[Chunk] = field(default_factory=list)
    perturbation: str = ""
    """as text, empty without one"""

    @classmethod
    def of(cls, start: Start) -> Trajectory:
        """Returns a trajectory without decisions."""
        return cls(start[0], start[1], perturbation=start[2])

    @property
    def start(self) -> Start:
        """What starts the same episode again."""
        return self.task_id, self.init_state_id, self.perturbation

    @property
    def executed(self) -> int:
        """Number of tokens that were executed."""
        return sum(int(chunk.mask.sum()) for chunk in self.chunks)

    @property
    def max_progress(self) -> float:
        """Highest ground-truth progress so far, in [0, 1]; NaN if it is not measured."""
        return float(self.chunks[-1].progress) if self.chunks else math.nan

    def steps_before(self) -> npt.NDArray[np.int64]:
        """Returns the number of control steps before each decision, shape ``(num_chunks,)``."""
        executed = [int(chunk.mask.sum()) * len(chunk.positions) for chunk in self.chunks]
        steps = np.array(executed) // [len(chunk.tokens) for chunk in self.chunks]
        before: npt.NDArray[np.int64] = np.cumsum(steps) - steps
        return before

    def beginning(self, policy: Policy) -> Beginning:
        """Returns the actions so far, from which a simulator can continue the episode."""
        actions = policy.actions(torch.stack([chunk.tokens for chunk in self.chunks]))
        return Beginning(self.task_id, self.init_state_id, actions, self.perturbation)


def pack(trajectories: Mapping[int, Trajectory]) -> dict[str, Any]:
    """Returns trajectories as named tensors and a list for JSON.

    Args:
        trajectories: Trajectories by their ids.
    """
    content = [(key, *t.start, len(t.chunks)) for key, t in trajectories.items()]
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
    for key, *start, length in state["trajectories"]:
        task_id, init_state_id, perturbation = start
        t = trajectories[key] = Trajectory.of((task_id, init_state_id, perturbation))
        if length:
            stacked = Chunk(inputs, *(state[name] for name in ROW_FIELDS))
            t.chunks = [stacked.select(row) for row in range(first, first + length)]
        first += length
    return trajectories
