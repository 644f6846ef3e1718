"""The colours of LIBERO's images, which depend on MuJoCo's version.

LIBERO's demonstrations were rendered with MuJoCo 2.3. Since 3.3.3, MuJoCo reads the colour space of
a texture from its file, and renders a PNG with an sRGB chunk darker: four of LIBERO's 170 PNG files
have one, among them the floor of libero_object. Policies that were trained on LIBERO's
demonstrations see other images then.

This module imports MuJoCo only when a look is applied.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from srpo_env.types import check_choice

Look = Literal["libero", "mujoco"]

DEFAULT_LOOK: Look = "libero"


def check_look(look: str) -> Look:
    """Checks ``look``.

    Raises:
        ValueError: If it is neither ``"libero"`` nor ``"mujoco"``.
    """
    check_choice("look", look, Look)
    return cast("Look", look)


def apply_look(model: Any, look: Look) -> None:
    """Sets the colours of a compiled model, before it is uploaded to OpenGL.

    Args:
        model: An ``mujoco.MjModel``.
        look: ``"libero"``: the colours of LIBERO's demonstrations, in any version of MuJoCo;
            ``"mujoco"``: those that the installed version gives.
    """
    # Older versions have no colour spaces: they show every texture as it is stored.
    if look == "libero" and hasattr(model, "tex_colorspace"):
        import mujoco

        model.tex_colorspace[:] = mujoco.mjtColorSpace.mjCOLORSPACE_LINEAR
