"""Reads OpenVLA-OFT in the layout in which its checkpoints are published.

A folder holds ``config.json``, ``model.safetensors`` or several files with an index,
``tokenizer.json``, and possibly ``preprocessor_config.json`` and ``dataset_statistics.json``. The
code that is published beside them is not used. The sizes of the image towers, which are of timm,
are those of their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from srpo_env.policy.openvla_model import ImageNormalization, OpenVLAModel, Projector, Towers
from srpo_env.readers.pretrained import load_weights, read_weights
from srpo_env.system.files import read_json
from srpo_env.system.text import one_line

NEEDED_FILES = "config.json, tokenizer.json, dataset_statistics.json and *.safetensors"

TOWERS = ("vit_large_patch14_reg4_dinov2", "vit_so400m_patch14_siglip_224")
"""timm's names of the two towers; both have 16 attention heads"""

HEADS = 16

LANGUAGE_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_parameters", "head_dim", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Entries of ``text_config`` that are used; what it lacks has the values of Llama 2 7B."""

MAX_EXCESS = 2
"""How many times as many weights as there are a config.json may declare"""

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


@dataclass(frozen=True)
class PublishedModel:
    """What a published checkpoint holds."""

    model: OpenVLAModel
    config: dict[str, Any]
    """Content of ``config.json``."""
    image_size: int
    """Height and width of the towers' images in pixels."""
    normalization: ImageNormalization


def read_published(folder: Path, dtype: torch.dtype) -> PublishedModel:
    """Reads a checkpoint.

    Args:
        folder: Its folder.
        dtype: Data type of the weights.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or belongs to another model.
    """
    file = folder / "config.json"
    config = read_json(file)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "openvla":
        raise ValueError(f"{folder} must hold a model of type 'openvla', got {kind!r}")
    names = config.get("timm_model_ids")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or tuple(name.partition(".")[0] for name in names) != TOWERS:
        raise ValueError(f"`timm_model_ids` of {file} must be {' and '.join(TOWERS)}, got {names}")
    weights = read_weights(folder)
    image_size = _size(config, "image_sizes", file)
    towers = _towers(weights, image_size, dtype, folder)
    language = _language_config(config, file, weights)
    vocabulary = language.vocab_size - config.get("pad_to_multiple_of", 64)
    if not 0 < vocabulary <= language.vocab_size or config.get("n_action_bins", 256) != 256:
        raise ValueError(
            f"{file} must declare 256 action bins in a vocabulary with less than "
            f"{language.vocab_size} tokens of padding, got n_action_bins="
            f"{config.get('n_action_bins')} and pad_to_multiple_of="
            f"{config.get('pad_to_multiple_of')}"
        )
    parts = {
        name.removeprefix("language_model."): value
        for name, value in weights.items()
        # Tables of positions, which older versions stored.
        if name.startswith("language_model.") and not name.endswith("rotary_emb.inv_freq")
    }
    llama = load_weights(LlamaForCausalLM, language, parts, dtype, f"the checkpoint {folder}")
    projector = _projector(weights, towers.dim, int(language.hidden_size), dtype, folder)
    model = OpenVLAModel(towers, projector, llama, vocabulary, int(language.bos_token_id))
    return PublishedModel(model, config, image_size, _normalization(folder))


def _size(config: Mapping[str, Any], name: str, file: Path) -> int:
    sizes = config.get(name)
    if not isinstance(sizes, list) or len(sizes) != 2 or sizes[0] != sizes[1]:
        raise ValueError(f"`{name}` of {file} must be two equal sizes, got {sizes}")
    if not isinstance(sizes[0], int) or not 1 <= sizes[0] <= 1024:
        raise ValueError(f"`{name}` of {file} must be in 1..1024 pixels, got {sizes}")
    return sizes[0]


def _normalization(folder: Path) -> ImageNormalization:
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return ImageNormalization()
    try:
        content = read_json(file)
        rows = ([tuple(map(float, row)) for row in content[name]] for name in ("means", "stds"))
        means, stds = (tuple(row) for row in rows)
        return ImageNormalization(means, stds)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} must have `means` and `stds` of two towers ({type(error).__name__}: {error})"
        ) from error


def _language_config(
    config: Mapping[str, Any], file: Path, weights: Mapping[str, Tensor]
) -> LlamaConfig:
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("model_type", "llama") != "llama":
        raise ValueError(f"`text_config` of {file} must describe a Llama, got {text!r:.80}")
    sizes = {name: text[name] for name in LANGUAGE_SIZES if name in text}
    try:
        language = LlamaConfig(**sizes, attn_implementation="sdpa")
        with torch.device("meta"):  # allocates nothing
            declared = sum(value.numel() for value in LlamaForCausalLM(language).parameters())
    # StrictDataclassError, of huggingface_hub, is no ValueError.
    except Exception as error:
        raise ValueError(
            f"`text_config` of {file} does not describe a Llama ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from error
    # What the file lacks is allocated before it is noticed.
    available = sum(value.numel() for value in weights.values())
    if declared > MAX_EXCESS * available:
        raise ValueError(
            f"{file} declares {declared} weights, and the checkpoint has {available}: its files do "
            "not belong together"
        )
    return language


def _projector(
    weights: Mapping[str, Tensor], features: int, width: int, dtype: torch.dtype, folder: Path
) -> Projector:
    parts = {
        name.removeprefix("projector."): value.to(dtype)
        for name, value in weights.items()
        if name.startswith("projector.")
    }
    with torch.device("meta"):
        projector = Projector(features, width)
    try:
        projector.load_state_dict(parts, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"the projector of {folder} does not fit its towers and language model: "
            f"{one_line(error)}"
        ) from error
    return projector


# --- Image towers ---


def _towers(
    weights: Mapping[str, Tensor], image_size: int, dtype: torch.dtype, folder: Path
) -> Towers:
    """Builds the towers, each without its last block, whose output OpenVLA does not use."""
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
