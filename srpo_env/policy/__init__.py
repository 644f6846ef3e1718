"""Vision-language-action policies: the interface that agents use, and policies of several sizes."""

try:
    from srpo_env.policy.base import Inputs, Policy
    from srpo_env.policy.loading import load_policy
    from srpo_env.policy.network import PolicyConfig, SmallPolicy
    from srpo_env.policy.reference import ReferencePolicy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"srpo_env.policy needs {error.name}: run `pip install 'srpo-env[agents]'`", name=error.name
    ) from error

__all__ = ["Inputs", "Policy", "PolicyConfig", "ReferencePolicy", "SmallPolicy", "load_policy"]
