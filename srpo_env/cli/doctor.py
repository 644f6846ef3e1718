"""Checks whether training can run on this machine, and says how to mend what is wrong."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srpo_env.benchmarks.sim.speed_test import SpeedTest, judge
from srpo_env.libero.gl import has_gpu
from srpo_env.machine import usable_cores, usable_memory

TRAINING_EXTRAS = ("libero", "agents")
"""The extras without which ``agents/vla_grpo.py`` cannot run."""

INSTALL = f"pip install 'srpo-env[{','.join(TRAINING_EXTRAS)}]'"

HF_LIBERO = "hf-libero==0.1.4"
"""LIBERO's simulator; installed beside the extras, as they cannot leave out its requirements."""

INSTALL_HF_LIBERO = f"pip install --no-deps {HF_LIBERO}"

SOFTWARE_RENDERERS = ("llvmpipe", "softpipe", "swrast")
"""Mesa's names for itself when it renders on the CPU."""

MEMORY_OF_WORKER = 2**29  # bytes; of a simulator process with one compiled task


@dataclass(frozen=True)
class Finding:
    """What a check saw."""

    state: Literal["ok", "note", "wrong"]
    """``wrong``: training could not run; ``note``: it runs, but something is not as it could be"""
    text: str
    mend: str = ""
    """the command that mends it, or what to do where no command does"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the doctor looks at everything there is."""


def run(args: argparse.Namespace) -> int:
    """Prints what the checks find; returns 1 if training could not run, else 0."""
    can_run = True
    for check in CHECKS:
        for finding in check():
            can_run &= finding.state != "wrong"
            print(f"{finding.state:6} {finding.text}", flush=True)
            if finding.mend:
                print(f"{'':6} mend: {finding.mend}")
    print("Training can run here." if can_run else "Training cannot run here.")
    return 0 if can_run else 1


# --- Checks -------------------------------------------------------------------------------------


def check_packages() -> Iterator[Finding]:
    """The versions of what training imports, against what srpo-env requires."""
    yield Finding("ok", f"Python {platform.python_version()}, {platform.platform()}")
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # [libero] requires it, so the rest is missing as well
        mend = f"{INSTALL} && {INSTALL_HF_LIBERO}"
        yield Finding("wrong", "what training needs is not installed", mend)
        return
    requirements = [Requirement(line) for line in importlib.metadata.requires("srpo-env") or []]
    requirements = [
        requirement
        for requirement in requirements
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in TRAINING_EXTRAS)
    ]
    versions: dict[str, str] = {}
    wrong: list[Finding] = []
    for requirement in [*requirements, Requirement(HF_LIBERO)]:
        name, wanted = requirement.name, requirement.specifier
        lean = INSTALL_HF_LIBERO if str(requirement) == HF_LIBERO else ""
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(Finding("wrong", f"{name} is not installed", lean or INSTALL))
            continue
        if not wanted.contains(versions[name], prereleases=True):
            text = f"{name} must be {wanted}, got {versions[name]}"
            wrong.append(Finding("wrong", text, lean or f"pip install '{name}{wanted}'"))
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("ok", f"srpo-env {importlib.metadata.version('srpo-env')} with {listed}")
    yield from wrong


def check_graphics() -> Iterator[Finding]:
    """Who really renders: makes a context and asks it, whatever was asked for."""
    if not _are_installed("mujoco", "OpenGL"):
        return
    try:
        found = json.loads(_run_python("-m", "srpo_env.libero.gl_probe"))
    except RuntimeError as error:
        asked = os.environ.get("MUJOCO_GL")
        text = f"OpenGL makes no context{f' with MUJOCO_GL={asked}' if asked else ''}: {error}"
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
        yield Finding("note", f"{text}: software, though there is a GPU", _GPU_GRAPHICS)
    elif in_software and found["backend"] != "osmesa":
        yield Finding("note", f"{text}: software, and OSMesa is twice as fast", "unset MUJOCO_GL")
    else:
        yield Finding("ok", text + (": software" if in_software else ""))


_GPU_GRAPHICS = (
    "install the graphics part of the GPU's driver (libEGL and its vendor file); in a container "
    "start it with NVIDIA_DRIVER_CAPABILITIES=all"
)


def check_assets() -> Iterator[Finding]:
    """Which of LIBERO's assets are used, and whether an old configuration misleads others."""
    if not _are_installed("libero", "PIL", "yaml"):
        return
    from srpo_env.cli.assets import announcement_left_out
    from srpo_env.libero.assets import resolve_assets

    try:
        with announcement_left_out():
            assets = resolve_assets()
    except OSError as error:
        yield Finding("wrong", str(error), "unset LIBERO_ASSETS, or correct it")
        return
    text = f"assets: {assets.kind} ({assets.source}), {assets.path}"
    if assets.kind == "real":
        yield Finding("ok", text)
    else:
        text += "; results on stand-ins are not LIBERO results"
        yield Finding("note", text, "srpo-env assets download")
    yield from _stale_configuration()


def _stale_configuration() -> Iterator[Finding]:
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
        # The folder for demonstrations is made when some are downloaded.
        lost = [k for k, path in entries.items() if k != "datasets" and not Path(path).exists()]
        if not lost:
            return
        reason = f"names folders that do not exist: {', '.join(f'{k}: {entries[k]}' for k in lost)}"
    # srpo-env has a private one; LIBERO run by itself, or by lerobot, follows this file and fails.
    yield Finding(
        "note", f"{file} {reason}; srpo-env does not use it, other programs do", f"rm {file}"
    )


def check_simulator() -> Iterator[Finding]:
    """Whether LIBERO imports, which takes shared libraries of the system too."""
    if not _are_installed("libero", "robosuite", "PIL"):
        return
    prepare = "from srpo_env.libero.assets import prepare_libero; prepare_libero()"
    try:
        _run_python("-c", f"{prepare}; import libero.libero.envs")
    except RuntimeError as error:
        mend = "first what is wrong above"
        if ".so" in str(error):  # OpenCV, a requirement of robosuite, loads these
            mend = "apt-get install libgl1 libglib2.0-0"
        yield Finding("wrong", f"LIBERO's simulator does not import: {error}", mend)
    else:
        yield Finding("ok", "LIBERO's simulator imports")


def check_torch() -> Iterator[Finding]:
    """Whether torch uses the GPU, if there is one."""
    if not _are_installed("torch"):
        return
    import torch

    if torch.cuda.is_available():
        yield Finding("ok", f"torch uses {torch.cuda.get_device_name()}")
    elif has_gpu() and torch.version.cuda is None:
        mend = f"pip uninstall torch && pip install torch=={torch.__version__.partition('+')[0]}"
        yield Finding("note", "torch is a build for the CPU, though there is a GPU", mend)
    else:
        yield Finding("ok", "torch uses the CPU")


def check_machine() -> Iterator[Finding]:
    """Cores and memory, as a container limits them."""
    yield Finding("ok", f"{usable_cores():g} cores, {usable_memory() / 2**30:.1f} GiB of memory")


def check_speed() -> Iterator[Finding]:
    """Whether it steps as fast as this machine's physics allows; takes ten seconds and a start."""
    if not _are_installed("libero", "robosuite", "mujoco", "PIL"):
        return
    cores = usable_cores()
    num_workers = max(1, min(int(cores), usable_memory() // MEMORY_OF_WORKER))
    try:
        answer = _run_python("-m", "srpo_env.benchmarks.sim.speed_probe", str(num_workers))
    except RuntimeError as error:
        text = f"speed: LIBERO could not be stepped: {error}"
        yield Finding("wrong", text, "first what is wrong above")
        return
    for is_well, text, mend in judge(SpeedTest(**json.loads(answer)), cores):
        yield Finding("ok" if is_well else "note", text, mend)


CHECKS = (
    check_packages,
    check_graphics,
    check_assets,
    check_simulator,
    check_torch,
    check_machine,
    check_speed,
)
"""In the order in which they are printed."""


# --- What the checks ask ------------------------------------------------------------------------


def _are_installed(*modules: str) -> bool:
    # That they are not, the check of the packages says, and how to install them.
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _run_python(*arguments: str) -> str:
    """What a Python of its own prints: a check may end its process, or set what cannot be unset.

    Raises:
        RuntimeError: If it fails or takes over five minutes; with the last line of what it said.
    """
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("no answer within five minutes") from error
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(last_line)
    return done.stdout
