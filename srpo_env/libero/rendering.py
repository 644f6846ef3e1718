"""Cameras of a compiled task: an image when somebody asks for one, and not before."""

from __future__ import annotations

import os

from srpo_env.libero.gl import choose_gl

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

OFFSCREEN_SIZE = (640, 480)
"""Width and height of robosuite's off-screen buffer, in pixels."""

MAX_GEOMS = 1000  # robosuite's scene size


class Renderer:
    """Renders the cameras of one model, as robosuite's off-screen context does.

    Of a model's geoms, those of group 1 (visual) are drawn and those of group 0 (collision) are not.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        """Makes an OpenGL context for square images of ``size`` pixels, at most 480.

        Raises:
            RuntimeError: If no OpenGL context can be made.
        """
        if not 1 <= size <= OFFSCREEN_SIZE[1]:
            raise ValueError(f"`size` must be in 1..{OFFSCREEN_SIZE[1]} pixels, got {size}")
        self._gl: mujoco.GLContext | None = None
        self._model = model
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        try:
            gl = mujoco.GLContext(*OFFSCREEN_SIZE)
            gl.make_current()
        except Exception as error:  # each OpenGL library raises its own kind
            raise RuntimeError(
                f"No OpenGL context could be made with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} "
                f"({type(error).__name__}: {error}). For software rendering install OSMesa "
                "(Debian, Ubuntu: `apt-get install libosmesa6`) and set MUJOCO_GL=osmesa"
            ) from error
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0], self._options.geomgroup[1] = 0, 1
        self._perturb = mujoco.MjvPerturb()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._pixels = np.empty((size, size, 3), np.uint8)
        self._gl = gl

    def render(self, data: mujoco.MjData, camera: str) -> npt.NDArray[np.uint8]:
        """A new image of the named camera, upright, shape ``(size, size, 3)``."""
        if self._gl is None:
            raise RuntimeError("the renderer is closed")
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, data, self._options, self._perturb, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )  # fmt: skip
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Frees the OpenGL context; may be called twice."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def __del__(self) -> None:
        self.close()
