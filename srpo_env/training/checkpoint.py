"""Checkpoints of a training run: complete at any moment, and data instead of code.

A run's folder holds ``checkpoints/iteration_0010/``, ..., each with ``policy`` (if the run trains
one, see `srpo_env.policy.checkpoint`), ``training.safetensors`` (arrays of all other state)
and ``training.json`` (the rest of it, and the SHA-256 of the other files).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from srpo_env.policy.base import Policy
from srpo_env.readers.arrays import read_safetensors
from srpo_env.system.files import (
    DamagedFileError,
    errors_name,
    flush_to_disk,
    read_versioned_json,
    sha256_of,
    write_file,
)

FORMAT = "srpo-env training"
FORMAT_VERSION = 1

CHECKPOINTS = "checkpoints"
"""name of their folder in a run's folder"""

TENSORS, VALUES, POLICY = "training.safetensors", "training.json", "policy"
"""names in a checkpoint's folder"""

TEMPORARY = "_temporary"
"""end of the name of a checkpoint that the next one replaces"""

REPLACED = "_replaced"
"""end of the name of a checkpoint while another one takes its name"""

_NAME = re.compile(rf"iteration_(\d+)({TEMPORARY})?({REPLACED})?")


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
    draft, deleted = checkpoints / ".draft", checkpoints / ".deleted"
    for leftover in (draft, deleted):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with errors_name(target):
            _write_checkpoint(draft, parts, progress, policy)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # it may have filled the disk
        raise
    earlier = {path for path in _checkpoints(folder) if path.name.endswith((TEMPORARY, REPLACED))}
    if target.exists():
        # A folder cannot be replaced in one step. At any moment, one of the two can be read.
        replaced = target.with_name(target.name + REPLACED)
        if replaced.exists():
            _delete(replaced, deleted)
        target.rename(replaced)
        earlier.add(replaced)
    draft.rename(target)
    flush_to_disk(checkpoints)
    flush_to_disk(folder)
    for checkpoint in earlier - {target}:
        _delete(checkpoint, deleted)
    return target


def _write_checkpoint(
    folder: Path, parts: Mapping[str, Any], progress: Mapping[str, Any], policy: Policy | None
) -> None:
    """Writes the files of a checkpoint and flushes them to the disk."""
    folder.mkdir(parents=True)
    if policy is not None:
        policy.save(folder / POLICY, provenance=progress)
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
    write_file(folder / TENSORS, save_tensors(tensors))
    for path in [*folder.rglob("*"), folder]:
        flush_to_disk(path)  # a policy may write its files in another way
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "progress": dict(progress),
        "parts": values,
        "types": types,
        "sha256": {
            str(path.relative_to(folder)): sha256_of(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    write_file(folder / VALUES, json.dumps(content).encode())


def _delete(checkpoint: Path, deleted: Path) -> None:
    """Deletes a checkpoint; takes its name away first, because deleting has several steps."""
    checkpoint.rename(deleted)
    shutil.rmtree(deleted)


def load_progress(checkpoint: str | Path) -> dict[str, Any]:
    """Reads the ``progress`` that a checkpoint was saved with.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is of another format version; a `DamagedFileError` if it is damaged.
    """
    progress: dict[str, Any] = _read_values(Path(checkpoint))["progress"]
    return progress


def load_training(
    checkpoint: str | Path, parts: Mapping[str, Any], policy: Policy | None = None
) -> None:
    """Restores the state of ``parts`` and ``policy``, so that a run continues where it was saved.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the checkpoint is of another format version or of another kind of run; a
            `DamagedFileError` if a file is damaged. Nothing is restored then.
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
    for name, digest in content["sha256"].items():
        if name != Path(name).name or not (checkpoint / name).is_file():
            raise DamagedFileError(f"{checkpoint / name} must be a file of the checkpoint")
        if sha256_of(checkpoint / name) != digest:
            raise DamagedFileError(
                f"{checkpoint / name} is damaged: its SHA-256 differs from that in {VALUES}"
            )
    for name, tensor in read_safetensors(checkpoint / TENSORS).items():
        owner, _, key = name.partition(".")
        kind = content["types"].get(name)
        if not isinstance(states.get(owner), dict) or kind not in (None, *restored):
            raise DamagedFileError(f"{checkpoint / TENSORS} is damaged: no part owns {name!r}")
        states[owner][key] = tensor if kind is None else restored[kind](tensor)
    if policy is not None:
        policy.restore(checkpoint / POLICY)
    for name, part in parts.items():
        try:
            set_state(part, states[name])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{checkpoint} must hold the state of {name!r}, as this version of srpo-env saves "
                f"it, and does not ({type(error).__name__}: {error})"
            ) from error


def newest_checkpoint(folder: str | Path) -> Path:
    """Returns the checkpoint with the most iterations; if two are equal, the one that is kept.

    Raises:
        FileNotFoundError: If the run has none.
    """
    found = _checkpoints(folder)
    if not found:
        raise FileNotFoundError(
            f"--resume must name the folder of a run with checkpoints, and {str(folder)!r} has none"
        )
    return found[-1]


def explain_damage(checkpoint: Path, error: Exception) -> ValueError:
    """Returns an error that names a damaged checkpoint, and the one to resume from instead."""
    others = [path for path in _checkpoints(checkpoint.parent.parent) if path != checkpoint]
    advice = (
        f"to resume from {others[-1].name}, delete {checkpoint}"
        if others
        else "the run has no other checkpoint: start a new run"
    )
    return ValueError(f"{error}; {advice}")


def _checkpoints(folder: str | Path) -> list[Path]:
    """Returns the checkpoints of a run, the newest last; ignores whatever has another name."""

    def age(checkpoint: Path) -> tuple[int, bool, bool]:
        name = _NAME.fullmatch(checkpoint.name)
        assert name is not None
        return int(name[1]), not name[2], not name[3]

    paths = (Path(folder) / CHECKPOINTS).glob("iteration_*")
    return sorted((path for path in paths if _NAME.fullmatch(path.name)), key=age)


def _read_values(checkpoint: Path) -> dict[str, Any]:
    content = read_versioned_json(checkpoint / VALUES, FORMAT, FORMAT_VERSION)
    for name in ("progress", "parts", "types", "sha256"):
        if not isinstance(content.get(name), dict):
            raise DamagedFileError(f"{checkpoint / VALUES} is damaged: it lacks {name!r}")
    return content
