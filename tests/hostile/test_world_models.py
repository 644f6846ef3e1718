"""Checkpoints of V-JEPA 2 from other people."""

from __future__ import annotations

import json
import math

import pytest

from tests.hostile.files import (
    JSON_ATTACKS,
    OTHER_JSON,
    SAFETENSORS_ATTACKS,
    failures_in_bounded_memory,
    pickled,
    was_executed,
)

pytest.importorskip("transformers", reason="transformers is not installed")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from srpo_env.encoders.preprocessing import FILES, VideoPreprocessing
from srpo_env.encoders.protocol import encode_checked
from srpo_env.encoders.vjepa2 import LATENTS_FILE, VJEPA2Encoder, find_checkpoint

NAMES = ("config.json", "model.safetensors", LATENTS_FILE, FILES[0])


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled checkpoint."""
    return copy_to(tmp_path / "model")


def copy_to(folder):
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((find_checkpoint("libero-vjepa2") / name).read_bytes())
    return folder


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("attack", list(SAFETENSORS_ATTACKS))
def test_hostile_weights_are_refused(folder, attack):
    (folder / "model.safetensors").write_bytes(SAFETENSORS_ATTACKS[attack])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        VJEPA2Encoder(folder)


@pytest.mark.parametrize("attack", list(JSON_ATTACKS))
@pytest.mark.parametrize("name", ["config.json", LATENTS_FILE, FILES[0]])
def test_hostile_json_is_refused(folder, name, attack):
    content = JSON_ATTACKS[attack]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=name):
        VJEPA2Encoder(folder)


@pytest.mark.parametrize("content", OTHER_JSON)
@pytest.mark.parametrize("name", ["config.json", LATENTS_FILE, FILES[0]])
def test_other_json_is_refused(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=r"must hold|does not describe"):
        VJEPA2Encoder(folder)


CONFIGS = {
    "text as size": {"hidden_size": "192"},
    "NaN as size": {"hidden_size": math.nan},
    "no heads": {"num_attention_heads": 0},
    "unknown activation": {"hidden_act": "os.system"},
    "negative layers": {"num_hidden_layers": -1},
    "no tubelets": {"tubelet_size": 0},
    "many layers": {"num_hidden_layers": 10**9},
    "many layers of the predictor": {"pred_num_hidden_layers": 10**9},
    "terabytes": {"hidden_size": 192 * 2**14},
    "terabytes in the predictor": {"pred_hidden_size": 96 * 2**14},
    "terabytes in mask tokens": {"pred_num_mask_tokens": 2**30},
    "more than 64 bits": {"hidden_size": 3 * 10**30},
    "many frames": {"frames_per_clip": 2**40},
    "large crops": {"crop_size": 2**30},
}
BOUNDED = [n for n in CONFIGS if any(word in n for word in ("many", "bytes", "bits", "large"))]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in BOUNDED])
def test_hostile_settings_of_the_model_are_refused(folder, name):
    change(folder / "config.json", **CONFIGS[name])
    with pytest.raises(ValueError, match=r"config\.json|do not belong together"):
        VJEPA2Encoder(folder)


def test_memory_of_the_model_reader_is_bounded(tmp_path):
    for name in BOUNDED:
        change(copy_to(tmp_path / name) / "config.json", **CONFIGS[name])
    assert not failures_in_bounded_memory(
        "from srpo_env.encoders.vjepa2 import VJEPA2Encoder\nVJEPA2Encoder('libero-vjepa2')",
        f"[(n, lambda n=n: VJEPA2Encoder({str(tmp_path)!r} + '/' + n)) for n in {BOUNDED}]",
        limit=2**29,
    )


PREPROCESSING = {
    "NaN as mean": {"image_mean": [math.nan, 0.5, 0.5]},
    "infinite std": {"image_std": [math.inf, 1, 1]},
    "NaN as std": {"image_std": [math.nan, 1, 1]},
    "no std": {"image_std": [0, 1, 1]},
    "NaN as factor": {"rescale_factor": math.nan},
    "no factor": {"rescale_factor": 0},
    "infinite crop": {"crop_size": math.inf},
    "huge crop": {"crop_size": 10**12},
    "text as crop": {"crop_size": "large"},
    "list as crop": {"crop_size": [1, 2]},
    "empty crop": {"crop_size": {}},
    "unknown interpolation": {"resample": 10**30},
}


@pytest.mark.parametrize("name", list(PREPROCESSING))
def test_hostile_settings_of_the_preprocessing_are_refused(folder, name):
    change(folder / FILES[0], **PREPROCESSING[name])
    with pytest.raises(ValueError, match=f"{FILES[0]} does not describe a video processor"):
        VideoPreprocessing.read(folder)


def test_weights_that_are_not_finite_do_not_become_rewards(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("encoder.layernorm"))
    save_file({**weights, name: weights[name] * math.nan}, folder / "model.safetensors")
    video = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="is not finite"):
        encode_checked(VJEPA2Encoder(folder), [video], ["the video"])


# --- Code ---


def test_other_files_and_settings_of_a_checkpoint_are_not_used(folder):
    """transformers would load adapters, kernels, other weights and pickles that a folder names."""
    before = VJEPA2Encoder("libero-vjepa2").model.state_dict()
    for name in ("pytorch_model.bin", "training_args.bin", ".metadata", "0_0.distcp"):
        (folder / name).write_bytes(pickled(folder))
    (folder / "code.py").write_text(f"open({str(folder / 'executed')!r}, 'w')")
    adapter = {"base_model_name_or_path": "/nowhere", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    change(
        folder / "config.json",
        auto_map={"AutoModel": "code.Model"},
        attn_implementation="someone/kernel",
        _attn_implementation="someone/kernel",
        quantization_config={"quant_method": "bitsandbytes"},
        transformers_weights="pytorch_model.bin",
        fusion_config={"patch_embeddings": True},
        torch_dtype="float64",
        pruned_heads={"0": [0]},
    )
    after = VJEPA2Encoder(folder).model.state_dict()
    assert not was_executed(folder)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "names",
    [
        {"a": "../outside.safetensors"},
        {"a": "/outside.safetensors"},
        {"a": "pytorch_model.bin"},
        {"a": 3},
        ["model.safetensors"],
        None,
    ],
)
def test_an_index_names_weights_beside_it_only(folder, names):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickled(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=r"must have a `weight_map` of \*\.safetensors"):
        VJEPA2Encoder(folder)
    assert not was_executed(folder)


def test_weights_in_several_files_are_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {}
    for number, part in enumerate((list(weights)[::2], list(weights)[1::2])):
        name = f"model-{number}.safetensors"
        save_file({key: weights[key] for key in part}, folder / name)
        names |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    loaded = VJEPA2Encoder(folder).model.state_dict()
    for name, value in VJEPA2Encoder("libero-vjepa2").model.state_dict().items():
        assert torch.equal(loaded[name], value)
