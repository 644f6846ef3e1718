"""Which OpenGL MuJoCo renders with. Imports nothing heavy: the choice precedes MuJoCo's import."""

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
    # Mesa's software renderer hands small images to threads of its own, which costs more than it gains
    # and starves beside busy simulators: a third of the wall time at two processes on two cores.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    return os.environ.setdefault("MUJOCO_GL", "egl" if has_gpu() else "osmesa")


def has_gpu() -> bool:
    """Whether a GPU's driver is loaded; if it renders, :mod:`srpo_env.libero.gl_probe` tells."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dri/renderD128"))
