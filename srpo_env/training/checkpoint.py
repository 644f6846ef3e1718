"""Checkpoints of a training run: complete at any moment, and data instead of code.

A run's folder holds ``checkpoints/iteration_0010/``, ..., each with ``policy`` (if the run trains
one, see :mod:`srpo_env.policy.checkpoint`), ``training.safetensors`` (arrays of all other state)
and ``training.json`` (the rest of it).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from srpo_env.policy.base import Policy
from srpo_env.policy.checkpoint import read_versioned_json
from srpo_env.policy.network import load_policy

FORMAT = "srpo-env training"
FORMAT_VERSION = 1

CHECKPOINTS = "checkpoints"
"""name of their folder in a run's folder"""

TENSORS, VALUES, POLICY = "training.safetensors", "training.json", "policy"
"""names in a checkpoint's folder"""

TEMPORARY = "_temporary"
"""end of the name of a checkpoint that the next one replaces"""


class Stateful(Protocol):
    """Anything whose state can be saved: modules, schedulers, the environment wrapper, ..."""

    def state_dict(self) -> Mapping[str, Any]:
        """Returns tensors, arrays, bytes and what JSON can hold, by name."""

    def load_state_dict(self, state: Any) -> Any:
        """Restores what `state_dict` returned."""


@singledispatch
def get_state(part: Any) -> Mapping[str, Any]:
    """Returns the state of a part of a run by name: tensors, arrays, bytes, values for JSON."""
    state: Mapping[str, Any] = part.state_dict()
    return state


@singledispatch
def set_state(part: Any, state: Mapping[str, Any]) -> None:
    """Restores what `get_state` returned."""
    part.load_state_dict(state)


@get_state.register
def _(part: torch.optim.Optimizer) -> Mapping[str, Any]:
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, values in part.state_dict()["state"].items()
        for key, value in values.items()
    }


@set_state.register
def _(part: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    # The settings, such as the learning rate, remain those that the optimizer was built with.
    by_index: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        index, _, key = name.partition(".")
        by_index.setdefault(int(index), {})[key] = value
    part.load_state_dict({**part.state_dict(), "state": by_index})


@get_state.register
def _(part: LRScheduler) -> Mapping[str, Any]:
    # A scheduler sets learning rates, and some set betas: they are part of its state.
    groups = [dict(group) for group in part.optimizer.param_groups]
    for group in groups:
        del group["params"]
    return {**part.state_dict(), "param_groups": groups}


@set_state.register
def _(part: LRScheduler, state: Mapping[str, Any]) -> None:
    state = dict(state)
    for group, saved in zip(part.optimizer.param_groups, state.pop("param_groups"), strict=True):
        group.update(saved)
    part.load_state_dict(state)


@get_state.register
def _(part: torch.Generator) -> Mapping[str, Any]:
    return {"state": part.get_state()}


@set_state.register
def _(part: torch.Generator, state: Mapping[str, Any]) -> None:
    part.set_state(state["state"])


@get_state.register
def _(part: np.random.Generator) -> Mapping[str, Any]:
    return {"state": dict(part.bit_generator.state)}


@set_state.register
def _(part: np.random.Generator, state: Mapping[str, Any]) -> None:
    part.bit_generator.state = state["state"]


def save_training(
    folder: str | Path,
    parts: Mapping[str, Any],
    progress: Mapping[str, Any],
    *,
    policy: Policy | None = None,
    keep: bool = True,
) -> Path:
    """Writes a checkpoint; whatever ends the process, the newest complete one can be read.

    The files are written to a draft folder and flushed to the disk before that is renamed.

    Args:
        folder: Folder of the run.
        parts: What to save besides the policy, by name: anything that `get_state` takes.
        progress: Counters of the run, for JSON; ``"iteration"`` names the checkpoint.
        policy: Saved by its own `save`, with ``progress`` as its provenance.
        keep: Whether the checkpoint stays when later ones are written.

    Returns:
        Folder of the checkpoint.
    """
    checkpoints = Path(folder) / CHECKPOINTS
    target = checkpoints / f"iteration_{progress['iteration']:04d}{'' if keep else TEMPORARY}"
    draft = checkpoints / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if policy is not None:
        policy.save(draft / POLICY, provenance=progress)
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    types: dict[str, str] = {}  # of tensors that have to become something else again
    for part, owner in parts.items():
        values[part] = {}
        for name, value in get_state(owner).items():
            if isinstance(value, (np.ndarray, bytes)):
                types[f"{part}.{name}"] = type(value).__name__
                as_bytes = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
                value = torch.tensor(as_bytes)
            if isinstance(value, Tensor):
                # Averages of gradients have the memory order of their layers; files have one.
                tensors[f"{part}.{name}"] = value.detach().cpu().contiguous()
            else:
                values[part][name] = value
    save_file(tensors, draft / TENSORS)
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "progress": dict(progress),
        "parts": values,
        "types": types,
    }
    (draft / VALUES).write_text(json.dumps(content))
    flush_to_disk(draft)
    earlier = list(checkpoints.glob(f"iteration_*{TEMPORARY}"))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    flush_to_disk(checkpoints, content=False)
    for checkpoint in earlier:
        if checkpoint != target:
            shutil.rmtree(checkpoint)
    return target


def load_progress(checkpoint: str | Path) -> dict[str, Any]:
    """Reads the ``progress`` that a checkpoint was saved with.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or of another format version.
    """
    progress: dict[str, Any] = _read_values(Path(checkpoint))["progress"]
    return progress


def load_training(
    checkpoint: str | Path, parts: Mapping[str, Any], policy: Policy | None = None
) -> None:
    """Restores the state of ``parts`` and ``policy``, so that a run continues where it was saved.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, of another format version, or of another kind of run.
    """
    checkpoint = Path(checkpoint)
    content = _read_values(checkpoint)
    states: dict[str, dict[str, Any]] = content["parts"]
    restored = {"ndarray": Tensor.numpy, "bytes": lambda tensor: tensor.numpy().tobytes()}
    if set(states) != set(parts):
        raise ValueError(
            f"{checkpoint / VALUES} must hold the state of {', '.join(sorted(parts))}, "
            f"got {', '.join(sorted(states))}: it was written by another agent"
        )
    try:
        tensors = load_file(checkpoint / TENSORS)
    except SafetensorError as error:
        raise ValueError(f"{checkpoint / TENSORS} is damaged: {error}") from error
    for name, tensor in tensors.items():
        owner, _, key = name.partition(".")
        kind = content["types"].get(name)
        states[owner][key] = tensor if kind is None else restored[kind](tensor)
    if policy is not None:
        policy.load_state_dict(load_policy(checkpoint / POLICY).state_dict())
    for name, part in parts.items():
        set_state(part, states[name])


def newest_checkpoint(folder: str | Path) -> Path:
    """Returns the checkpoint with the most iterations; if two are equal, the one that is kept.

    Raises:
        FileNotFoundError: If the run has none.
    """

    def age(checkpoint: Path) -> tuple[int, bool]:
        return int(checkpoint.name.split("_")[1]), not checkpoint.name.endswith(TEMPORARY)

    found = list((Path(folder) / CHECKPOINTS).glob("iteration_*"))
    if not found:
        raise FileNotFoundError(
            f"--resume must name the folder of a run with checkpoints, and {str(folder)!r} has none"
        )
    return max(found, key=age)


def _read_values(checkpoint: Path) -> dict[str, Any]:
    return read_versioned_json(checkpoint / VALUES, FORMAT, FORMAT_VERSION)


def flush_to_disk(folder: Path, content: bool = True) -> None:
    """Flushes a folder, and the files in it, to the disk."""
    for path in [*(folder.iterdir() if content else ()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
