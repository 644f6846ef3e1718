"""The reflection-aware SRPO for multimodal language models (arXiv:2506.01713).

Another method than the self-referential SRPO of robot policies (arXiv:2511.15605), which is the
rest of this package. Needs neither torch nor transformers.
"""

from srpo_env.reflection.data import FirstResponse, Reflection, ReflectionExample, reflection_data
from srpo_env.reflection.env import ReflectionRewardWrapper, SingleTurnTextEnv
from srpo_env.reflection.grading import Assessment
from srpo_env.reflection.incentives import Incentives, incentives
from srpo_env.reflection.parsing import Trace, parse
from srpo_env.reflection.reward import ReflectionReward

__all__ = [
    "Assessment",
    "FirstResponse",
    "Incentives",
    "Reflection",
    "ReflectionExample",
    "ReflectionReward",
    "ReflectionRewardWrapper",
    "SingleTurnTextEnv",
    "Trace",
    "incentives",
    "parse",
    "reflection_data",
]
