"""Builds OpenVLA's image towers, which are of timm, with the classes of ``transformers``.

Their sizes are those of the published weights, and their weights get the names of ``transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from srpo_env.policy.openvla_model import Towers
from srpo_env.readers.pretrained import load_weights

TOWERS = ("vit_large_patch14_reg4_dinov2", "vit_so400m_patch14_siglip_224")
"""timm's names of the two towers; both have 16 attention heads"""

HEADS = 16

DINO_NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.output.dense", "attn.qkv": "attention.attention.{}",
    "ls1": "layer_scale1.lambda1", "ls2": "layer_scale2.lambda1",
}  # fmt: skip
SIGLIP_NAMES = {
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "attn.proj": "self_attn.out_proj", "attn.qkv": "self_attn.{}_proj",
}  # fmt: skip
"""names of timm's modules, of a block without its number, in ``transformers``"""


def read_towers(
    weights: Mapping[str, Tensor], image_size: int, dtype: torch.dtype, folder: Path
) -> Towers:
    """Builds the towers, each without its last block, whose output OpenVLA does not use.

    Args:
        weights: Published weights of the whole model.
        image_size: Height and width of the images in pixels.
        dtype: Data type of the towers.
        folder: Folder of the checkpoint, for error messages.

    Raises:
        ValueError: If weights are missing, or of another shape.
    """
    try:
        dino = _dino(_part(weights, "vision_backbone.featurizer."), image_size, dtype, folder)
        siglip = _siglip(
            _part(weights, "vision_backbone.fused_featurizer."), image_size, dtype, folder
        )
        return Towers(dino, siglip)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"{folder} must have the weights of both image towers as timm names them "
            f"({type(error).__name__}: {error})"
        ) from error


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _depth(weights: Mapping[str, Tensor]) -> int:
    """Returns the number of blocks without the last one."""
    numbers = [int(name.split(".")[1]) for name in weights if name.startswith("blocks.")]
    if max(numbers, default=0) < 1:
        raise KeyError("blocks.1")
    return max(numbers)


def _dino(
    weights: Mapping[str, Tensor], image_size: int, dtype: torch.dtype, folder: Path
) -> Dinov2WithRegistersModel:
    depth, patch = _depth(weights), weights["patch_embed.proj.weight"]
    positions = weights["pos_embed"]
    config = Dinov2WithRegistersConfig(
        hidden_size=patch.shape[0],
        patch_size=patch.shape[-1],
        image_size=image_size,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] // patch.shape[0],
        num_register_tokens=weights["reg_token"].shape[1],
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        attn_implementation="sdpa",
    )
    renamed = _renamed(weights, DINO_NAMES, "encoder.layer.", ("query", "key", "value"), depth)
    renamed["embeddings.cls_token"] = weights["cls_token"]
    renamed["embeddings.register_tokens"] = weights["reg_token"]
    # timm's first token has no position of its own.
    renamed["embeddings.position_embeddings"] = torch.cat(
        [torch.zeros_like(positions[:, :1]), positions], dim=1
    )
    return load_weights(
        Dinov2WithRegistersModel, config, renamed, dtype, f"the first tower of {folder}",
        not_needed=("layernorm.", "embeddings.mask_token"),
    )  # fmt: skip


def _siglip(
    weights: Mapping[str, Tensor], image_size: int, dtype: torch.dtype, folder: Path
) -> SiglipVisionModel:
    depth, patch = _depth(weights), weights["patch_embed.proj.weight"]
    config = SiglipVisionConfig(
        hidden_size=patch.shape[0],
        patch_size=patch.shape[-1],
        image_size=image_size,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        intermediate_size=weights["blocks.0.mlp.fc1.weight"].shape[0],
        hidden_act="gelu",  # that of timm; transformers' default is an approximation
        layer_norm_eps=1e-6,
        attn_implementation="sdpa",
    )
    config.vision_use_head = False
    renamed = _renamed(weights, SIGLIP_NAMES, "encoder.layers.", ("q", "k", "v"), depth)
    renamed["embeddings.position_embedding.weight"] = weights["pos_embed"][0]
    with torch.device("meta"):
        names = SiglipVisionModel(config).state_dict()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
    return load_weights(
        SiglipVisionModel,
        config,
        {prefix + name: value for name, value in renamed.items()},
        dtype,
        f"the second tower of {folder}",
        not_needed=(f"{prefix}post_layernorm.",),
    )


def _renamed(
    weights: Mapping[str, Tensor],
    names: Mapping[str, str],
    blocks: str,
    parts: tuple[str, str, str],
    depth: int,
) -> dict[str, Tensor]:
    """Returns the weights of patches and blocks by the names of ``transformers``."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        prefix, rest = "", name
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            if int(number) >= depth:
                continue
            prefix = f"{blocks}{int(number)}."
        module, _, kind = rest.rpartition(".")
        if module not in names:
            continue  # the class token, positions, and the head behind the last block
        target = prefix + names[module]
        if module == "attn.qkv":
            for part, block in zip(parts, value.chunk(3), strict=True):
                renamed[f"{target.format(part)}.{kind}"] = block
        elif module in ("ls1", "ls2"):
            renamed[target] = value
        else:
            renamed[f"{target}.{kind}"] = value
    return renamed
