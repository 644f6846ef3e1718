"""Reads OpenVLA-OFT in the layout in which its checkpoints are published.

A folder holds ``config.json``, ``model.safetensors`` or several files with an index,
``tokenizer.json``, and possibly ``preprocessor_config.json`` and ``dataset_statistics.json``. The
code that is published beside them is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from srpo_env.policy.openvla_model import ImageNormalization, OpenVLAModel, Projector
from srpo_env.policy.openvla_towers import TOWERS, read_towers
from srpo_env.readers.pretrained import load_weights, read_weights
from srpo_env.system.files import read_json
from srpo_env.system.text import one_line

NEEDED_FILES = "config.json, tokenizer.json, dataset_statistics.json and *.safetensors"

LANGUAGE_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_parameters", "head_dim", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Entries of ``text_config`` that are used; what it lacks has the values of Llama 2 7B."""

MAX_EXCESS = 2
"""How many times as many weights as there are a config.json may declare"""


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
    towers = read_towers(weights, image_size, dtype, folder)
    language = _language_config(config, file, weights)
    bins, padding = config.get("n_action_bins", 256), config.get("pad_to_multiple_of", 64)
    most = language.vocab_size - 256
    if bins != 256 or type(padding) is not int or not 0 <= padding <= most:
        raise ValueError(
            f"{file} must declare 256 action bins and 0 to {most} tokens of padding, got "
            f"n_action_bins={bins!r} and pad_to_multiple_of={padding!r}"
        )
    if type(language.bos_token_id) is not int:
        raise ValueError(
            f"`bos_token_id` of {file} must be one token, got {language.bos_token_id!r}"
        )
    parts = {
        name.removeprefix("language_model."): value
        for name, value in weights.items()
        # Tables of positions, which older versions stored.
        if name.startswith("language_model.") and not name.endswith("rotary_emb.inv_freq")
    }
    llama = load_weights(LlamaForCausalLM, language, parts, dtype, f"the checkpoint {folder}")
    projector = _projector(weights, towers.dim, int(language.hidden_size), dtype, folder)
    model = OpenVLAModel(
        towers, projector, llama, language.vocab_size - padding, language.bos_token_id
    )
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
        if not 1 <= language.num_hidden_layers <= len(weights):
            raise ValueError(
                f"it declares {language.num_hidden_layers} layers, with {len(weights)} tensors"
            )
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
