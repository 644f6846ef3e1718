"""Renders the cameras of a compiled task on demand."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Iterator

from srpo_env.libero.gl import SOFTWARE_RENDERERS, choose_gl, device_of_worker

choose_gl()  # before the first import of MuJoCo

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

logger = logging.getLogger(__name__)

MAX_SIZE = 480
"""Maximum height and width in pixels; robosuite's off-screen buffer has 640 x 480."""

MAX_GEOMS = 1000  # robosuite's scene size

_worker = 0


def use_gpu_of_worker(worker: int) -> None:
    """Selects the GPU that this process renders on; call it before the first image."""
    global _worker
    _worker = worker


class Renderer:
    """Renders the cameras of one model like robosuite's off-screen context.

    Draws the model's geoms of group 1 (visual), not those of group 0 (collision).
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        """Uploads the model for square images of ``size`` pixels, at most 480.

        Raises:
            ValueError: If ``size`` is out of its range.
            RuntimeError: If no OpenGL context can be created.
        """
        self._context: mujoco.MjrContext | None = None
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"`size` must be in 1..{MAX_SIZE} pixels, got {size}")
        self._gl = _gl_context(os.getpid())
        self._gl.make_current()
        self._model = model
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0], self._options.geomgroup[1] = 0, 1
        self._perturb = mujoco.MjvPerturb()
        # Buffers of the images' size; a shadow map (64 MB) only if there are shadows.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if not model.light_castshadow.any():
            model.vis.quality.shadowsize = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        # Not `__del__`, which at the interpreter's exit would run after MuJoCo's modules are gone.
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        self._pixels = np.empty((size, size, 3), np.uint8)

    def render(self, data: mujoco.MjData, camera: str) -> npt.NDArray[np.uint8]:
        """Renders the named camera; returns an upright image, shape ``(size, size, 3)``."""
        if self._context is None:
            raise RuntimeError("the renderer is closed")
        self._gl.make_current()
        # All renderers of the process share one OpenGL context; select this renderer's buffers.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, data, self._options, self._perturb, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL, self._scene,
        )  # fmt: skip
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the bottom one

    def close(self) -> None:
        """Frees the uploaded model; may be called twice."""
        if self._context is not None:
            self._free()
            self._context = None


def _free(gl: mujoco.GLContext, context: mujoco.MjrContext) -> None:
    gl.make_current()
    context.free()


@functools.cache
def _gl_context(process_id: int) -> mujoco.GLContext:
    """Creates the process's OpenGL context.

    One for all tasks, because a software renderer takes a second per context to compile shaders.
    """
    try:
        with _chosen_device():
            # Images are drawn into buffers of the MjrContext, so this context's size is irrelevant.
            gl = mujoco.GLContext(8, 8)
        gl.make_current()
    except Exception as error:  # each OpenGL library raises its own type
        raise RuntimeError(
            "No OpenGL context could be created with "
            f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} ({type(error).__name__}: {error}). For "
            "software rendering install OSMesa (Debian, Ubuntu: `apt-get install libosmesa6`; in "
            "releases without that package: libegl1 and libgl1-mesa-dri) and unset MUJOCO_GL"
        ) from error
    _warn_about_slow_software()
    return gl


@contextlib.contextmanager
def _chosen_device() -> Iterator[None]:
    """Sets ``MUJOCO_EGL_DEVICE_ID`` to this process's GPU, unless the user has set it."""
    device = device_of_worker(_worker) if os.environ.get("MUJOCO_GL") == "egl" else None
    if device is None or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        yield
        return
    # Removed afterwards, because robosuite's import interprets it as a CUDA index.
    os.environ["MUJOCO_EGL_DEVICE_ID"] = str(device.index)
    try:
        yield
    finally:
        del os.environ["MUJOCO_EGL_DEVICE_ID"]


def _warn_about_slow_software() -> None:
    from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

    name = (GL.glGetString(GL.GL_RENDERER) or b"").decode()
    if os.environ.get("MUJOCO_GL") != "osmesa" and any(part in name for part in SOFTWARE_RENDERERS):
        logger.warning(
            "MUJOCO_GL=%s renders in software (%s), at half of OSMesa's speed: install the GPU's "
            "graphics driver, or OSMesa (Debian, Ubuntu: libosmesa6) and unset MUJOCO_GL",
            os.environ.get("MUJOCO_GL"),
            name,
        )
