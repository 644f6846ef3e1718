"""Decides for some environments while the others are simulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorWrapper
from torch import Tensor

from srpo_env.policy.base import Inputs, Policy
from srpo_env.types import Array


class Decisions(NamedTuple):
    """Sampled decisions of a policy for n environments, of T tokens each."""

    slots: Array
    """(n,), indices of the environments"""
    inputs: Inputs
    """the observations as the policy reads them"""
    tokens: Tensor
    """(n, T)"""
    log_probs: Tensor
    """(n, T)"""

    @classmethod
    def merge(cls, parts: Sequence[Decisions]) -> Decisions:
        """Returns the decisions of all parts in the order of the environments."""
        if len(parts) == 1:
            return parts[0]
        slots = np.concatenate([part.slots for part in parts])
        order = np.argsort(slots)
        inputs = {
            name: torch.cat([part.inputs[name] for part in parts])[order]
            for name in parts[0].inputs
        }
        tokens, log_probs = (
            torch.cat([getattr(part, name) for part in parts])[order]
            for name in ("tokens", "log_probs")
        )
        return cls(slots[order], inputs, tokens, log_probs)


class Decider:
    """Samples the decisions of a policy, and executes them in the environments.

    Without overlap, the simulators wait while the policy decides for all environments. With it, the
    environments are two halves. When one half has executed its decisions, the policy decides for
    it again while the other half is simulated, and the simulators always have something to do.
    Environments whose episode has ended are left out, because they must be reset first.

    What is decided together, and so each random number, depends on the episodes, never on timing.
    """

    def __init__(
        self,
        envs: VectorWrapper[Any, Any, Any],
        policy: Policy,
        generator: torch.Generator,
        temperature: float,
        overlap: bool,
        correlation: float = 0.0,
    ) -> None:
        """Initialises without decisions.

        Args:
            envs: Wrapper around a `LiberoVectorEnv` with autoreset disabled.
            policy: The policy that decides.
            generator: Random numbers of the sampling.
            temperature: Temperature of the sampling.
            overlap: Whether half of the environments are simulated while the policy decides.
            correlation: Correlation of neighbouring steps of a decision, see `Policy.sample`.
        """
        self.envs, self.policy, self.generator = envs, policy, generator
        self.temperature, self.correlation, self.overlap = temperature, correlation, overlap
        # Neighbours share a worker, so that each worker has environments of both halves.
        even = np.arange(envs.num_envs) % 2 == 0
        self._halves = (even, ~even)
        self._ahead: list[Decisions] = []

    @property
    def is_ahead(self) -> bool:
        """Whether some environments execute the next step already."""
        return bool(self._ahead)

    def step(
        self, observations: Mapping[str, Array], instructions: Sequence[str], ahead: bool
    ) -> tuple[Decisions, tuple[Any, ...]]:
        """Executes one decision in every environment.

        Args:
            observations: Observations of all environments, whose episodes are all running.
            instructions: Instructions of all environments.
            ahead: Whether the next step may be started as well, with overlap. If not, all
                simulators are idle afterwards.

        Returns:
            The decisions for all environments, and what their ``step`` returned.
        """
        # With overlap, the simulators use all cores.
        with _torch_threads(1) if self.overlap else nullcontext():
            return self._step(observations, instructions, ahead and self.overlap)

    def _step(
        self, observations: Mapping[str, Array], instructions: Sequence[str], ahead: bool
    ) -> tuple[Decisions, tuple[Any, ...]]:
        late = np.ones(self.envs.num_envs, dtype=bool)
        for part in self._ahead:
            late[part.slots] = False
        parts, self._ahead = self._ahead, []
        if late.any():
            rows = {name: value[late] for name, value in observations.items()}
            parts.append(self._decide(np.flatnonzero(late), rows, instructions))
        decisions = Decisions.merge(parts)
        actions = self.policy.actions(decisions.tokens)
        if self.overlap:
            for half in self._halves:
                self._start(actions, late & half)
            for half in self._halves if ahead else ():
                self._start_next(half, instructions)
        return decisions, self.envs.step(actions)

    def _start_next(self, half: Array, instructions: Sequence[str]) -> None:
        simulators: Any = self.envs.env
        observations, ended = simulators.await_step(half)
        slots = np.flatnonzero(half)[~ended]
        if not len(slots):
            return
        rows = {name: value[~ended] for name, value in observations.items()}
        decisions = self._decide(slots, rows, instructions)
        self._ahead.append(decisions)
        chosen = self.policy.actions(decisions.tokens)
        actions = np.zeros((self.envs.num_envs, *chosen.shape[1:]), dtype=chosen.dtype)
        actions[slots] = chosen
        self._start(actions, np.isin(np.arange(self.envs.num_envs), slots))

    def _start(self, actions: Array, mask: Array) -> None:
        simulators: Any = self.envs.env
        simulators.start_step(actions, mask)

    def _decide(
        self, slots: Array, observations: Mapping[str, Array], instructions: Sequence[str]
    ) -> Decisions:
        inputs = self.policy.prepare(observations, [instructions[slot] for slot in slots])
        tokens, log_probs = self.policy.sample(
            inputs, self.temperature, self.generator, self.correlation
        )
        return Decisions(slots, inputs, tokens, log_probs)


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Limits torch to a number of CPU threads in a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
