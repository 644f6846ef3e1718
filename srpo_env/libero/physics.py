"""The two ways to step a simulation, ``physics="exact"`` and ``physics="fast"``.

``"exact"`` equals upstream to the last bit. In ``"fast"``, MuJoCo leaves out what no state depends
on, and while the robot moves freely, `srpo_env.libero.fast_torques` computes the arm's torques,
equal up to rounding. From the same state, a control step differs by at most `TOLERANCE`.
"""

from __future__ import annotations

from typing import Literal, cast

from srpo_env.libero.gl import choose_gl

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402

from srpo_env.types import check_choice  # noqa: E402

Physics = Literal["exact", "fast"]

_FALLING = "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"

TOLERANCE = 1e-9
"""Largest difference of a joint position (m, rad) or velocity (m/s, rad/s) after a control step."""

# The arm's force and torque sensors, which no observation shows and which cost a pass over all
# bodies; and the trees that order the geoms of a body for collisions, which pay off for bodies with
# many more geoms than LIBERO's have. The contacts and their order are the same.
_LEFT_OUT = mujoco.mjtDisableBit.mjDSBL_SENSOR | mujoco.mjtDisableBit.mjDSBL_MIDPHASE


def check_physics(physics: str) -> Physics:
    """Checks ``physics``.

    Raises:
        ValueError: If it is neither ``"exact"`` nor ``"fast"``.
    """
    check_choice("physics", physics, Physics)
    return cast("Physics", physics)


def set_left_out(model: mujoco.MjModel, physics: Physics) -> None:
    """Makes MuJoCo leave out, or compute, what no state depends on."""
    flags = model.opt.disableflags
    model.opt.disableflags = flags | _LEFT_OUT if physics == "fast" else flags & ~_LEFT_OUT


def _forward_sets_solver_start() -> bool:
    """Returns whether `mj_forward` sets the solver's starting point, as in MuJoCo 3.3.0."""
    model = mujoco.MjModel.from_xml_string(_FALLING)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return bool(data.qacc_warmstart.any())


FORWARD_SETS_START = _forward_sets_solver_start()
"""Whether the installed MuJoCo is one of these older versions."""


def begin_substep(model: mujoco.MjModel, data: mujoco.MjData, is_first: bool) -> None:
    """Computes what the controller reads before it sets the controls of ``mj_step2``.

    Args:
        model: The compiled model.
        data: Its data.
        is_first: Whether it is the first substep of an episode.
    """
    if FORWARD_SETS_START:
        # As often as robosuite does: each time moves the starting point, and the last bits of a
        # state with it.
        for _ in range(1 if is_first else 2):
            mujoco.mj_forward(model, data)
    else:
        mujoco.mj_step1(model, data)
