"""OpenVLA-OFT: against the equations, and what its checkpoints hold. See `published_openvla`."""

import json

import numpy as np
import pytest
import torch

from srpo_env.policy import ReferencePolicy, load_policy
from srpo_env.policy.imitation import Examples
from tests.policy.published_openvla import (
    IMAGE,
    STATISTICS,
    SUITE,
    WORDS,
    reference_logits,
    write_published,
)

pytest.importorskip("peft", reason="peft is not installed: pip install 'srpo-env[openvla]'")

from srpo_env.policy.adapters import LoraSettings
from srpo_env.policy.openvla_images import policy_images
from srpo_env.policy.openvla_oft import OpenVLAOFT

INSTRUCTIONS = ["pick up the milk", "Pick up the alphabet soup and place it in the basket"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folder of a published checkpoint, and its weights; not to be changed."""
    folder = tmp_path_factory.mktemp("hub") / "openvla-libero-object"
    return folder, write_published(folder)


@pytest.fixture
def policy(published):
    return load(published[0])


def load(folder, **settings):
    torch.manual_seed(0)
    return OpenVLAOFT.from_pretrained(
        folder, **{"dtype": "float32", "lora": LoraSettings(rank=2), **settings}
    )


def observe(batch, seed=0):
    rng = np.random.default_rng(seed)
    return {"agentview": rng.integers(0, 256, (batch, 64, 64, 3), dtype=np.uint8)}


def randomize_adapters(policy, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def prompt_ids(instruction):
    words = f"In : What action should the robot take to {instruction.lower()} ? Out :".split()
    return [1, *(WORDS.index(word) for word in words), 29871]


# --- The network ---


def test_logits_are_those_of_the_equations(policy, published):
    observations = observe(2)
    inputs = policy.prepare(observations, INSTRUCTIONS)
    logits = policy.logits(inputs)
    assert logits.shape == (2, 56, 256)
    images = policy_images(observations["agentview"], IMAGE).permute(0, 3, 1, 2) / 255
    means = torch.tensor([[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]])
    stds = torch.tensor([[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]])
    for row, instruction in enumerate(INSTRUCTIONS):
        pixels = torch.cat([
            (images[row] - mean[:, None, None]) / std[:, None, None]
            for mean, std in zip(means, stds, strict=True)
        ])  # fmt: skip
        expected = reference_logits(published[1], pixels, prompt_ids(instruction))
        # Token 31999 is the lowest action, and 31744 the highest.
        torch.testing.assert_close(logits[row], expected[:, 31744:32000].flip(1), atol=1e-4, rtol=0)


def test_prompt_has_the_words_of_the_instruction_in_lower_case_and_ends_with_a_space(policy):
    for instruction in INSTRUCTIONS:
        assert [1, *policy.prompt_tokens(instruction)] == prompt_ids(instruction)


def test_padding_and_the_rest_of_the_batch_do_not_matter(policy):
    observations = observe(2)
    together = policy.logits(policy.prepare(observations, INSTRUCTIONS))
    for row, instruction in enumerate(INSTRUCTIONS):
        alone = {"agentview": observations["agentview"][row : row + 1]}
        logits = policy.logits(policy.prepare(alone, [instruction]))
        torch.testing.assert_close(logits[0], together[row], atol=1e-4, rtol=0)


def test_attention_is_bidirectional(policy):
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    before = policy.logits(inputs)

    def change_last_placeholder(module, arguments, settings):
        embeddings = settings["inputs_embeds"].clone()
        assert (embeddings[:, -57:-1] == 0).all()
        embeddings[:, -2] = 1.0  # the stop token follows it
        return arguments, {**settings, "inputs_embeds": embeddings}

    decoder = policy.model.language_model.get_decoder()
    handle = decoder.register_forward_pre_hook(change_last_placeholder, with_kwargs=True)
    after = policy.logits(inputs)
    handle.remove()
    assert ((after - before).abs().amax(dim=-1) > 1e-4).all()  # of every token


def test_logits_do_not_depend_on_the_mode_nor_on_the_part_size(published):
    whole, parts = load(published[0]), load(published[0], batch_size=2)
    inputs = whole.prepare(observe(5), [INSTRUCTIONS[0]] * 5)
    expected = whole.eval().logits(inputs)
    torch.testing.assert_close(whole.train().logits(inputs), expected, atol=0, rtol=0)
    torch.testing.assert_close(parts.logits(inputs), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_do_not_depend_on_how_memory_is_saved(published, checkpointing):
    gradients = []
    for settings in ({"batch_size": 8}, {"batch_size": 2}):
        policy = load(published[0], gradient_checkpointing=checkpointing, **settings)
        randomize_adapters(policy)
        inputs = policy.prepare(observe(5), [INSTRUCTIONS[0]] * 5)
        tokens = torch.full((5, 56), 100)
        policy.log_probs(inputs, tokens)[0].sum().backward()
        gradients.append({n: p.grad for n, p in policy.named_parameters() if p.requires_grad})
    assert all((value != 0).any() for value in gradients[0].values())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-4, rtol=1e-4)


def test_probabilities_of_sampling_and_of_the_update_are_equal(policy):
    randomize_adapters(policy)
    inputs = policy.prepare(observe(3), [*INSTRUCTIONS, INSTRUCTIONS[0]])
    tokens, sampled = policy.sample(inputs, 1.6, torch.Generator().manual_seed(0))
    log_probs, _ = policy.log_probs(inputs, tokens, 1.6)
    torch.testing.assert_close(log_probs, sampled, atol=1e-4, rtol=0)
    assert log_probs.requires_grad


@pytest.mark.parametrize("targets", ["language", "all"])
def test_only_adapters_are_trained(published, targets):
    policy = load(published[0], lora=LoraSettings(rank=2, targets=targets))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    language = {name for name in trained if "language_model" in name}
    assert len(language) == 2 * 7 * 2  # layers, linear layers, matrices
    # Two towers of two blocks with six linear layers each, and the three of the projector.
    assert len(trained - language) == (0 if targets == "language" else (2 * 2 * 6 + 3) * 2)


def test_imitation_makes_the_actions_likely(published):
    policy = load(published[0], lora=LoraSettings(rank=8))
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    tokens = torch.randint(0, 255, (2, 56), generator=torch.Generator().manual_seed(0))
    tokens = policy.action_bins(torch.as_tensor(policy.actions(tokens))).round().long()
    actions = torch.as_tensor(policy.actions(tokens))
    examples = Examples(inputs, actions, torch.ones(2, 8, dtype=bool), torch.zeros(2, 2, 3))
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    before = policy.log_probs(inputs, tokens)[0].mean().detach()
    for _ in range(20):
        loss, _ = policy.imitation_loss(examples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy.log_probs(inputs, tokens)[0].mean().detach() > before + 1


def test_reference_of_new_adapters_is_the_base_without_them(policy, published):
    inputs, tokens = policy.prepare(observe(2), INSTRUCTIONS), torch.full((2, 56), 100)
    base, _ = policy.log_probs(inputs, tokens)
    reference = ReferencePolicy(policy)
    randomize_adapters(policy)
    assert reference.log_probs(inputs, tokens)[0].equal(base)
    assert (policy.log_probs(inputs, tokens)[0] - base).abs().max() > 0.1
    assert all("lora_" in name for name in reference.copies)  # the base is not copied


def test_inputs_that_are_kept_are_small(policy):
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    assert inputs["agentview"].dtype == torch.uint8
    assert inputs["agentview"].shape == (2, IMAGE, IMAGE, 3)
    assert set(inputs) == {"agentview", "prompt"}


def test_images_are_rendered_as_in_the_training_data(policy):
    assert policy.env_settings == {"image_size": 256, "cameras": ("agentview",)}


# --- Actions ---


def test_tokens_are_unnormalised_as_calculated_by_hand(policy):
    tokens = torch.tensor([[0, 127, 254, 255, 127, 0, 127] + [127] * 49])
    action = policy.actions(tokens)[0, 0]
    edge = 254 / 255  # center of the outermost bin
    expected = [
        -0.5 * edge,  # -0.5 to 0.5
        -0.25,  # center of -0.75 to 0.25
        0.9375 * edge,
        0.1 * edge,  # the highest two tokens mean the same
        0.0,
        -0.3 * edge,
        1.0,  # 0 in the data closes the gripper
    ]
    np.testing.assert_allclose(action, expected, atol=1e-6)


@pytest.mark.parametrize(("token", "gripper"), [(0, 1), (127, 1), (190, 1), (191, -1), (255, -1)])
def test_gripper_opens_above_a_half(policy, token, gripper):
    tokens = torch.full((1, 56), token)
    assert (policy.actions(tokens)[..., -1] == gripper).all()


def test_tokens_of_actions_give_the_actions_back(policy):
    tokens = torch.randint(0, 255, (4, 56), generator=torch.Generator().manual_seed(0))
    actions = torch.as_tensor(policy.actions(tokens))
    bins = policy.action_bins(actions)
    arm = torch.arange(56) % 7 != 6
    torch.testing.assert_close(bins[:, arm], tokens[:, arm].float(), atol=2e-3, rtol=0)
    again = policy.actions(bins.round().long())
    np.testing.assert_allclose(again, actions, atol=1e-6)


# --- Checkpoints ---


def test_saved_adapters_are_loaded_onto_their_base(policy, tmp_path):
    randomize_adapters(policy)
    policy.save(tmp_path / "policy", {"seed": 3})
    assert (tmp_path / "policy.safetensors").stat().st_size < 100_000  # without the base
    loaded = load_policy(tmp_path / "policy")
    assert loaded.settings == policy.settings
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    assert loaded.logits(inputs).equal(policy.logits(inputs))


def test_restored_policy_equals_the_saved_one(policy, published, tmp_path):
    randomize_adapters(policy)
    policy.save(tmp_path / "policy")
    other = load(published[0])
    other.restore(tmp_path / "policy")
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    assert other.logits(inputs).equal(policy.logits(inputs))


def test_adapters_of_another_size_are_refused(policy, published, tmp_path):
    load(published[0], lora=LoraSettings(rank=3)).save(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"must have adapters of this policy.*rank=2.*rank=3"):
        policy.restore(tmp_path / "policy")


def test_published_folder_is_loaded_by_its_path(published):
    policy = load_policy(published[0])
    assert policy.settings.dtype == "bfloat16"
    inputs = policy.prepare(observe(1), INSTRUCTIONS[:1])
    expected = load(published[0]).logits(inputs)
    logits = policy.logits(inputs)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().mean() < 0.05 * expected.std()
    randomize_adapters(policy)
    policy.log_probs(inputs, torch.zeros(1, 56, dtype=int))[0].sum().backward()
    gradients = [p.grad for p in policy.parameters() if p.requires_grad]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in gradients)
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}


def test_statistics_come_from_another_checkpoint_where_there_are_none(tmp_path, monkeypatch):
    folder = tmp_path / "Openvla-oft-SFT-libero-object-traj1"
    write_published(folder, statistics=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return tmp_path / "other"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    by_suite = load(folder)
    assert asked == [
        ("moojink/openvla-7b-oft-finetuned-libero-object", ["dataset_statistics.json"])
    ]
    named = load(folder, statistics=tmp_path / "other", data_set=SUITE)
    assert by_suite.statistics == named.statistics
    assert named.statistics.q99[1] == 0.25


def test_id_of_the_hub_is_downloaded_as_data_only(published, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return published[0]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    policy = load_policy("Haozhan72/Openvla-oft-SFT-libero-object-traj1")
    assert asked == [("Haozhan72/Openvla-oft-SFT-libero-object-traj1", ["*.json", "*.safetensors"])]
    assert policy.settings.base == "Haozhan72/Openvla-oft-SFT-libero-object-traj1"


# --- What is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "must hold a model of type 'openvla', got 'llava'"),
        (
            {"timm_model_ids": ["hf-hub:a/b", "resnet50"]},
            "`timm_model_ids` of .* must be vit_large",
        ),
        ({"image_sizes": [28, 56]}, "must be two equal sizes"),
        ({"image_sizes": [10**9] * 2}, r"must be in 1\.\.1024 pixels"),
        ({"n_action_bins": 512}, "must declare 256 action bins"),
        ({"pad_to_multiple_of": "64"}, "must declare 256 action bins and 0 to 31808 tokens"),
        ({"pad_to_multiple_of": 10**6}, "must declare 256 action bins and 0 to 31808 tokens"),
        ({"text_config": {"model_type": "mistral"}}, "must describe a Llama"),
        ({"text_config": {"hidden_size": 4096}}, "declares .* weights, and the checkpoint has"),
        ({"text_config": {"hidden_size": "large"}}, "does not describe a Llama"),
        ({"text_config": {"num_hidden_layers": 10**12}}, "declares 1000000000000 layers"),
        ({"text_config": {"hidden_size": 10**30}}, "does not describe a Llama"),
    ],
)
def test_config_of_another_model_is_refused(tmp_path, changes, message):
    write_published(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("vision_backbone.featurizer.cls_token", "weights of both image towers"),
        ("vision_backbone.featurizer.blocks.1.attn.qkv.weight", "first tower.* lack 3 tensors"),
        ("vision_backbone.fused_featurizer.patch_embed.proj.bias", "second tower.* lack 1 tensors"),
        ("projector.fc2.weight", "projector of .* does not fit"),
        ("language_model.model.layers.1.mlp.up_proj.weight", "lack 1 tensors"),
    ],
)
def test_missing_weights_are_refused(tmp_path, monkeypatch, removed, message):
    from tests.policy import published_openvla

    weights = published_openvla.published_weights()
    del weights[removed]
    monkeypatch.setattr(published_openvla, "published_weights", lambda seed: weights)
    write_published(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


def test_missing_statistics_are_refused(tmp_path):
    write_published(tmp_path / "model", statistics=False)
    with pytest.raises(FileNotFoundError, match=r"no dataset_statistics\.json and its name"):
        load(tmp_path / "model")


def test_unknown_data_set_is_refused(published):
    with pytest.raises(ValueError, match=f"must be one of those in .*{SUITE}.*got 'bridge'"):
        load(published[0], data_set="bridge")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"<s>": 1', '"<s>": 0', "must put the model's first token"),
        ('"id": "<s>"', '"id": "other"', r"is not a tokenizer\.json"),  # Rust panics
        ('"basket": 21', '"basket": 40000', "at most 32064 tokens, got 40001"),
        ("{", "", r"is not a tokenizer\.json"),
    ],
)
def test_tokenizer_of_another_model_is_refused(tmp_path, old, new, message):
    write_published(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    content = json.dumps(json.loads(file.read_text()))
    assert old in content
    content = content.replace(old, new)
    if new == '"<s>": 0':
        content = content.replace('"ids": [1]', '"ids": [0]')
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "`dtype` must be one of bfloat16, float32"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(published, settings, message):
    with pytest.raises(ValueError, match=message):
        load(published[0], **settings)


def test_four_bits_are_the_rounded_weights_in_the_layers_of_the_language_model(published, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    policy, rounded = load(published[0], four_bit=True).to("cpu"), load(published[0])
    inputs = policy.prepare(observe(2), INSTRUCTIONS)
    full = rounded.logits(inputs).detach()
    layers = dict(policy.model.named_modules())
    quantized = [name for name, m in layers.items() if type(m) is bitsandbytes.nn.Linear4bit]
    assert len(quantized) == 2 * 7
    for name in quantized:
        weight = layers[name].weight
        assert weight.dtype == torch.uint8
        value = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        rounded.model.get_submodule(name).weight.data = value
    logits = policy.logits(inputs)
    torch.testing.assert_close(logits, rounded.logits(inputs), atol=1e-4, rtol=0)
    assert 0.01 < (logits - full).abs().mean() < 0.5 * full.std()
    policy.log_probs(inputs, torch.zeros(2, 56, dtype=int))[0].sum().backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
    policy.save(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy").to("cpu")
    assert loaded.settings.four_bit
    assert loaded.logits(inputs).equal(logits)


def test_four_bits_name_the_package_that_they_need(published, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install bitsandbytes"):
        load(published[0], four_bit=True)


@pytest.mark.parametrize("change", [{"lora": {}}, {"lora": None}, {"statistics": {}}, {"dtype": 1}])
def test_damaged_settings_of_a_checkpoint_are_refused(policy, tmp_path, change):
    policy.save(tmp_path / "policy")
    file = tmp_path / "policy.json"
    content = json.loads(file.read_text())
    content["config"] |= change
    if change == {"lora": {}}:
        content["config"]["lora"] = {"rank": "big"}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not fit this policy"):
        load_policy(tmp_path / "policy")


def test_long_instructions_are_refused(policy):
    with pytest.raises(ValueError, match="at most 96 tokens"):
        policy.prepare(observe(1), ["milk " * 100])
