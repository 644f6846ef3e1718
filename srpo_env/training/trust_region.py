"""Bounds how far an update moves a policy, and adapts the learning rate to it.

The bound is the KL divergence of whole decisions, the sum over all tokens of a chunk. A bound per
token is as many times looser as a decision has tokens, here 56.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from srpo_env.policy.base import Inputs, Policy
from srpo_env.training.distributed import Ranks
from srpo_env.training.gradients import clip_gradients

ADAPTATION = 1.5
"""Factor by which the learning rate changes after an update."""

WARMUP_STEPS = 20
"""Gradient steps of linear warm-up: Adam's first steps have no estimate of the gradients' scale."""


class TrustRegion:
    """Undoes gradient steps that leave the trust region; adapts the learning rate to its size."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        target_kl: float,
        max_learning_rate: float,
        ranks: Ranks | None = None,
    ) -> None:
        """Initialises the learning rate with that of the optimizer.

        Args:
            policy: The policy that is trained.
            optimizer: Its optimizer.
            target_kl: KL divergence of a decision, in nats, that an update should not exceed.
            max_learning_rate: Upper bound of the learning rate.
            ranks: The learners that train the policy together; None: this process alone.
        """
        self.ranks = ranks or Ranks()
        self.policy, self.optimizer = policy, optimizer
        self.target_kl, self.max_learning_rate = target_kl, max_learning_rate
        self.learning_rate = float(optimizer.param_groups[0]["lr"])
        self.steps = 0
        """Number of gradient steps that were taken."""
        self.kl = 0.0
        """KL divergence of a decision since `begin`, in nats."""

    @property
    def last_rate(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin(
        self, inputs: Inputs, mask: Tensor, temperature: float = 1.0, share: float = 1.0
    ) -> None:
        """Starts an update, from the policy of the first rank.

        Args:
            inputs: Observations on which the divergence is measured, of N decisions.
            mask: Mask of their tokens, ``(N, T)``.
            temperature: Temperature of the sampling.
            share: Part of all ranks' decisions that these are; the shares of the ranks sum to 1.
        """
        self.ranks.copy_first(p for p in self.policy.parameters() if p.requires_grad)
        self._inputs, self._mask, self._temperature = inputs, mask, temperature
        self._share = share
        self._before, self.kl, self._first = self._log_probs(), 0.0, self.steps

    def step(self, loss: Tensor, max_grad_norm: float) -> bool:
        """Takes a gradient step, unless it leaves the trust region.

        Args:
            loss: This rank's part of the loss; the loss is the sum over the ranks.
            max_grad_norm: Maximum norm of the gradient.

        Returns:
            Whether the step was taken. If not, policy and optimizer are as before.
        """
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.add_gradients(self.policy.parameters())
        clip_gradients(self.policy.parameters(), max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.steps + 1) / WARMUP_STEPS)
        tensors = self._tensors()
        saved = [tensor.detach().clone() for tensor in tensors]
        self.optimizer.step()
        kl = self._divergence()
        if kl <= self.target_kl:
            self.kl, self.steps = kl, self.steps + 1
            return True
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
        if self.steps == 0:
            self.optimizer.state.clear()  # the step that was undone created it
        return False

    def end(self, num_steps: int) -> None:
        """Adapts the learning rate to the update.

        It falls if less than half of the steps stayed inside the region, and rises if all of them
        used less than half of it.

        Args:
            num_steps: Number of steps that the update would have taken without the trust region.
        """
        taken = self.steps - self._first
        if taken < num_steps / 2:
            self.learning_rate /= ADAPTATION
        elif taken == num_steps and self.kl < self.target_kl / 2:
            self.learning_rate = min(self.learning_rate * ADAPTATION, self.max_learning_rate)

    def state_dict(self) -> dict[str, float]:
        """Returns the learning rate and the number of steps."""
        return {"learning_rate": self.learning_rate, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.learning_rate, self.steps = float(state["learning_rate"]), int(state["steps"])

    def _tensors(self) -> list[Tensor]:
        """Returns trained parameters and moments, which a gradient step changes in place."""
        moments = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        trained = (value for value in self.policy.parameters() if value.requires_grad)
        return [*trained, *moments]

    @torch.no_grad()
    def _log_probs(self) -> Tensor:
        return (self.policy.logits(self._inputs) / self._temperature).log_softmax(dim=-1)

    def _divergence(self) -> float:
        """Computes the mean KL divergence of a decision from the policy at `begin`.

        It is the mean over the decisions of all ranks, so that they agree on each step.
        """
        now = self._log_probs()
        divergences = (self._before.exp() * (self._before - now)).sum(dim=-1)  # (N, T)
        own = float((divergences * self._mask).sum(dim=1).mean())
        return self.ranks.sum(own * self._share)[0]
