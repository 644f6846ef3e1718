"""Which OpenGL MuJoCo renders with. Imports nothing heavy, as the choice comes before MuJoCo's import."""

from __future__ import annotations

import os
from pathlib import Path


def choose_gl() -> str:
    """Sets ``MUJOCO_GL`` where the user has not: EGL beside a GPU's driver, else software (OSMesa).

    Call it before MuJoCo or robosuite is imported; both read the variable on import, and robosuite
    would take EGL, which in software is half as fast.

    Returns:
        The value in force.
    """
    if "MUJOCO_GL" not in os.environ:
        has_gpu = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dri/renderD128"))
        os.environ["MUJOCO_GL"] = "egl" if has_gpu else "osmesa"
    return os.environ["MUJOCO_GL"]
