"""What this process runs on: its share of the cores and of the memory, versions, and the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
CPU_INFO = Path("/proc/cpuinfo")

SIMULATION_PACKAGES = ("mujoco", "robosuite", "hf-libero", "numpy", "numba")
"""Packages whose versions decide how fast LIBERO is."""

SPEED_VARIABLES = (
    "MUJOCO_GL",
    "LP_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
"""Environment variables that decide how fast it is."""


def usable_cores() -> float:
    """Cores that this process may use; a container's share need not be whole."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if CGROUP_CPU_LIMIT.is_file():
        quota, period = CGROUP_CPU_LIMIT.read_text().split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory() -> int:
    """Memory that this machine or container has, in bytes."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP_MEMORY_LIMIT.is_file():
        limit = CGROUP_MEMORY_LIMIT.read_text().strip()
        if limit != "max":
            memory = min(memory, int(limit))
    return memory


def cpu_name() -> str:
    """The processor's name, as the system has it."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Commit of the checkout that this package is in, ``+changes`` if files differ from it.

    None where it is installed as a package: a checkout around that would be another project's.
    """
    package = Path(__file__).resolve().parent
    try:
        _git(package, "ls-files", "--error-unmatch", Path(__file__).name)
        changes = _git(package, "status", "--porcelain", "--untracked-files=no", ".")
        return _git(package, "rev-parse", "--short", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe_machine() -> dict[str, Any]:
    """What a measurement of speed depends on; good for JSON."""
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


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
