"""The policy on SmolVLM, with tiny sizes and random weights; the real sizes are only counted."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from srpo_env.policy import load_policy
from srpo_env.policy.imitation import Examples
from srpo_env.policy.prompts import PromptTokenizer
from srpo_env.policy.smolvlm import SmolVLMPolicy, SmolVLMPolicySettings
from tests.policy.fakes import INSTRUCTION, make_observations
from tests.policy.published_openvla import tokenizer_json

SHORT = "pick up the milk"

SIZES = {
    "text_config": {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
    },
    "scale_factor": 2,
}  # fmt: skip

# The entries of config.json of HuggingFaceTB/SmolVLM-256M-Instruct and of its bigger sibling.
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
}  # fmt: skip
REAL = {
    "256M": {
        "vocab_size": 49280, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "500M": {
        "vocab_size": 49280, "hidden_size": 960, "intermediate_size": 2560,
        "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5,
    },
}  # fmt: skip


def tokenizer():
    return PromptTokenizer(tokenizer_json())


def make_smolvlm(seed=0, **settings):
    torch.manual_seed(seed)
    policy = SmolVLMPolicy(
        SIZES, tokenizer(), SmolVLMPolicySettings(**{"image_size": 32, **settings})
    )
    # Larger than for training, so that logits depend on everything.
    with torch.no_grad():
        for value in (policy.head.weight, policy.queries, policy.body.weight):
            torch.nn.init.normal_(value, std=0.5)
        for parameter in policy.model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return policy


@pytest.fixture(scope="module")
def policy():
    return make_smolvlm()


def test_probabilities_of_sampling_and_of_the_update_are_equal(policy):
    inputs = policy.prepare(make_observations(3), [INSTRUCTION, SHORT, INSTRUCTION])
    tokens, sampled = policy.sample(inputs, 1.6, torch.Generator().manual_seed(0))
    log_probs, entropies = policy.log_probs(inputs, tokens, 1.6)
    assert log_probs.shape == entropies.shape == (3, 56)
    torch.testing.assert_close(log_probs, sampled, atol=1e-4, rtol=0)
    assert policy.actions(tokens).shape == (3, 8, 7)


def test_padding_and_the_rest_of_the_batch_do_not_matter(policy):
    observations, instructions = make_observations(2), [SHORT, INSTRUCTION]
    together = policy.logits(policy.prepare(observations, instructions))
    for row, instruction in enumerate(instructions):
        alone = {name: value[row : row + 1] for name, value in observations.items()}
        logits = policy.logits(policy.prepare(alone, [instruction]))
        torch.testing.assert_close(logits[0], together[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("changed", ["agentview", "wrist", "proprio", "instruction", "last query"])
def test_every_token_depends_on_every_input(changed):
    policy = make_smolvlm()
    observations, instruction = make_observations(1), INSTRUCTION
    before = policy.logits(policy.prepare(observations, [instruction]))
    if changed == "instruction":
        instruction = INSTRUCTION.replace("milk", "butter")
    elif changed == "last query":
        with torch.no_grad():
            policy.queries[-1] += 1
    else:
        observations[changed] = observations[changed][:, ::-1].copy()
    after = policy.logits(policy.prepare(observations, [instruction]))
    assert ((after - before).abs().amax(dim=-1) > 1e-5).all()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_do_not_depend_on_how_memory_is_saved(checkpointing):
    gradients = []
    for settings in ({}, {"batch_size": 2, "gradient_checkpointing": checkpointing}):
        policy = make_smolvlm(**settings)
        inputs = policy.prepare(make_observations(5), [INSTRUCTION] * 5)
        policy.log_probs(inputs, torch.full((5, 56), 100))[0].mean().backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters()})
    assert gradients[0]["model.vision_model.embeddings.patch_embedding.weight"].abs().sum() > 0
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-3)


def test_cloning_lowers_the_loss():
    policy = SmolVLMPolicy(SIZES, tokenizer(), SmolVLMPolicySettings(image_size=32))
    inputs = policy.prepare(make_observations(4), [INSTRUCTION] * 4)
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(4, 8, 7, generator=generator) * 2 - 1
    examples = Examples(inputs, actions, torch.ones(4, 8, dtype=bool), torch.zeros(4, 2, 3))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        examples.inputs = policy.augment(inputs, generator)
        loss, parts = policy.imitation_loss(examples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert set(parts) == {"cross_entropy"}
    assert losses[0] == pytest.approx(np.log(256), abs=0.3)  # uniform at first
    assert losses[-1] < losses[0] - 1


def test_saved_policy_is_loaded_with_its_tokenizer(policy, tmp_path):
    policy.save(tmp_path / "policy", {"seed": 3})
    loaded = load_policy(tmp_path / "policy")
    assert loaded.settings == policy.settings
    observations = make_observations(2)
    inputs = policy.prepare(observations, [INSTRUCTION, SHORT])
    again = loaded.prepare(observations, [INSTRUCTION, SHORT])
    assert loaded.logits(again).equal(policy.logits(inputs))
    other = make_smolvlm(seed=1)
    other.restore(tmp_path / "policy")
    assert other.logits(inputs).equal(policy.logits(inputs))


@pytest.mark.parametrize("kind", ["smolvlm", "idefics3"])
def test_published_weights_are_the_start(tmp_path, kind):
    torch.manual_seed(0)
    published = SmolVLMForConditionalGeneration(SmolVLMConfig(**SIZES))
    weights = {n: v.clone() for n, v in published.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **SIZES}))
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    policy = SmolVLMPolicy.from_pretrained(tmp_path, image_size=64)
    own = policy.model.state_dict()
    assert {f"model.{name}" for name in own} == {n for n in weights if n != "lm_head.weight"}
    assert all(value.equal(weights[f"model.{name}"]) for name, value in own.items())
    # Its images are those of SmolVLM: scaled from -1 to 1, and enlarged without a border.
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    expected = published.model.get_image_features(torch.ones(1, 1, 3, 64, 64))
    embeddings = policy._image_embeddings(torch.as_tensor(image))
    expected = getattr(expected, "pooler_output", expected)
    torch.testing.assert_close(embeddings[0], torch.as_tensor(expected[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "millions"), [("256M", 256), ("500M", 507)])
def test_real_sizes_have_the_published_number_of_parameters(size, millions):
    sizes = {
        "text_config": {"model_type": "llama", **REAL[size]},
        "vision_config": VISION,
        "scale_factor": 4,
    }
    with torch.device("meta"):
        policy = SmolVLMPolicy(sizes, tokenizer())
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    # The policy has no use for the head of the language model.
    head = REAL[size]["vocab_size"] * REAL[size]["hidden_size"]
    assert round((count + head) / 1e6) == millions


# --- What is refused ---


def test_image_size_must_fit_the_patches():
    with pytest.raises(ValueError, match="`image_size` must be a multiple of 16"):
        make_smolvlm(image_size=40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": "8"}, "`chunk` must be an integer"),
        ({"colour": 1}, "unknown or missing entries"),
        ({"sizes": {}}, "do not describe a SmolVLM"),
        ({"sizes": {**SIZES, "scale_factor": 10**6}}, "does not fit this policy"),
        ({"tokenizer": "{}"}, r"is not a tokenizer\.json"),
        ({"tokenizer": 7}, "does not fit this policy"),
    ],
)
def test_damaged_settings_of_a_checkpoint_are_refused(policy, tmp_path, change, message):
    policy.save(tmp_path / "policy")
    file = tmp_path / "policy.json"
    content = json.loads(file.read_text())
    content["config"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 2**31}, "its files do not belong together"),
        ({"num_hidden_layers": 10**12}, "declares .* layers"),
        ({"hidden_size": 10**30}, "does not fit this policy"),
    ],
)
def test_sizes_that_the_file_does_not_have_are_not_allocated(policy, tmp_path, change, message):
    policy.save(tmp_path / "policy")
    file = tmp_path / "policy.json"
    content = json.loads(file.read_text())
    content["config"]["sizes"]["text_config"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path / "policy")


def test_unknown_architecture_is_refused(policy, tmp_path):
    policy.save(tmp_path / "policy")
    file = tmp_path / "policy.json"
    content = json.loads(file.read_text())
    content["config"]["architecture"] = "os:system"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must be of one of the architectures openvla-oft, smol"):
        load_policy(tmp_path / "policy")
