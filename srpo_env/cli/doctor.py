"""Checks whether training can run on this machine, and prints fixes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srpo_env.cli.child_python import run_python
from srpo_env.system.machine import (
    HF_LIBERO,
    INSTALL_HF_LIBERO,
    are_installed,
    install_command,
    usable_cores,
    usable_memory,
)

TRAINING_EXTRAS = ("libero", "agents")
"""The extras that ``agents/vla_grpo.py`` needs."""

MEMORY_OF_WORKER = 2**29  # bytes; a simulator process with one compiled task

SPEED_SECONDS = 10
"""Duration of the speed measurement, in seconds."""

FIX_ABOVE_FIRST = "fix the problems above first"


@dataclass(frozen=True)
class Finding:
    """The result of a check, or the announcement of a slow one."""

    state: Literal["ok", "note", "wrong", "..."]
    """``wrong``: training cannot run; ``note``: training can run, but something can be improved;
    ``...``: a check that takes seconds is starting."""
    text: str
    fix: str = ""
    """Command that fixes the problem, or a description of the fix."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no arguments."""


def run(args: argparse.Namespace) -> int:
    """Prints the findings of all checks; returns 1 if training cannot run, else 0."""
    can_run = True
    for check in CHECKS:
        for finding in check():
            can_run &= finding.state != "wrong"
            print(f"{finding.state:6} {finding.text}".replace("\n", f"\n{'':7}"), flush=True)
            if finding.fix:
                print(f"{'':6} fix: {finding.fix}", flush=True)
    print("Training can run here." if can_run else "Training cannot run here: see the fixes above.")
    return 0 if can_run else 1


# --- Checks -------------------------------------------------------------------------------------


def check_packages() -> Iterator[Finding]:
    """Compares the installed packages with what srpo-env and training require."""
    yield Finding("ok", f"Python {platform.python_version()}, {platform.platform()}")
    try:
        requirements = importlib.metadata.requires("srpo-env") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("wrong", "srpo-env is imported from a folder, not installed", "pip install .")
        return
    versions: dict[str, str] = {}
    missing: list[str] = []
    for requirement in [*requirements, HF_LIBERO]:
        if not _is_needed_for_training(requirement):
            continue
        name = _name_of(requirement)
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("ok", f"srpo-env {importlib.metadata.version('srpo-env')} with {listed}")
    if _name_of(HF_LIBERO) in missing and len(set(missing)) == 1:
        yield Finding("wrong", f"{_name_of(HF_LIBERO)} is not installed", INSTALL_HF_LIBERO)
    elif missing:
        text = (
            f"training in LIBERO needs packages that are not installed: "
            f"{', '.join(dict.fromkeys(missing))}; the reward alone does not need them"
        )
        yield Finding("wrong", text, install_command(*TRAINING_EXTRAS))
    if "packaging" in versions:  # not a requirement of the core; the extra `libero` installs it
        # Several extras may require one package.
        yield from dict.fromkeys(_wrong_versions([*requirements, HF_LIBERO], versions))


def _wrong_versions(requirements: list[str], versions: dict[str, str]) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        name, wanted = requirement.name, requirement.specifier
        if name not in versions or not _is_needed_for_training(str(requirement)):
            continue
        if not wanted.contains(versions[name], prereleases=True):
            fix = INSTALL_HF_LIBERO if str(requirement) == HF_LIBERO else ""
            text = f"{name} must be {wanted}, got {versions[name]}"
            yield Finding("wrong", text, fix or f"pip install '{name}{wanted}'")


def _name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _is_needed_for_training(requirement: str) -> bool:
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
    return extra is None or extra.group(1) in TRAINING_EXTRAS


def check_graphics() -> Iterator[Finding]:
    """Creates an OpenGL context and reads which device renders."""
    if not _has_libero_extra():
        return
    from srpo_env.libero.gl import SOFTWARE_RENDERERS, has_gpu

    try:
        found = json.loads(run_python("-m", "srpo_env.libero.gl_probe"))
    except RuntimeError as error:
        asked = os.environ.get("MUJOCO_GL")
        asked_for = f" with MUJOCO_GL={asked}" if asked else ""
        text = f"OpenGL cannot create a context{asked_for}: {error}"
        if asked not in (None, "osmesa"):
            yield Finding("wrong", text, "unset MUJOCO_GL")
        elif asked is None and has_gpu():
            yield Finding("wrong", text, f"{_GPU_GRAPHICS}; or export MUJOCO_GL=osmesa")
        else:
            yield Finding("wrong", text, "apt-get install libosmesa6")
        return
    text = f"OpenGL {found['version']} by {found['renderer']}, MUJOCO_GL={found['backend']}"
    in_software = any(name in found["renderer"] for name in SOFTWARE_RENDERERS)
    if in_software and has_gpu():
        yield Finding("note", f"{text}: software, although there is a GPU", _GPU_GRAPHICS)
    elif in_software and found["backend"] != "osmesa":
        text += ": software, and OSMesa is twice as fast"
        yield Finding("note", text, "unset MUJOCO_GL")
    else:
        yield Finding("ok", text + (": software" if in_software else ""))


_GPU_GRAPHICS = (
    "install the graphics part of the GPU's driver (libEGL and its vendor file); in a container "
    "start it with NVIDIA_DRIVER_CAPABILITIES=all"
)


def check_native_libraries() -> Iterator[Finding]:
    """Imports torch and triton after MuJoCo has rendered, which can crash the process."""
    if not (_has_libero_extra() and are_installed("torch")):
        return
    yield Finding("...", "importing MuJoCo, torch and triton together")
    render = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current()"
    choose = "from srpo_env.libero.gl import choose_gl; choose_gl()"
    triton = "import triton.language" if are_installed("triton") else "pass"
    try:
        run_python("-c", f"{choose}; {render}; import torch; {triton}")
    except RuntimeError as error:
        text = f"torch or triton cannot be imported after MuJoCo: {error}"
        yield Finding("wrong", text, "pip uninstall triton (not needed on a CPU)")
        return
    yield Finding("ok", "MuJoCo, torch and triton work in one process")
    if triton == "pass":
        return
    # The same without srpo-env, which loads triton's library first (`machine.load_triton`).
    backend = run_python(
        "-c", "from srpo_env.libero.gl import choose_gl; print(choose_gl())"
    ).strip()
    try:
        run_python("-c", f"{render}; {triton}", MUJOCO_GL=backend)
    except RuntimeError as error:
        text = (
            f"a program that imports MuJoCo, and later torch.compile or triton, without srpo_env "
            f"crashes here: {error}"
        )
        yield Finding(
            "note", text, "in such a program, write `import triton` above `import mujoco`"
        )


def check_assets() -> Iterator[Finding]:
    """Checks the LIBERO assets in use, and the user's LIBERO configuration."""
    if not (_has_libero_extra() and are_installed("libero")):
        return
    from srpo_env.libero.assets import asset_warnings_silenced, resolve_assets

    try:
        with asset_warnings_silenced():
            assets = resolve_assets()
    except OSError as error:
        yield Finding("wrong", str(error), "unset LIBERO_ASSETS, or correct it")
        return
    text = f"assets: {assets.kind} ({assets.source}), {assets.path}"
    if assets.kind == "libero":
        yield Finding("ok", text)
    else:
        text += f"; results on {assets.kind} assets are not LIBERO results"
        yield Finding("note", text, "pip install 'srpo-env[assets]'")
    yield from check_libero_configuration()


def check_libero_configuration() -> Iterator[Finding]:
    """Checks that the folders in the user's LIBERO configuration exist."""
    import yaml

    folder = os.environ.get("LIBERO_CONFIG_PATH") or os.path.expanduser("~/.libero")
    file = Path(folder) / "config.yaml"
    if not file.is_file():
        return
    try:
        entries = dict(yaml.safe_load(file.read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        reason = f"cannot be read ({type(error).__name__})"
    else:
        # LIBERO creates the folder for demonstrations when it downloads some.
        lost = [k for k, path in entries.items() if k != "datasets" and not Path(path).exists()]
        if not lost:
            return
        reason = f"names folders that do not exist: {', '.join(f'{k}: {entries[k]}' for k in lost)}"
    # srpo-env uses a separate configuration; LIBERO alone, or with lerobot, reads this one.
    yield Finding(
        "note", f"{file} {reason}; srpo-env does not use it, other programs do", f"rm {file}"
    )


def check_simulator() -> Iterator[Finding]:
    """Imports LIBERO's simulator, which also loads shared libraries of the system."""
    if not (_has_libero_extra() and are_installed("libero")):
        return
    yield Finding("...", "importing LIBERO's simulator")
    prepare = "from srpo_env.libero.assets import prepare_libero; prepare_libero()"
    do_import = "from srpo_env.libero.upstream import import_upstream; import_upstream()"
    try:
        run_python("-c", f"{prepare}; {do_import}")
    except RuntimeError as error:
        fix = FIX_ABOVE_FIRST
        if ".so" in str(error):  # loaded by OpenCV, a requirement of robosuite
            fix = "apt-get install libgl1 libglib2.0-0"
        yield Finding("wrong", f"LIBERO's simulator cannot be imported: {error}", fix)
    else:
        yield Finding("ok", "LIBERO's simulator can be imported")


def check_torch() -> Iterator[Finding]:
    """Checks that torch uses the GPU if there is one."""
    if not are_installed("torch"):
        return
    import torch

    if torch.cuda.is_available():
        yield Finding("ok", f"torch uses {torch.cuda.get_device_name()}")
    elif has_nvidia_gpu() and torch.version.cuda is None:
        fix = f"pip uninstall torch && pip install torch=={torch.__version__.partition('+')[0]}"
        yield Finding("note", "torch is a build for the CPU, although there is a GPU", fix)
    else:
        yield Finding("ok", "torch uses the CPU")


def check_machine() -> Iterator[Finding]:
    """Reports the cores and the memory that a container's limits leave."""
    yield Finding("ok", f"{usable_cores():g} cores, {usable_memory() / 2**30:.1f} GiB of memory")


def check_speed() -> Iterator[Finding]:
    """Compares the simulator's speed with that of MuJoCo alone on this machine."""
    if not (_has_libero_extra() and are_installed("libero")):
        return
    from srpo_env.benchmarks.sim.speed_test import SpeedTest, judge

    yield Finding(
        "...", f"measuring the simulator's speed, {SPEED_SECONDS} s after a task is loaded"
    )
    cores = usable_cores()
    num_workers = max(1, min(int(cores), usable_memory() // MEMORY_OF_WORKER))
    try:
        probe = "srpo_env.benchmarks.sim.speed_probe"
        answer = run_python("-m", probe, str(num_workers), str(SPEED_SECONDS))
    except RuntimeError as error:
        text = f"speed: LIBERO cannot be stepped: {error}"
        yield Finding("wrong", text, FIX_ABOVE_FIRST)
        return
    for is_well, text, fix in judge(SpeedTest(**json.loads(answer)), cores):
        yield Finding("ok" if is_well else "note", text, fix)


CHECKS = (
    check_packages,
    check_graphics,
    check_native_libraries,
    check_assets,
    check_simulator,
    check_torch,
    check_machine,
    check_speed,
)
"""All checks, in the order in which they are printed."""


# --- Helpers of the checks ----------------------------------------------------------------------


def _has_libero_extra() -> bool:
    # If it is missing, `check_packages` reports it with its fix.
    try:
        import srpo_env.libero  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def has_nvidia_gpu() -> bool:
    """Returns whether the NVIDIA driver is installed, which CUDA needs."""
    return shutil.which("nvidia-smi") is not None
