"""Vision-language-action policies: the interface that agents use, and a small policy for CPUs."""

try:
    from srpo_env.policy.base import Inputs, Policy
    from srpo_env.policy.network import PolicyConfig, SmallPolicy, load_policy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"srpo_env.policy needs {error.name}: run `pip install 'srpo-env[agents]'`", name=error.name
    ) from error

__all__ = ["Inputs", "Policy", "PolicyConfig", "SmallPolicy", "load_policy"]
