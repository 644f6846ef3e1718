"""Chooses the OpenGL library and the GPU that MuJoCo renders with. Imports nothing heavy.

The choice must precede MuJoCo's import, so EGL is called through `ctypes`. EGL numbers devices
in its own order, which can include software; CUDA numbers only GPUs, and only those in
``CUDA_VISIBLE_DEVICES``. The extension ``EGL_NV_device_cuda`` relates the two.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from srpo_env.system.machine import load_triton

SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swrast", "SWR")
"""Parts of the names of Mesa's software renderers."""

BACKENDS = ("egl", "osmesa", "glfw", "glx", "enable", "enabled", "on", "true", "1", "disable",
            "disabled", "off", "false", "0")  # fmt: skip
"""Values of ``MUJOCO_GL`` on Linux; those after "osmesa" use GLFW, or disable rendering."""

# Source: the EGL registry, EGL_EXT_device_query, EGL_EXT_platform_device and EGL_NV_device_cuda.
_EGL_EXTENSIONS = 0x3055
_EGL_PLATFORM_DEVICE_EXT = 0x313F
_EGL_CUDA_DEVICE_NV = 0x323A
_MAX_DEVICES = 64


class OpenGLError(OSError):
    """No OpenGL context can be created; the message says what to install."""


@dataclass(frozen=True)
class EglDevice:
    """A device that EGL can render on."""

    index: int
    """Index among EGL's devices, as in ``MUJOCO_EGL_DEVICE_ID``."""
    is_software: bool
    cuda_index: int | None
    """CUDA's index among all GPUs of the machine."""


def choose_gl() -> str:
    """Sets ``MUJOCO_GL`` if it is unset or empty: EGL where it renders on a GPU, else software.

    Software is OSMesa, or EGL on systems without OSMesa (Mesa 25.1 removed it).

    Call it before MuJoCo or robosuite is imported; both read the variable on import, and robosuite
    would choose EGL, which in software is half as fast. Loads triton's library before MuJoCo loads
    Mesa's (`load_triton`).

    Returns:
        The value of ``MUJOCO_GL``.

    Raises:
        ValueError: If ``MUJOCO_GL`` is set to something that MuJoCo does not know.
        ImportError: If PyOpenGL was imported for another library before.
    """
    load_triton()
    # Mesa's software renderer uses threads, which cost more than they gain for small images: a
    # third of the wall time with two simulators on two cores.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()  # as MuJoCo reads it
    platform = os.environ.get("PYOPENGL_PLATFORM", "").lower()
    if not backend and platform in ("egl", "osmesa"):
        backend = platform  # of another library; MuJoCo accepts no other one after that
    elif not backend:
        in_software = "osmesa" if has_osmesa() or not egl_devices() else "egl"
        backend = "egl" if has_gpu() else in_software
    elif backend not in BACKENDS:
        raise ValueError(
            f"the environment variable MUJOCO_GL must be one of {', '.join(BACKENDS)}, got "
            f"{os.environ['MUJOCO_GL']!r}: correct it, or unset it"
        )
    loaded = sys.modules.get("OpenGL.platform")
    if loaded is not None and backend in ("egl", "osmesa"):
        before = type(loaded.PLATFORM).__module__.rpartition(".")[2]
        if before != backend:
            raise ImportError(
                f"PyOpenGL was imported for {before}, and cannot render with MUJOCO_GL={backend!r} "
                "any more: import srpo_env.libero.env before it, or set "
                f"PYOPENGL_PLATFORM={backend}"
            )
    os.environ["MUJOCO_GL"] = backend
    return backend


def has_osmesa() -> bool:
    """Returns whether the system has OSMesa, which in software is twice as fast as EGL."""
    return ctypes.util.find_library("OSMesa") is not None


def has_gpu() -> bool:
    """Returns whether EGL offers a GPU; `srpo_env.libero.gl_probe` tests that it renders."""
    # An empty CUDA_VISIBLE_DEVICES forbids the use of GPUs.
    return _visible_cuda_devices() != [] and bool(_gpus())


@functools.cache
def egl_devices() -> tuple[EglDevice, ...]:
    """Returns the devices that EGL can be initialised on, in its order; empty without EGL."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return ()
    return tuple(_ask_devices(egl))


def device_of_worker(worker: int) -> EglDevice | None:
    """Returns the GPU that a worker renders on, in turn; None if there is no GPU.

    If ``CUDA_VISIBLE_DEVICES`` lists GPUs by number, only those are used, in its order. Tested with
    fake devices, not on a machine with several GPUs.

    Args:
        worker: Index of the worker.

    Raises:
        RuntimeError: If EGL offers none of the GPUs in ``CUDA_VISIBLE_DEVICES``.
    """
    gpus, numbers = _gpus(), _visible_cuda_devices()
    if gpus and numbers is not None:
        by_number = {device.cuda_index: device for device in gpus}
        gpus = [by_number[number] for number in numbers if number in by_number]
        if numbers and not gpus:
            known = ", ".join(f"{d.index} (CUDA {d.cuda_index})" for d in by_number.values())
            raise RuntimeError(
                "CUDA_VISIBLE_DEVICES must name a GPU that EGL offers, got "
                f"{os.environ['CUDA_VISIBLE_DEVICES']!r} while EGL has the devices {known}; "
                "correct it, or set MUJOCO_EGL_DEVICE_ID"
            )
    return gpus[worker % len(gpus)] if gpus else None


def _gpus() -> list[EglDevice]:
    return [device for device in egl_devices() if not device.is_software]


def _visible_cuda_devices() -> list[int] | None:
    """Returns the numbers in ``CUDA_VISIBLE_DEVICES``; None if unset or if it lists UUIDs."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not all(name.lstrip("-").isdigit() for name in names):
        return None  # GPU-8932f937-..: EGL does not know UUIDs
    numbers = []
    for number in map(int, names):
        if number < 0:
            break  # as in CUDA, the numbers after it are ignored
        numbers.append(number)
    return numbers


def _ask_devices(egl: ctypes.CDLL) -> Iterator[EglDevice]:
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    pointer, integer = ctypes.c_void_p, ctypes.c_int32

    def function(name: str, *types: Any) -> Callable[..., Any] | None:
        address = egl.eglGetProcAddress(name.encode())
        return ctypes.CFUNCTYPE(*types)(address) if address else None

    query_devices = function(
        "eglQueryDevicesEXT", integer, integer, ctypes.POINTER(pointer), ctypes.POINTER(integer)
    )
    query_string = function("eglQueryDeviceStringEXT", ctypes.c_char_p, pointer, integer)
    query_attribute = function(
        "eglQueryDeviceAttribEXT", integer, pointer, integer, ctypes.POINTER(ctypes.c_ssize_t)
    )
    get_display = function("eglGetPlatformDisplayEXT", pointer, integer, pointer, pointer)
    initialize = function("eglInitialize", integer, pointer, pointer, pointer)
    if not (query_devices and query_string and query_attribute and get_display and initialize):
        return
    devices, count = (pointer * _MAX_DEVICES)(), integer()
    if not query_devices(_MAX_DEVICES, devices, ctypes.byref(count)):
        return
    for index in range(count.value):
        device = pointer(devices[index])
        display = get_display(_EGL_PLATFORM_DEVICE_EXT, device, None)
        # Left initialised: MuJoCo gets the same display and initialises it again, which is allowed.
        if not display or not initialize(display, None, None):
            continue
        extensions = (query_string(device, _EGL_EXTENSIONS) or b"").decode().split()
        value = ctypes.c_ssize_t()
        is_cuda = "EGL_NV_device_cuda" in extensions and query_attribute(
            device, _EGL_CUDA_DEVICE_NV, ctypes.byref(value)
        )
        yield EglDevice(
            index,
            is_software="EGL_MESA_device_software" in extensions,
            cuda_index=int(value.value) if is_cuda else None,
        )
