"""Checkpoints of a training run: the policy for whoever wants it, and what the run needs to go on.

A run's folder holds ``checkpoints/iteration_0010/``, ..., each with ``policy`` (see
:mod:`srpo_env.policy.checkpoint`), ``training.safetensors`` (the optimizer and the random
generator) and ``training.json`` (numbers). All of it is data and not code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo_env.policy.base import Policy
from srpo_env.policy.network import load_policy


def save_training(
    folder: str | Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    progress: Mapping[str, Any],
    *,
    interrupted: bool = False,
) -> Path:
    """Writes a checkpoint; the newest one is complete at any moment, power cuts included.

    Args:
        folder: The run's.
        policy: Saved by its own `save`.
        optimizer: Its state is saved; its settings are the program's.
        generator: What the run draws from.
        progress: What JSON can hold; ``"iteration"`` names the checkpoint.
        interrupted: The run was stopped in the middle of an iteration. Such a checkpoint has a name
            of its own: it has dropped what was under way, and so must not take the place of one
            from which the run goes on to the bit.

    Returns:
        The checkpoint's folder.
    """
    checkpoints = Path(folder) / "checkpoints"
    name = f"iteration_{progress['iteration']:04d}" + ("_interrupted" if interrupted else "")
    target, draft = checkpoints / name, checkpoints / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    policy.save(draft / "policy", provenance=progress)
    tensors = {"generator": generator.get_state(), **optimizer_tensors(optimizer)}
    save_file(tensors, draft / "training.safetensors")
    (draft / "training.json").write_text(json.dumps(progress, indent=2))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return target


def load_training(
    checkpoint: str | Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Takes over a checkpoint, so that a run goes on as if it had never stopped.

    Returns:
        The ``progress`` that was saved with it.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged.
    """
    checkpoint = Path(checkpoint)
    policy.load_state_dict(load_policy(checkpoint / "policy").state_dict())
    try:
        tensors = load_file(checkpoint / "training.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{checkpoint}/training.safetensors is damaged: {error}") from error
    generator.set_state(tensors.pop("generator"))
    load_optimizer(optimizer, tensors)
    progress: dict[str, Any] = json.loads((checkpoint / "training.json").read_text())
    return progress


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, for a safetensors file."""
    # Averages of gradients come in the memory order of their layers; a file knows only one.
    return {
        f"{index}.{key}": torch.as_tensor(value).contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Takes over what `optimizer_tensors` returned; the settings stay the optimizer's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def newest_checkpoint(folder: str | Path) -> Path:
    """A run's checkpoint with most iterations; of two with as many, the one not interrupted.

    Raises:
        FileNotFoundError: If the folder has none.
    """

    def age(checkpoint: Path) -> tuple[int, bool]:
        _, iteration, *interrupted = checkpoint.name.split("_")
        return int(iteration), not interrupted

    found = list((Path(folder) / "checkpoints").glob("iteration_*"))
    if not found:
        raise FileNotFoundError(
            f"--resume must name the folder of a run with checkpoints, and {str(folder)!r} has none"
        )
    return max(found, key=age)
