"""Self-referential progress rewards (SRPO, arXiv:2511.15605) for vector environments."""

from srpo_env.encoders import PixelEncoder, RandomProjectionEncoder, TrajectoryEncoder
from srpo_env.registration import register_envs
from srpo_env.rewards.diagnostics import SignalReport, signal_report
from srpo_env.rewards.progress import Relabeling, relabel
from srpo_env.types import Episode, Group
from srpo_env.vector.render_in_info import RenderInInfo
from srpo_env.vector.wrapper import SelfReferentialProgressWrapper

__version__ = "0.1.0"

__all__ = [
    "Episode",
    "Group",
    "PixelEncoder",
    "RandomProjectionEncoder",
    "Relabeling",
    "RenderInInfo",
    "SelfReferentialProgressWrapper",
    "SignalReport",
    "TrajectoryEncoder",
    "register_envs",
    "relabel",
    "signal_report",
]

register_envs()
