"""Adapters (LoRA) and 4-bit weights, with which large policies fit on one GPU."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

try:
    from peft import LoraConfig, inject_adapter_in_model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"adapters need {error.name}: run `pip install 'srpo-env[openvla]'`", name=error.name
    ) from error

Targets = Literal["language", "all"]

LANGUAGE_LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"

TARGETS: dict[str, str] = {
    "language": rf"language_model\..*\.({LANGUAGE_LAYERS})",
    "all": rf".*\.({LANGUAGE_LAYERS}|out_proj|query|key|value|dense|fc1|fc2|fc3)",
}
"""Regular expressions of the linear layers that get adapters, by `LoraSettings.targets`"""


@dataclass(frozen=True)
class LoraSettings:
    """Size and place of the adapters; OpenVLA-OFT's own are rank 32, alpha 16, on all layers."""

    rank: int = 32
    alpha: float = 16.0
    """Adapters are scaled by ``alpha / rank``."""
    targets: Targets = "language"
    """language: all layers of the language model; all: also the towers and the projector, which
    then need gradients too"""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: If one is out of its range.
        """
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"`rank` must be an integer of at least 1, got {self.rank!r}")
        if not isinstance(self.alpha, (int, float)) or not 0 < self.alpha < float("inf"):
            raise ValueError(f"`alpha` must be a number above 0, got {self.alpha!r}")
        if self.targets not in TARGETS:
            raise ValueError(f"`targets` must be one of {', '.join(TARGETS)}, got {self.targets!r}")


def add_adapters(model: nn.Module, settings: LoraSettings) -> None:
    """Adds adapters, which are zero at first, and freezes everything else.

    The adapters are float32, because steps of the optimizer are lost in bfloat16, and have no
    dropout, because probabilities of rollouts and updates are compared.

    Args:
        model: The model, whose parts have the names of `TARGETS`.
        settings: Size and place of the adapters.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=TARGETS[settings.targets],
    )
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def quantize(model: nn.Module, layers: nn.Module, compute_dtype: torch.dtype) -> None:
    """Replaces linear layers by 4-bit ones (NF4 with quantised scales), before adapters are added.

    The weights are quantised when the model is moved to its device.

    Args:
        model: The model that gets the adapters.
        layers: The part of it whose linear layers are replaced.
        compute_dtype: Data type of the products.

    Raises:
        ModuleNotFoundError: If bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            "4-bit weights need bitsandbytes: run `pip install bitsandbytes`", name="bitsandbytes"
        )
    import bitsandbytes

    linear: Any
    for name, linear in [*layers.named_modules()]:
        if not isinstance(linear, nn.Linear):
            continue
        replacement = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=compute_dtype,
            quant_type="nf4",
            device="meta",
        )
        replacement.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        replacement.bias = linear.bias
        parent, _, child = name.rpartition(".")
        setattr(layers.get_submodule(parent), child, replacement)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # where peft looks for it
