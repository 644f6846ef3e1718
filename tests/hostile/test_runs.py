"""Folders of training runs from other people."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.hostile.files import (
    JSON_ATTACKS,
    OTHER_JSON,
    SAFETENSORS_ATTACKS,
    pickled,
    was_executed,
)

pytest.importorskip("torch", reason="torch is not installed: pip install 'srpo-env[agents]'")
pytest.importorskip("tyro", reason="tyro is not installed: pip install 'srpo-env[agents]'")

from srpo_env.training.checkpoint import load_progress, load_training
from srpo_env.training.report import CONDITIONS, HISTORY, SETTINGS, read_curve
from srpo_env.training.run_log import RunLog
from srpo_env.training.settings import RunSettings
from tests.training.test_checkpoint import Run


@pytest.fixture
def checkpoint(tmp_path):
    run = Run()
    run.train()
    return run.save(tmp_path / "run", 1)


def edit(checkpoint, change):
    file = checkpoint / "training.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("attack", list(JSON_ATTACKS))
def test_hostile_values_are_refused(checkpoint, attack):
    content = JSON_ATTACKS[attack]
    (checkpoint / "training.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    for read in (load_progress, Run().load):
        with pytest.raises(ValueError, match=r"training\.json"):
            read(checkpoint)


@pytest.mark.parametrize("content", OTHER_JSON)
def test_other_json_is_refused(checkpoint, content):
    (checkpoint / "training.json").write_text(content)
    with pytest.raises(ValueError, match=r"training\.json"):
        load_progress(checkpoint)


@pytest.mark.parametrize("attack", list(SAFETENSORS_ATTACKS))
def test_hostile_tensors_are_refused(checkpoint, attack):
    write_tensors(checkpoint, SAFETENSORS_ATTACKS[attack])
    with pytest.raises(ValueError, match=r"training\.safetensors"):
        Run().load(checkpoint)


def test_pickles_are_no_tensors(checkpoint, tmp_path):
    write_tensors(checkpoint, pickled(tmp_path))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        Run().load(checkpoint)
    assert not was_executed(tmp_path)


def write_tensors(checkpoint, content):
    """Replaces the tensors, and the checksum, which an attacker can compute."""
    (checkpoint / "training.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(checkpoint, lambda values: values["sha256"].update({"training.safetensors": digest}))


CHANGES = {
    "checksum of a device": lambda values: values["sha256"].update({"/dev/zero": ""}),
    "checksum of another folder": lambda values: values["sha256"].update({"../../../x": ""}),
    "checksum of a folder": lambda values: values["sha256"].update({".": ""}),
    "another type": lambda values: values["types"].update({"other.array": "os.system"}),
    "list as type": lambda values: values["types"].update({"other.array": []}),
    "list as state": lambda values: values["parts"].update(optimizer=[]),
    "no state of the schedule": lambda values: values["parts"].update(schedule={}),
    "text as state of numpy": lambda values: values["parts"].update(numpy={"state": "x"}),
    "another generator of numpy": lambda values: values["parts"]["numpy"]["state"].update(
        bit_generator="os.system"
    ),
    "groups of nothing": lambda values: values["parts"]["schedule"].update(param_groups=[None]),
    "no groups": lambda values: values["parts"]["schedule"].update(param_groups=[]),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_edited_checkpoints_are_refused(checkpoint, name):
    edit(checkpoint, CHANGES[name])
    run = Run()
    with pytest.raises(ValueError, match=r"iteration_0001|must be a file of the checkpoint"):
        load_training(checkpoint, run.parts, run.policy)


@pytest.mark.parametrize("content", [*JSON_ATTACKS.values(), *OTHER_JSON])
def test_hostile_settings_are_refused(checkpoint, content):
    folder = checkpoint.parent.parent
    file = folder / SETTINGS
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=SETTINGS):
        RunSettings.read(folder)


RECORD = {"iteration": 1, "control_steps": 8, "seconds": 1.0, "eval/success_rate": 0.5}
ARGS = {"reward": "srpo", "env_id": "libero-object", "encoder": "x", "seed": 1, "eval_episodes": 10}


@pytest.mark.parametrize("content", [*JSON_ATTACKS.values(), *OTHER_JSON])
@pytest.mark.parametrize("name", [SETTINGS, CONDITIONS, HISTORY])
def test_hostile_files_of_a_report_are_refused(tmp_path, name, content):
    (tmp_path / HISTORY).write_text(json.dumps(RECORD) + "\n")
    (tmp_path / SETTINGS).write_text(json.dumps(ARGS))
    (tmp_path / CONDITIONS).write_text(json.dumps({"assets": "libero"}))
    assert read_curve(tmp_path).seed == 1
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content + b"\n")
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_curve(tmp_path)


@pytest.mark.parametrize("name", ["control_steps", "seconds", "eval/success_rate"])
@pytest.mark.parametrize("value", [None, "text", [], {}])
def test_metrics_of_other_types_are_refused(tmp_path, name, value):
    (tmp_path / HISTORY).write_text(json.dumps({**RECORD, name: value}) + "\n")
    (tmp_path / SETTINGS).write_text(json.dumps(ARGS))
    (tmp_path / CONDITIONS).write_text(json.dumps({"assets": "libero"}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        str(read_curve(tmp_path))


@pytest.mark.parametrize("content", [*JSON_ATTACKS.values(), *OTHER_JSON])
def test_hostile_conditions_of_a_resumed_run_are_refused(tmp_path, content):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / CONDITIONS).write_bytes(content)
    (tmp_path / HISTORY).write_text("")
    with pytest.raises(ValueError, match=str(tmp_path)):
        RunLog(tmp_path, RunSettings(), {"look": "libero"}, resume_at={"records": 0, "step": 0})
    assert (tmp_path / CONDITIONS).read_bytes() == content
