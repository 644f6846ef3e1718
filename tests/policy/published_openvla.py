"""A tiny OpenVLA-OFT with random weights, in the layout in which its checkpoints are published.

It has all parts under their published names, those that are not used included, and the true
vocabulary of 32064 tokens. `reference_logits` computes its logits from the published names, without
any class of a library.
"""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

HEADS, LLM_HEADS, DEPTH, LAYERS = 16, 2, 3, 2
WIDTH, LLM_WIDTH, IMAGE, PATCH, REGISTERS = 32, 64, 28, 14, 4
VOCABULARY, NUM_TOKENS = 32064, 56
SUITE = "libero_object_no_noops"

STATISTICS = {
    SUITE: {
        "action": {
            "mean": [0.0] * 7, "std": [1.0] * 7, "min": [-1.0] * 7, "max": [1.0] * 7,
            "q01": [-0.5, -0.75, -0.9375, -0.1, -0.2, -0.3, 0.0],
            "q99": [0.5, 0.25, 0.9375, 0.1, 0.2, 0.3, 1.0],
            "mask": [True] * 6 + [False],
        },
        "num_transitions": 100,
    }
}  # fmt: skip

WORDS = ("<unk>", "<s>", "</s>", "In", ":", "What", "action", "should", "the", "robot", "take",
         "to", "?", "Out", "pick", "up", "milk", "and", "place", "it", "in", "basket", "butter",
         "soup", "alphabet", "cream", "cheese")  # fmt: skip


def tokenizer_json():
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer.to_str()


def vit(generator, layer_scale, registers, hidden):
    """Weights of one tower, as timm names them."""

    def random(*shape, scale=0.3):
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        "patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH, scale=0.05),
        "patch_embed.proj.bias": random(WIDTH),
        "pos_embed": random(1, (IMAGE // PATCH) ** 2, WIDTH),
        "norm.weight": random(WIDTH), "norm.bias": random(WIDTH),
    }  # fmt: skip
    if registers:
        weights["cls_token"] = random(1, 1, WIDTH)
        weights["reg_token"] = random(1, registers, WIDTH)
    else:
        weights["attn_pool.latent"] = random(1, 1, WIDTH)
        weights["attn_pool.q.weight"] = random(WIDTH, WIDTH)
    for block in range(DEPTH):
        shapes = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (hidden, WIDTH), "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (WIDTH, hidden), "mlp.fc2.bias": (WIDTH,),
        }  # fmt: skip
        if layer_scale:
            shapes |= {"ls1.scale_factor": (WIDTH,), "ls2.scale_factor": (WIDTH,)}
        for name, shape in shapes.items():
            weights[f"blocks.{block}.{name}"] = random(*shape)
    return weights


def published_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {}
    towers = {
        "featurizer": vit(generator, True, REGISTERS, 4 * WIDTH),
        "fused_featurizer": vit(generator, False, 0, 40),
    }
    for tower, parts in towers.items():
        weights |= {f"vision_backbone.{tower}.{name}": value for name, value in parts.items()}
    for name, (rows, columns) in {
        "fc1": (8 * WIDTH, 2 * WIDTH), "fc2": (LLM_WIDTH, 8 * WIDTH), "fc3": (LLM_WIDTH, LLM_WIDTH)
    }.items():  # fmt: skip
        weights[f"projector.{name}.weight"] = random(rows, columns)
        weights[f"projector.{name}.bias"] = random(rows)
    prefix = "language_model.model."
    weights[f"{prefix}embed_tokens.weight"] = random(VOCABULARY, LLM_WIDTH)
    weights[f"{prefix}norm.weight"] = 1 + random(LLM_WIDTH)
    weights["language_model.lm_head.weight"] = random(VOCABULARY, LLM_WIDTH)
    for layer in range(LAYERS):
        shapes = {f"self_attn.{x}_proj": (LLM_WIDTH, LLM_WIDTH) for x in "qkvo"}
        shapes |= {f"mlp.{x}_proj": (64, LLM_WIDTH) for x in ("gate", "up")}
        shapes["mlp.down_proj"] = (LLM_WIDTH, 64)
        for name, shape in shapes.items():
            weights[f"{prefix}layers.{layer}.{name}.weight"] = random(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}layers.{layer}.{name}.weight"] = 1 + random(LLM_WIDTH)
    return weights


def write_published(folder, statistics=True, seed=0):
    """Writes a checkpoint of two safetensors files with an index; returns its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = published_weights(seed)
    names = sorted(weights)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "openvla", "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"},
        "timm_model_ids": [
            "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
        ],
        "image_sizes": [IMAGE, IMAGE], "n_action_bins": 256, "pad_to_multiple_of": 64,
        "use_fused_vision_backbone": True,
        "text_config": {
            "model_type": "llama", "vocab_size": VOCABULARY, "pad_token_id": 32000,
            "hidden_size": LLM_WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS,
            "num_attention_heads": LLM_HEADS, "num_key_value_heads": LLM_HEADS,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    if statistics:
        (folder / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
    return weights


# --- The same network, written from the equations ---


def norm(x, weights, name, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def attend(q, k, v, heads):
    """Softmax attention of every position to every other; arrays ``(S, D)``."""
    size = q.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=-1)
        out.append(scores @ v[:, part])
    return torch.cat(out, dim=-1)


def tower_features(pixels, weights, depth):
    """Features ``(patches, D)`` of one image ``(3, H, W)`` after ``depth`` blocks."""
    projection = weights["patch_embed.proj.weight"].flatten(1)
    patches = []
    for row in range(IMAGE // PATCH):
        for column in range(IMAGE // PATCH):
            y, x = row * PATCH, column * PATCH
            patches.append(projection @ pixels[:, y : y + PATCH, x : x + PATCH].flatten())
    x = torch.stack(patches) + weights["patch_embed.proj.bias"] + weights["pos_embed"][0]
    prefix = [weights[name][0] for name in ("cls_token", "reg_token") if name in weights]
    skipped = sum(len(part) for part in prefix)
    x = torch.cat([*prefix, x])
    for block in range(depth):
        w = {
            name.removeprefix(f"blocks.{block}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{block}.")
        }
        q, k, v = linear(norm(x, w, "norm1"), w, "attn.qkv").chunk(3, dim=-1)
        x = x + linear(attend(q, k, v, HEADS), w, "attn.proj") * w.get("ls1.scale_factor", 1.0)
        hidden = F.gelu(linear(norm(x, w, "norm2"), w, "mlp.fc1"))
        x = x + linear(hidden, w, "mlp.fc2") * w.get("ls2.scale_factor", 1.0)
    return x[skipped:]


def rms(x, weight, eps=1e-6):
    return x / (x.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight


def rotated(x, heads):
    """Rotary embedding, with halves of each head as pairs."""
    length, width = x.shape
    size = width // heads
    frequencies = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(length)[:, None] * frequencies  # (S, size / 2)
    x = x.view(length, heads, size)
    first, second = x[..., : size // 2], x[..., size // 2 :]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(1)


def language_hidden(x, weights):
    """Last hidden states ``(S, D)`` of a Llama without a causal mask."""
    prefix = "language_model.model."
    for layer in range(LAYERS):
        start = f"{prefix}layers.{layer}."
        w = {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}
        h = rms(x, w["input_layernorm.weight"])
        q, k, v = (linear(h, w, f"self_attn.{part}_proj") for part in "qkv")
        mixed = attend(rotated(q, LLM_HEADS), rotated(k, LLM_HEADS), v, LLM_HEADS)
        x = x + linear(mixed, w, "self_attn.o_proj")
        h = rms(x, w["post_attention_layernorm.weight"])
        x = x + linear(F.silu(linear(h, w, "mlp.gate_proj")) * linear(h, w, "mlp.up_proj"), w,
                       "mlp.down_proj")  # fmt: skip
    return rms(x, weights[f"{prefix}norm.weight"])


def reference_logits(weights, pixels, prompt):
    """Logits of one decision over the whole vocabulary, ``(56, 32064)``.

    Args:
        weights: Published weights.
        pixels: Six channels, ``(6, H, W)``.
        prompt: Token ids, from the first token to 29871.
    """
    parts = []
    for tower, channels in (("featurizer", pixels[:3]), ("fused_featurizer", pixels[3:])):
        start = f"vision_backbone.{tower}."
        own = {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}
        parts.append(tower_features(channels, own, DEPTH - 1))
    x = torch.cat(parts, dim=-1)
    x = F.gelu(linear(x, weights, "projector.fc1"))
    x = linear(F.gelu(linear(x, weights, "projector.fc2")), weights, "projector.fc3")
    table = weights["language_model.model.embed_tokens.weight"]
    sequence = torch.cat(
        [table[prompt[:1]], x, table[prompt[1:]], torch.zeros(NUM_TOKENS, LLM_WIDTH), table[[2]]]
    )
    hidden = language_hidden(sequence, weights)
    first = len(x) + len(prompt) - 1  # of the last token of the prompt
    return hidden[first : first + NUM_TOKENS] @ weights["language_model.lm_head.weight"].T
