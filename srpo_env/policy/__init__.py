"""Vision-language-action policies: the contract with the agents, and one small enough for a CPU."""

from srpo_env.policy.base import Inputs, Policy
from srpo_env.policy.network import PolicyConfig, SmallPolicy, load_policy

__all__ = ["Inputs", "Policy", "PolicyConfig", "SmallPolicy", "load_policy"]
