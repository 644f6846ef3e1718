"""Checkpoints of policies and world models from other people."""

from __future__ import annotations

import hashlib
import json
import math

import pytest

from tests.hostile.files import (
    JSON_ATTACKS,
    OTHER_JSON,
    SAFETENSORS_ATTACKS,
    failures_in_bounded_memory,
    pickled,
    unreadable_paths,
    was_executed,
)

torch = pytest.importorskip(
    "torch", reason="torch is not installed: pip install 'srpo-env[agents]'"
)

from srpo_env.policy import load_policy  # noqa: E402
from srpo_env.policy.checkpoint import load_checkpoint  # noqa: E402
from tests.policy.fakes import make_policy  # noqa: E402

# --- Policies ---


@pytest.fixture
def policy(tmp_path):
    make_policy().save(tmp_path / "policy")
    return tmp_path / "policy"


def write_weights(path, content):
    """Replaces the weights, and the checksum, which an attacker can compute."""
    path.with_name("policy.safetensors").write_bytes(content)
    change(path.with_name("policy.json"), sha256=hashlib.sha256(content).hexdigest())


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("attack", list(SAFETENSORS_ATTACKS))
def test_hostile_weights_of_a_policy_are_refused(policy, attack):
    write_weights(policy, SAFETENSORS_ATTACKS[attack])
    with pytest.raises(ValueError, match=r"policy\.safetensors"):
        load_policy(policy)


def test_pickled_weights_of_a_policy_are_refused(policy, tmp_path):
    write_weights(policy, pickled(tmp_path))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_policy(policy)
    assert not was_executed(tmp_path)


@pytest.mark.parametrize("attack", list(JSON_ATTACKS))
def test_hostile_header_of_a_policy_is_refused(policy, attack):
    content = JSON_ATTACKS[attack]
    file = policy.with_name("policy.json")
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"policy\.json"):
        load_policy(policy)


@pytest.mark.parametrize("content", OTHER_JSON)
def test_other_json_as_header_of_a_policy_is_refused(policy, content):
    policy.with_name("policy.json").write_text(content)
    with pytest.raises(ValueError, match=r"policy\.json"):
        load_policy(policy)


CONFIGS = {
    "none": None,
    "list": [],
    "empty": {},
    "text as size": {"width": "512"},
    "NaN as size": {"heads": math.nan},
    "infinite size": {"width": math.inf},
    "fraction as size": {"heads": 1.5},
    "true as size": {"chunk": True},
    "text as channels": {"channels": "abc"},
    "number as channels": {"channels": 8},
    "nested channels": {"channels": [[8], [8], [8]]},
    "exabytes": {"width": 2**40},
    "more than 64 bits": {"width": 10**30},
    "terabytes in the head": {"width": 2**20},
    "terabytes in the tokens": {"chunk": 2**30},
    "terabytes in the channels": {"channels": [2**20, 2**20, 2**20]},
    "terabytes in the text": {"text_width": 2**30},
    "large image": {"image_size": 2**30},
    "unknown name": {"__class__": 1},
}


def set_config(policy, name):
    file = policy.with_name("policy.json")
    changes, config = CONFIGS[name], json.loads(file.read_text())["config"]
    change(file, config={**config, **changes} if isinstance(changes, dict) and changes else changes)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "bytes" not in name])
def test_hostile_settings_of_a_policy_are_refused(policy, name):
    set_config(policy, name)
    with pytest.raises(ValueError, match=r"does not fit this policy|must be"):
        load_policy(policy)


def test_memory_of_the_policy_reader_is_bounded(policy, tmp_path):
    names = [name for name in CONFIGS if "bytes" in name or "large" in name or "64" in name]
    files = [policy.with_name(f"policy.{end}") for end in ("json", "safetensors")]
    for name in names:
        set_config(policy, name)
        for file in files:
            (tmp_path / f"{name}{file.suffix}").write_bytes(file.read_bytes())
        change(policy.with_name("policy.json"), config=json.loads(json.dumps(make_config())))
    assert not failures_in_bounded_memory(
        # Loading one first imports what torch imports late: 255 MiB of address space in 2.14.
        f"from srpo_env.policy import load_policy\nload_policy({str(policy)!r})",
        f"[(n, lambda n=n: load_policy({str(tmp_path)!r} + '/' + n)) for n in {names}]",
    )


def make_config():
    from dataclasses import asdict

    return asdict(make_policy().config)


def test_a_sparse_file_as_weights_of_a_policy_is_refused(policy, tmp_path):
    with policy.with_name("policy.safetensors").open("wb") as stream:
        stream.truncate(2**28)
    assert not failures_in_bounded_memory(
        "from srpo_env.policy import load_policy",
        f"[('sparse', lambda: load_policy({str(policy)!r}))]",
        limit=2**27,
    )


def test_paths_that_are_no_checkpoints_are_refused(tmp_path):
    for path in unreadable_paths(tmp_path):
        with pytest.raises(FileNotFoundError):
            load_checkpoint(path)


def test_a_folder_or_a_loop_in_the_place_of_a_file_is_refused(policy):
    for name in ("policy.json", "policy.safetensors"):
        file = policy.with_name(name)
        content = file.read_bytes()
        file.unlink()
        file.mkdir()
        with pytest.raises(FileNotFoundError):
            load_policy(policy)
        file.rmdir()
        file.symlink_to(file)
        with pytest.raises(FileNotFoundError):
            load_policy(policy)
        file.unlink()
        file.write_bytes(content)
    load_policy(policy)
