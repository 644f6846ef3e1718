import json

import pytest
import torch

from srpo_env.policy import load_policy
from srpo_env.policy.checkpoint import load_checkpoint, warn_about_look
from tests.policy.fakes import INSTRUCTION, make_observations, make_policy


@pytest.fixture
def saved(tmp_path):
    policy = make_policy()
    policy.save(tmp_path / "runs" / "policy", {"seed": 3})
    return tmp_path / "runs" / "policy", policy


def test_loaded_policy_equals_the_saved_one(saved):
    path, policy = saved
    loaded = load_policy(path)
    assert loaded.config == policy.config
    inputs = policy.prepare(make_observations(2), [INSTRUCTION] * 2)
    assert loaded.logits(inputs).equal(policy.logits(inputs))


@pytest.mark.parametrize("extension", [".safetensors", ".json"])
def test_path_of_either_file_is_accepted(saved, extension):
    path, policy = saved
    assert load_policy(path.with_name(path.name + extension)).config == policy.config


def test_name_with_a_dot_is_kept(tmp_path):
    make_policy().save(tmp_path / "step_1.5")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "step_1.5.json",
        "step_1.5.safetensors",
    ]
    load_policy(tmp_path / "step_1.5")


def test_provenance_is_stored(saved):
    path, _ = saved
    assert load_checkpoint(path)[1]["provenance"] == {"seed": 3}


def test_another_look_than_in_training_is_a_warning(tmp_path, caplog):
    make_policy().save(tmp_path / "dark", {"conditions": {"look": "mujoco"}})
    warn_about_look(tmp_path / "dark", "mujoco")
    assert caplog.text == ""
    warn_about_look(tmp_path / "dark", "libero")
    assert "trained on images with look='mujoco' and now sees look='libero'" in caplog.text


@pytest.mark.parametrize("provenance", [{}, {"conditions": {}}, {"conditions": "dark"}])
def test_without_a_recorded_look_there_is_no_warning(tmp_path, caplog, provenance):
    make_policy().save(tmp_path / "policy", provenance)
    warn_about_look(tmp_path / "policy", "libero")
    assert caplog.text == ""


def test_half_precision_halves_the_file_and_is_read_as_float32(tmp_path):
    policy = make_policy()
    policy.save(tmp_path / "full")
    policy.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = load_policy(tmp_path / "half").state_dict()
    for name, value in policy.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert loaded[name].equal(value.half().float())


def test_truncated_weights_are_refused(saved):
    path, _ = saved
    file = path.with_name("policy.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged, incomplete, or of another checkpoint"):
        load_policy(path)


def test_weights_of_another_checkpoint_are_refused(saved):
    path, _ = saved
    make_policy(seed=1).save(path.with_name("other"))
    path.with_name("other.safetensors").replace(path.with_name("policy.safetensors"))
    with pytest.raises(ValueError, match="of another checkpoint"):
        load_policy(path)


@pytest.mark.parametrize("missing", [".safetensors", ".json"])
def test_missing_file_is_refused(saved, missing):
    path, _ = saved
    path.with_name(path.name + missing).unlink()
    with pytest.raises(FileNotFoundError, match=r"NAME.safetensors with NAME.json next to it, or"):
        load_policy(path)


def test_unknown_name_lists_the_bundled_checkpoints():
    with pytest.raises(FileNotFoundError, match=r"libero-object.*got 'no-such-policy'"):
        load_policy("no-such-policy")


@pytest.mark.parametrize("newest", ["policy", "checkpoints/iteration_0012/policy"])
def test_folder_of_a_run_is_an_error_that_names_its_newest_policy(newest, tmp_path):
    for place in ("checkpoints/iteration_0004/policy", newest):
        make_policy().save(tmp_path / place, {})
    with pytest.raises(FileNotFoundError, match=f"pass its policy, {tmp_path / newest}$"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "is not a file of format 'srpo-env policy'"),
        ({"format_version": 99}, "must have format version 1, got 99"),
        ({"config": {"channels": [8, 8, 8], "colour": 1}}, "does not fit this policy"),
        ({"config": {"channels": [8, 8, 16]}}, "does not fit this policy"),
    ],
)
def test_checkpoint_of_another_kind_is_refused(saved, change, message):
    path, _ = saved
    file = path.with_name("policy.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_policy(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_damaged_json_is_refused(saved, content):
    path, _ = saved
    path.with_name("policy.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"policy\.json is (damaged: it is not valid JSON|not a file of)"
    ):
        load_policy(path)


def test_bundled_policy_loads_and_is_small():
    policy = load_policy("libero-object")
    inputs = policy.prepare(make_observations(1, size=128), [INSTRUCTION])
    assert torch.isfinite(policy.logits(inputs)).all()
    assert policy.config.chunk == 8
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    assert 2 * parameters < 15e6  # bytes in half precision
