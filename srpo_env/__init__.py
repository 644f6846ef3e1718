"""Self-referential progress rewards (SRPO, arXiv:2511.15605) for vector environments."""

from typing import TYPE_CHECKING, Any

from srpo_env.encoders import PixelEncoder, RandomProjectionEncoder, TrajectoryEncoder
from srpo_env.registration import register_envs, register_suite
from srpo_env.rewards.diagnostics import GroupStatistics, group_statistics
from srpo_env.rewards.progress import ProgressReward, Relabeling, relabel
from srpo_env.types import Episode, Group
from srpo_env.vector.checker import check_wrapped
from srpo_env.vector.render_in_info import RenderInInfo
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

if TYPE_CHECKING:
    from srpo_env.encoders.vjepa2 import VJEPA2Encoder

__version__ = "0.1.0"

__all__ = [
    "Episode",
    "Group",
    "GroupStatistics",
    "PixelEncoder",
    "ProgressReward",
    "RandomProjectionEncoder",
    "Relabeling",
    "RenderInInfo",
    "SelfReferentialProgressWrapper",
    "TrajectoryEncoder",
    "VJEPA2Encoder",
    "check_wrapped",
    "group_statistics",
    "register_envs",
    "register_suite",
    "relabel",
]

register_envs()


def __getattr__(name: str) -> Any:
    # Imported on first use: it needs torch and transformers, and takes seconds.
    if name == "VJEPA2Encoder":
        from srpo_env.encoders.vjepa2 import VJEPA2Encoder

        return VJEPA2Encoder
    raise AttributeError(f"module 'srpo_env' has no attribute {name!r}")
