"""The machine of this process: cores, memory, installed packages, the commit, native libraries."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPU_INFO = Path("/proc/cpuinfo")
LOADED_LIBRARIES = Path("/proc/self/maps")

SIMULATION_PACKAGES = ("mujoco", "robosuite", "hf-libero", "numpy", "numba")
"""Packages whose versions affect the simulation speed."""

SPEED_VARIABLES = (
    "MUJOCO_GL",
    "LP_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""Environment variables that affect the simulation speed."""

HF_LIBERO = "hf-libero==0.1.4"
"""Requirement of LIBERO's package. It is no part of an extra: an extra cannot use ``--no-deps``."""

INSTALL_HF_LIBERO = f"pip install --no-deps {HF_LIBERO}"

EXTRAS: dict[str, tuple[str, ...]] = {
    "encoders": ("torch", "dtaidistance", "transformers", "safetensors", "h5py", "tqdm"),
    "libero": (
        "robosuite",
        "bddl",
        "mujoco",
        "cloudpickle",
        "dtaidistance",
        "easydict",
        "fast_simplification",
        "future",
        "glfw",
        "h5py",
        "huggingface_hub",
        "matplotlib",
        "numba",
        "cv2",
        "packaging",
        "PIL",
        "OpenGL",
        "yaml",
        "scipy",
        "termcolor",
        "threadpoolctl",
        "torch",
        "tqdm",
    ),
    "agents": (
        "torch",
        "transformers",
        "tyro",
        "tensorboard",
        "safetensors",
        "h5py",
        "matplotlib",
        "tqdm",
    ),
    "openvla": (
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "peft",
        "PIL",
        "huggingface_hub",
    ),
    "ray": ("ray",),
    "sb3": ("stable_baselines3",),
}
"""The modules that each optional extra installs, by the name under which they are imported."""


def install_command(*extras: str) -> str:
    """Returns the pip command that installs optional extras of this package."""
    command = f"pip install 'srpo-env[{','.join(extras)}]'"
    return f"{command} && {INSTALL_HF_LIBERO}" if "libero" in extras else command


def are_installed(*modules: str) -> bool:
    """Returns whether top-level modules can be found, without importing them."""
    # `find_spec` raises an error for a loaded module without a spec, such as a fake of a test.
    return all(module in sys.modules or importlib.util.find_spec(module) for module in modules)


def require_extra(extra: str, user: str) -> None:
    """Checks that an optional extra is installed.

    Args:
        extra: A key of `EXTRAS`.
        user: Name of the feature that needs it; the subject of the error message.

    Raises:
        ModuleNotFoundError: If modules of the extra are missing, with the command that installs
            them.
    """
    missing = [module for module in EXTRAS[extra] if not are_installed(module)]
    if missing:
        raise ModuleNotFoundError(
            f"{user} needs packages that are not installed ({', '.join(missing)}): "
            f"run `{install_command(extra)}`",
            name=missing[0],
        )


def usable_cores() -> float:
    """Returns how many cores this process may use; a container's quota can be fractional."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if CGROUP_CPU_LIMIT.is_file():
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory() -> int:
    """Returns the memory of this machine or container in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP_MEMORY_LIMIT.is_file():
        limit = CGROUP_MEMORY_LIMIT.read_text().strip()
        if limit != "max":
            memory = min(memory, int(limit))
    return memory


def release_memory() -> None:
    """Returns the memory of objects that are no longer used to the operating system.

    Python frees objects that refer to each other only when its garbage collector runs, and glibc
    keeps freed blocks that lie between used ones.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def cpu_name() -> str:
    """Returns the name of the processor."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Returns the commit of the checkout that contains this package.

    Returns:
        The short hash, followed by ``+changes`` if tracked files were modified; None if the package
        is installed, because a checkout around it belongs to another project.
    """
    file = Path(__file__).resolve()
    package = file.parents[1]
    try:
        _git(package, "ls-files", "--error-unmatch", str(file))
        changes = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
        return _git(package, "rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe_machine() -> dict[str, Any]:
    """Returns everything that a speed measurement depends on, in types that JSON can store."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(usable_memory() / 2**30, 1),
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in SIMULATION_PACKAGES},
        "srpo-env": importlib.metadata.version("srpo-env"),
        "commit": commit(),
        "environment": {name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ},
    }


@functools.cache
def load_triton() -> None:
    """Loads triton's native library, so that Mesa's LLVM cannot crash it.

    Mesa's software renderers and triton both contain LLVM, in different versions that export the
    same symbols. Mesa's is loaded with ``RTLD_GLOBAL``: by PyOpenGL (OSMesa) or by Mesa itself (EGL
    and GLX drivers). A library that is loaded later then calls Mesa's LLVM instead of its own, and
    Python stops with a segmentation fault inside ``import triton``, which torch runs by itself
    (``torch._dynamo``). A library that is loaded earlier keeps its own functions.

    Call this before MuJoCo is imported and before torch might import triton. It works in either
    order, costs 0.03 s and 7 MB, does not import triton's Python code, and does nothing where
    triton is not installed.
    """
    triton = importlib.util.find_spec("triton")
    folders = (triton.submodule_search_locations or []) if triton else []
    libraries = [file for folder in folders for file in Path(folder).glob("_C/libtriton*.so")]
    if not libraries:
        return
    mode = os.RTLD_NOW
    if LOADED_LIBRARIES.is_file() and "libLLVM" in LOADED_LIBRARIES.read_text():
        # Mesa is loaded already. With DEEPBIND, a library prefers its own functions to global
        # ones. It is not the default, because it also bypasses an allocator set with LD_PRELOAD.
        mode |= os.RTLD_DEEPBIND
    for library in libraries:
        with contextlib.suppress(OSError):  # a broken triton: its import will raise the error
            ctypes.CDLL(str(library), mode)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
