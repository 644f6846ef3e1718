"""Renders the cameras of a compiled task on demand.

OpenGL acts on the context that is current in the thread, and other libraries in the process have
contexts too. MuJoCo's own renderer, when it is closed, deletes buffers by their numbers in the
context that happens to be current. So the context is current only while it is used, and each image
is checked.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import logging
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from srpo_env.libero.gl import (
    SOFTWARE_RENDERERS,
    OpenGLError,
    choose_gl,
    device_of_worker,
)
from srpo_env.libero.perturbations.appearance import Texture
from srpo_env.types import Array

BACKEND = choose_gl()  # before the first import of MuJoCo
"""Value of ``MUJOCO_GL`` at this import; robosuite's import replaces some values by "egl"."""

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

logger = logging.getLogger(__name__)

MAX_SIZE = 480
"""Maximum height and width in pixels; robosuite's off-screen buffer has 640 x 480."""

MAX_GEOMS = 1000  # robosuite's scene size

MAX_TEXTURES = 32
"""Maximum number of textures of perturbed backgrounds that a renderer keeps in OpenGL."""

SHADOW_SIZE = 1024
"""Width of the shadow map in pixels for perturbed lights; MuJoCo's 4096 are slow in software."""

CULLING_MARGIN = 0.05
"""Relative enlargement of bounding spheres: decimated meshes can be a little larger."""

HIDDEN_GROUP = 5
"""Group of geoms that is not drawn."""

_lock = threading.RLock()
"""held while the context is current, because it can be current in one thread only"""
_depth = 0
"""number of nested uses of the context: the garbage collector can free a renderer within another
one's use"""

_worker = 0


def use_gpu_of_worker(worker: int) -> None:
    """Selects the GPU that this process renders on; call it before the first image."""
    global _worker
    _worker = worker


class Renderer:
    """Renders the cameras of one model like robosuite's off-screen context.

    Draws the model's geoms of group 1 (visual), not those of group 0 (collision).
    """

    def __init__(self, model: mujoco.MjModel, size: int, shadow_size: int | None = None) -> None:
        """Uploads the model.

        Args:
            model: The compiled model.
            size: Height and width of the images in pixels, at most 480.
            shadow_size: Width of the shadow map in pixels; default: the model's own, or none if no
                light casts shadows.

        Raises:
            ValueError: If ``size`` is out of its range.
            OpenGLError: If no OpenGL context can be created.
        """
        self._context: mujoco.MjrContext | None = None
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"`size` must be in 1..{MAX_SIZE} pixels, got {size}")
        self._model = model
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = mujoco.MjvOption()
        self._options.geomgroup[0], self._options.geomgroup[1] = 0, 1
        self._options.geomgroup[HIDDEN_GROUP] = 0
        self._drawn = np.flatnonzero(model.geom_group == 1)
        self._is_mirror = _is_mirror(model)[self._drawn]
        self._perturb = mujoco.MjvPerturb()
        # Buffers of the images' size; a shadow map (64 MB) only if there are shadows.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        if not model.light_castshadow.any():
            model.vis.quality.shadowsize = 0
        elif shadow_size is not None:
            model.vis.quality.shadowsize = shadow_size
        self._pixels = np.empty((size, size, 3), np.uint8)
        self._upload()

    def _upload(self) -> None:
        with _current_context():
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._own_names = np.array(self._context.texture)
        self._shown: Mapping[int, Texture] = {}
        self._extra_names: OrderedDict[tuple[int, Texture], int] = OrderedDict()
        # Not `__del__`, which at the interpreter's exit would run after MuJoCo's modules are gone.
        self._free = weakref.finalize(self, _free, os.getpid(), self._context)
        self._free.atexit = False  # `_close_all` has done it
        _renderers.add(self)

    def show_textures(self, textures: Mapping[int, Texture]) -> None:
        """Shows these textures in place of the model's own, from the next image on.

        They are uploaded once and kept, so that episodes with different ones can take turns.

        Args:
            textures: New textures by the id of the old one; the others are the model's own.
        """
        if textures is self._shown or self._context is None:
            return
        names = self._context.texture
        for number in self._shown:
            names[number] = self._own_names[number]
        for number, texture in textures.items():
            names[number] = self._name_of(number, texture)
        self._shown = textures

    def _name_of(self, number: int, texture: Texture) -> int:
        """Returns OpenGL's name of a texture, and uploads it if it is new."""
        key = (number, texture)
        if key not in self._extra_names:
            assert self._context is not None
            model, names = self._model, self._context.texture
            begin = int(model.tex_adr[number])
            pixels = texture.pixels().reshape(-1)
            part = model.tex_data[begin : begin + len(pixels)]
            own, part_before = int(self._own_names[number]), part.copy()
            part[:] = pixels
            try:
                with _current_context():
                    from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

                    # MuJoCo writes into the texture whose name it finds here.
                    names[number] = GL.glGenTextures(1)
                    mujoco.mjr_uploadTexture(model, self._context, number)
                    self._extra_names[key] = int(names[number])
            finally:
                part[:] = part_before
                names[number] = own
            if len(self._extra_names) > MAX_TEXTURES:
                _delete_texture(self._extra_names.popitem(last=False)[1])
        self._extra_names.move_to_end(key)
        return self._extra_names[key]

    def render(self, data: mujoco.MjData, camera: str) -> npt.NDArray[np.uint8]:
        """Renders the named camera; returns an upright image, shape ``(size, size, 3)``.

        Raises:
            RuntimeError: If the renderer is closed, or OpenGL reports an error also after the model
                has been uploaded again.
        """
        if self._context is None:
            raise RuntimeError("the renderer is closed")
        self._camera.fixedcamid = self._model.camera(camera).id
        hidden = self._invisible(data)
        groups = self._model.geom_group
        before = groups[hidden]
        groups[hidden] = HIDDEN_GROUP
        try:
            mujoco.mjv_updateScene(
                self._model, data, self._options, self._perturb, self._camera,
                mujoco.mjtCatBit.mjCAT_ALL, self._scene,
            )  # fmt: skip
        finally:
            groups[hidden] = before
        error = self._draw()
        if error:
            # The pixels may be those of an earlier image.
            logger.warning("OpenGL error %#x in rendering: uploading the model again", error)
            shown = self._shown
            self.close()
            self._upload()
            self.show_textures(shown)
            error = self._draw()
        if error:
            raise RuntimeError(
                f"OpenGL reports error {error:#x} in rendering with "
                f"MUJOCO_GL={BACKEND!r}: does another library of this "
                "process use the OpenGL context?"
            )
        return self._pixels[::-1].copy()  # OpenGL's first row is the bottom one

    def _invisible(self, data: mujoco.MjData) -> Array:
        """Returns geoms that change no pixel of the camera's image: a software renderer is slow."""
        if self._model.light_castshadow.any():  # also from outside the view
            return self._drawn[:0]
        outside = outside_view(self._model, data, self._camera.fixedcamid, self._drawn)
        if (self._is_mirror & ~outside).any():  # it may show the others
            outside &= self._is_mirror
        return self._drawn[outside]

    def _draw(self) -> int:
        """Draws the scene and reads the pixels; returns OpenGL's error code, 0 for none."""
        with _current_context():
            # All renderers of the process share one context; select this renderer's buffers.
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
            return int(mujoco.mjr_getError())

    def close(self) -> None:
        """Frees the uploaded model; may be called twice."""
        if self._context is not None:
            self.show_textures({})
            for name in self._extra_names.values():
                _delete_texture(name)
            self._extra_names.clear()
            self._free()
            self._context = None


def _delete_texture(name: int) -> None:
    from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

    with _current_context():
        GL.glDeleteTextures([name])


def _is_mirror(model: mujoco.MjModel) -> npt.NDArray[np.bool_]:
    """Returns which geoms MuJoCo renders with reflections, shape ``(ngeom,)``."""
    reflectances = np.append(model.mat_reflectance, 0.0)  # the last one: no material
    flat = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX)
    is_mirror: npt.NDArray[np.bool_]
    is_mirror = (reflectances[model.geom_matid] > 0) & np.isin(model.geom_type, flat)
    return is_mirror


def outside_view(
    model: mujoco.MjModel, data: mujoco.MjData, camera: int, geoms: Array
) -> npt.NDArray[np.bool_]:
    """Returns which geoms a camera's square image certainly does not show.

    Args:
        model: The compiled model.
        data: Its data, with the positions of geoms and cameras.
        camera: Index of the camera.
        geoms: Indices of the geoms, shape ``(n,)``.

    Returns:
        Whether the geom's bounding sphere is behind the camera or beyond a side of its view,
        shape ``(n,)``.
    """
    radius = model.geom_rbound[geoms] * (1 + CULLING_MARGIN)
    radius[radius == 0] = np.inf  # planes have no bounding sphere
    to_world = data.cam_xmat[camera].reshape(3, 3)
    right, up, back = ((data.geom_xpos[geoms] - data.cam_xpos[camera]) @ to_world).T
    half = math.radians(model.cam_fovy[camera]) / 2
    # Signed distance from the sides of the view, a pyramid: positive outside.
    sideways = np.maximum(np.abs(right), np.abs(up)) * math.cos(half) + back * math.sin(half)
    outside: npt.NDArray[np.bool_] = np.maximum(sideways, back) > radius
    return outside


_renderers: weakref.WeakSet[Renderer] = weakref.WeakSet()


def _close_all(process_id: int, gl: mujoco.GLContext) -> None:
    if process_id == os.getpid():
        for renderer in list(_renderers):
            renderer.close()
        gl.free()


def _free(process_id: int, context: mujoco.MjrContext) -> None:
    if process_id == os.getpid():  # a fork has another OpenGL context
        with _current_context():
            context.free()


@contextlib.contextmanager
def _current_context() -> Iterator[None]:
    """Makes the process's OpenGL context current in this thread while the block runs."""
    global _depth
    with _lock:
        gl = _gl_context(os.getpid())
        gl.make_current()
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if _depth == 0:
                _release(gl)


def _release(gl: mujoco.GLContext) -> None:
    """Makes no context current in this thread; MuJoCo has no function for that."""
    # PyOpenGL's libraries are chosen by MuJoCo, so they are imported after it.
    match type(gl).__module__.rpartition(".")[2]:
        case "osmesa":
            from OpenGL import GL, osmesa

            osmesa.OSMesaMakeCurrent(None, None, GL.GL_FLOAT, 0, 0)
        case "egl":
            from OpenGL import EGL

            EGL.eglBindAPI(EGL.EGL_OPENGL_API)  # the choice is one of each thread
            EGL.eglMakeCurrent(
                EGL.eglGetCurrentDisplay(),
                EGL.EGL_NO_SURFACE,
                EGL.EGL_NO_SURFACE,
                EGL.EGL_NO_CONTEXT,
            )
        case "glfw":
            import glfw

            glfw.make_context_current(None)  # type: ignore[arg-type]  # as glfw documents


@functools.cache
def _gl_context(process_id: int) -> mujoco.GLContext:
    """Creates the process's OpenGL context.

    One for all tasks, because a software renderer takes a second per context to compile shaders.
    """
    try:
        with _chosen_device():
            # Images are drawn into buffers of the MjrContext, so this context's size is irrelevant.
            gl = _context_class()(8, 8)
        gl.make_current()
        renderer = _renderer_name()
    except Exception as error:  # each OpenGL library raises its own type
        raise OpenGLError(
            f"No OpenGL context could be created with MUJOCO_GL={BACKEND!r} "
            f"({type(error).__name__}: {error}). For software rendering install OSMesa (Debian, "
            "Ubuntu: `apt-get install libosmesa6`; in releases without that package: libegl1 and "
            "libgl1-mesa-dri) and unset MUJOCO_GL"
        ) from error
    _warn_about_slow_software(renderer)
    _release(gl)
    # At exit, the last registered function is called first: the renderers are closed before MuJoCo
    # ends its connection to EGL.
    atexit.register(_close_all, process_id, gl)
    return gl


@contextlib.contextmanager
def _chosen_device() -> Iterator[None]:
    """Sets ``MUJOCO_EGL_DEVICE_ID`` to this process's GPU, unless the user has set it."""
    device = device_of_worker(_worker) if BACKEND == "egl" else None
    if device is None or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        yield
        return
    # Removed afterwards, because robosuite's import interprets it as a CUDA index.
    os.environ["MUJOCO_EGL_DEVICE_ID"] = str(device.index)
    try:
        yield
    finally:
        del os.environ["MUJOCO_EGL_DEVICE_ID"]


def _context_class() -> type[mujoco.GLContext]:
    """Returns MuJoCo's class for `BACKEND`.

    ``mujoco.GLContext`` is the one for ``MUJOCO_GL`` when MuJoCo was imported, which may have been
    before `choose_gl`.
    """
    module = (
        importlib.import_module(f"mujoco.{BACKEND}") if BACKEND in ("egl", "osmesa") else mujoco
    )
    context_class: type[mujoco.GLContext] = module.GLContext
    return context_class


def describe_gl() -> str:
    """Returns OpenGL's vendor, renderer and version, on which the last bits of images depend.

    Raises:
        OpenGLError: If no OpenGL context can be created.
    """
    with _current_context():
        from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

        names = (GL.GL_VENDOR, GL.GL_RENDERER, GL.GL_VERSION)
        return ", ".join((GL.glGetString(name) or b"?").decode() for name in names)


def _renderer_name() -> str:
    """Returns OpenGL's name of the renderer.

    Raises:
        RuntimeError: If no context is current: GLFW reports a missing display by a warning only.
    """
    from OpenGL import GL  # after MuJoCo, which chooses PyOpenGL's library

    name = GL.glGetString(GL.GL_RENDERER)
    if name is None:
        raise RuntimeError("OpenGL has no renderer; is there a display?")
    return str(name.decode())


def _warn_about_slow_software(renderer: str) -> None:
    is_software = any(part in renderer for part in SOFTWARE_RENDERERS)
    if is_software and BACKEND != "osmesa":
        logger.warning(
            "MUJOCO_GL=%s renders in software (%s), at half of OSMesa's speed: install the GPU's "
            "graphics driver, or OSMesa (Debian, Ubuntu: libosmesa6) and unset MUJOCO_GL",
            BACKEND,
            renderer,
        )
