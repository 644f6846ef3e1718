"""Reads the sizes of SmolVLM from its config.json, which may be damaged or made to do harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import SmolVLMConfig, SmolVLMModel

from srpo_env.readers.pretrained import quiet_transformers
from srpo_env.system.text import one_line

TEXT_SIZES = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings",
    "rms_norm_eps", "rope_theta", "rope_parameters", "head_dim", "pad_token_id",
)  # fmt: skip
VISION_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps",
)  # fmt: skip
"""Entries of ``text_config`` and ``vision_config`` that are used"""

MAX_EXCESS = 2
"""How many times as many weights as there are a checkpoint may declare"""


def read_sizes(content: Any) -> tuple[dict[str, Any], SmolVLMConfig]:
    """Takes the sizes out of SmolVLM's config.json.

    Returns:
        The entries that are used, and the configuration of the model.

    Raises:
        ValueError: If they do not describe a SmolVLM.
    """
    try:
        parts = {
            part: {name: content[part][name] for name in names if name in content[part]}
            for part, names in (("text_config", TEXT_SIZES), ("vision_config", VISION_SIZES))
        }
        if parts["text_config"].get("model_type", "llama") != "llama":
            raise ValueError("its language model must be a Llama")
        sizes = {**parts, "scale_factor": content["scale_factor"]}
        with quiet_transformers():
            config = SmolVLMConfig(**sizes, attn_implementation="sdpa")
    # StrictDataclassError, of huggingface_hub, is no ValueError.
    except Exception as error:
        raise ValueError(
            f"the sizes do not describe a SmolVLM ({type(error).__name__}: {one_line(error)})"
        ) from error
    return sizes, config


def check_declared(sizes: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Refuses sizes that take more memory than the weights do.

    Args:
        sizes: Sizes, see `read_sizes`.
        weights: The weights of the file that declares them.
        source: What an error calls the file.

    Raises:
        ValueError: If they declare more, or do not describe a SmolVLM.
    """
    _, config = read_sizes(sizes)
    layers = config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers
    if not all(1 <= count <= len(weights) for count in layers):
        raise ValueError(f"{source} declares {layers} layers, and has {len(weights)} tensors")
    with torch.device("meta"), quiet_transformers():  # allocates nothing
        declared = sum(value.numel() for value in SmolVLMModel(config).parameters())
    available = sum(value.numel() for value in weights.values())
    if declared > MAX_EXCESS * available:
        raise ValueError(
            f"{source} declares {declared} weights, and has {available}: its files do not belong "
            "together"
        )
