"""The reference policy of the KL term."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from srpo_env.policy import tokens as token_maths
from srpo_env.policy.base import Inputs, Policy


class ReferencePolicy(nn.Module):
    """A policy as it is now, while the policy itself is trained further.

    Only the parameters that are trained are copied, and the frozen ones are shared. The reference
    of a large model with new adapters is its base without them, and costs as much memory as the
    adapters.
    """

    def __init__(self, policy: Policy) -> None:
        """Copies the parameters that are trained.

        Args:
            policy: The policy, on its device.
        """
        super().__init__()
        self.policy = policy
        self.copies = {
            f"policy.{name}": parameter.detach().clone()
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad
        }
        """Copies of the parameters, by name."""

    def forward(self, inputs: Inputs) -> Tensor:
        """Computes the logits of the policy, with the parameters that it has at the moment."""
        return self.policy.logits(inputs)

    @torch.no_grad()
    def log_probs(
        self, inputs: Inputs, tokens: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Computes log-probabilities and entropies in nats, both ``(B, T)``, without gradients.

        Raises:
            ValueError: If the temperature is not positive.
        """
        logits = functional_call(self, self.copies, (inputs,))
        return token_maths.log_probs_and_entropies(logits, tokens, temperature)
