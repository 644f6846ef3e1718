"""The seven perturbations of LIBERO-Plus as options of `LiberoEnv`, with LIBERO's own assets.

They are applied to the compiled model between episodes, and undone exactly. Success rates under
them are not LIBERO-Plus scores: other draws, other textures, other objects, other instructions.
"""

from srpo_env.libero.perturbations.background import Background
from srpo_env.libero.perturbations.base import LEVELS, Perturbation
from srpo_env.libero.perturbations.camera import Camera
from srpo_env.libero.perturbations.language import Language
from srpo_env.libero.perturbations.layout import Layout
from srpo_env.libero.perturbations.light import Light
from srpo_env.libero.perturbations.mixture import (
    DIMENSIONS,
    AnyMixture,
    Mixture,
    as_data,
    as_mixture,
    as_text,
    resolved,
)
from srpo_env.libero.perturbations.noise import Noise
from srpo_env.libero.perturbations.robot_state import RobotState

__all__ = [
    "DIMENSIONS",
    "LEVELS",
    "AnyMixture",
    "Background",
    "Camera",
    "Language",
    "Layout",
    "Light",
    "Mixture",
    "Noise",
    "Perturbation",
    "RobotState",
    "as_data",
    "as_mixture",
    "as_text",
    "resolved",
]
