import json

import pytest

from srpo_env.cli import main as cli
from srpo_env.policy import load_policy
from tests.policy.published_openvla import tokenizer_json, write_published
from tests.policy.test_smolvlm import SIZES

pytest.importorskip("peft", reason="peft is not installed: pip install 'srpo-env[openvla]'")


def write_smolvlm(folder):
    """Writes a published SmolVLM of tiny size."""
    from safetensors.torch import save_file
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    folder.mkdir()
    published = SmolVLMForConditionalGeneration(SmolVLMConfig(**SIZES))
    weights = {name: value.clone() for name, value in published.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "smolvlm", **SIZES}))
    (folder / "tokenizer.json").write_text(tokenizer_json())


def test_openvla_oft_gets_adapters_of_the_given_size(tmp_path, capsys):
    write_published(tmp_path / "published")
    arguments = ["openvla-oft", str(tmp_path / "published"), "--out", str(tmp_path / "new" / "p")]
    arguments += ["--lora-rank", "3", "--lora-targets", "all", "--dtype", "float32"]
    assert cli.main(["prepare-policy", *arguments]) == 0
    assert "million parameters, of which 0.0 trained" in capsys.readouterr().out
    policy = load_policy(tmp_path / "new" / "p")
    assert (policy.settings.lora.rank, policy.settings.lora.targets) == (3, "all")
    assert policy.settings.base == str(tmp_path / "published")


def test_smolvlm_has_the_same_weights_with_the_same_seed(tmp_path):
    write_smolvlm(tmp_path / "published")
    heads = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = ["smolvlm", str(tmp_path / "published"), "--out", str(tmp_path / name)]
        arguments += ["--image-size", "32", "--seed", seed]
        assert cli.main(["prepare-policy", *arguments]) == 0
        heads.append(load_policy(tmp_path / name).head.weight)
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])


@pytest.mark.parametrize("architecture", ["openvla-oft", "smolvlm"])
def test_what_is_no_checkpoint_is_one_sentence(architecture, tmp_path, capsys):
    arguments = [architecture, "nowhere", "--out", str(tmp_path / "policy")]
    assert cli.main(["prepare-policy", *arguments]) == 2
    shown = capsys.readouterr().err
    assert "must be a folder, or an id of the Hugging Face hub such as" in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_one_sentence(tmp_path, capsys):
    write_published(tmp_path / "published")
    arguments = ["openvla-oft", str(tmp_path / "published"), "--out", str(tmp_path / "policy")]
    assert cli.main(["prepare-policy", *arguments, "--lora-rank", "0"]) == 2
    assert "`rank` must be an integer of at least 1, got 0" in capsys.readouterr().err
