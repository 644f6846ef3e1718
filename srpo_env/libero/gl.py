"""Which OpenGL MuJoCo renders with, and on which GPU. Imports nothing heavy.

The choice precedes MuJoCo's import, so EGL is asked here through :mod:`ctypes`. EGL counts devices
in an order of its own, in which software can be a device too; CUDA counts GPUs alone, and only
those that ``CUDA_VISIBLE_DEVICES`` names. The extension ``EGL_NV_device_cuda`` says which is which.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from srpo_env.machine import load_triton

SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swrast", "SWR")
"""parts of the names that Mesa's software renderers give themselves"""

# Source: the EGL registry, EGL_EXT_device_query, EGL_EXT_platform_device and EGL_NV_device_cuda.
_EGL_EXTENSIONS = 0x3055
_EGL_PLATFORM_DEVICE_EXT = 0x313F
_EGL_CUDA_DEVICE_NV = 0x323A
_MAX_DEVICES = 64


@dataclass(frozen=True)
class EglDevice:
    """A device that EGL can render on."""

    index: int
    """among EGL's devices; what ``MUJOCO_EGL_DEVICE_ID`` means"""
    is_software: bool
    cuda_index: int | None
    """among the machine's GPUs, as CUDA counts them when none is hidden"""


def choose_gl() -> str:
    """Sets ``MUJOCO_GL`` where the user has not: EGL where it renders on a GPU, else software.

    In software that is OSMesa, or EGL on systems that have no OSMesa any more (Mesa 25.1 ended it).

    Call it before MuJoCo or robosuite is imported; both read the variable on import, and robosuite
    would take EGL, which in software is half as fast. Loads triton's library before MuJoCo loads
    Mesa's (`load_triton`).

    Returns:
        The value in force.
    """
    load_triton()
    # Mesa's software renderer hands small images to threads of its own, which costs more than it
    # gains and starves beside busy simulators: a third of the wall time with two on two cores.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "MUJOCO_GL" not in os.environ:
        in_software = "osmesa" if has_osmesa() or not egl_devices() else "egl"
        os.environ["MUJOCO_GL"] = "egl" if has_gpu() else in_software
    return os.environ["MUJOCO_GL"]


def has_osmesa() -> bool:
    """Whether the system has OSMesa, which renders in software twice as fast as EGL does."""
    return ctypes.util.find_library("OSMesa") is not None


def has_gpu() -> bool:
    """Whether EGL offers a GPU; if it renders, :mod:`srpo_env.libero.gl_probe` tells."""
    # An empty CUDA_VISIBLE_DEVICES says to leave the GPUs alone.
    return _visible_cuda_devices() != [] and bool(_gpus())


@functools.cache
def egl_devices() -> tuple[EglDevice, ...]:
    """Devices that EGL can be initialised on, in its order; none where it cannot be asked."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return ()
    return tuple(_ask_devices(egl))


def device_of_worker(worker: int) -> EglDevice | None:
    """The GPU that worker number ``worker`` renders on: they take turns; None where there is none.

    Where ``CUDA_VISIBLE_DEVICES`` names GPUs by number, those alone are used, in its order. Tested
    with made-up devices, not on a machine with several GPUs.

    Raises:
        RuntimeError: If it names GPUs of which EGL offers none.
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
    """Numbers in ``CUDA_VISIBLE_DEVICES``; None where it is unset or names GPUs by identifiers."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not all(name.lstrip("-").isdigit() for name in names):
        return None  # GPU-8932f937-..: EGL knows no such names
    numbers = []
    for number in map(int, names):
        if number < 0:
            break  # as CUDA has it: what follows is hidden
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
