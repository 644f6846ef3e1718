from __future__ import annotations

import json
import sys

import h5py
import numpy as np
import pytest

from srpo_env.cli import main as cli
from srpo_env.libero.demo_recording import DemoRecording, record_demos
from srpo_env.libero.suites import get_task

pytestmark = pytest.mark.libero


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two demonstrations: one of the expert with a no-op, and its first twenty steps."""
    folder = tmp_path_factory.mktemp("demos")
    settings = DemoRecording(demos_per_task=1, image_size=8)
    path = record_demos("libero_object", 1, folder, settings).file
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/executed_actions"]
        for name in ("actions", "states"):
            rows = file[f"data/demo_0/{name}"][()]
            file[f"data/demo_1/{name}"] = rows[:20]
            del file[f"data/demo_0/{name}"]
            rows = np.insert(rows, 12, rows[11], axis=0)
            if name == "actions":
                rows[12, :6] = 0
            file[f"data/demo_0/{name}"] = rows
    return path


def test_the_report_says_which_demonstrations_reach_the_goal(recording, tmp_path, capsys):
    out = tmp_path / "r.json"
    assert cli.main(["replay", str(recording.parent), "--drop-no-ops", "--json", str(out)]) == 1
    shown = capsys.readouterr().out
    assert f"not to the goal: demo_1 of {recording}" in shown
    assert "1 of 2 replay to success\n" in shown
    assert "1 of 2 replay to success without their no-ops" in shown
    content = json.loads(out.read_text())
    assert (content["num_demos"], content["num_successes"]) == (2, 1)
    whole, cut = content["demos"]
    assert (whole["demo"], whole["success"], whole["num_no_ops"]) == ("demo_0", True, 1)
    assert whole["success_without_no_ops"] is True
    assert whole["num_steps"] - 4 < whole["success_step"] < whole["num_steps"]
    assert (cut["success"], cut["success_step"], cut["num_steps"]) == (False, None, 20)
    assert 0 < whole["max_deviation"] < 0.2


def test_demonstrations_that_reach_the_goal_are_exported(
    recording,
    tmp_path,
    capsys,
    lerobot_stand_in,
):
    arguments = ["--drop-no-ops", "--lerobot", str(tmp_path / "ds"), "--image-size", "16"]
    assert cli.main(["replay", str(recording), *arguments]) == 1
    assert "1 episodes written to" in capsys.readouterr().out
    content = json.loads((tmp_path / "ds" / "dataset.json").read_text())
    assert content["task"] == "pick up the cream cheese and place it in the basket"
    with h5py.File(recording) as file:
        num_steps = len(file["data/demo_0/actions"])
    assert len(content["lengths"]) == 1
    assert num_steps - 4 <= content["lengths"][0] < num_steps  # without the no-op


def test_the_exit_code_is_0_if_all_reach_the_goal(recording, tmp_path):
    file = tmp_path / recording.name
    file.write_bytes(recording.read_bytes())
    with h5py.File(file, "r+") as content:
        del content["data/demo_1"]
    assert cli.main(["replay", str(file)]) == 0


def test_a_task_of_the_user_is_named_by_its_bddl_file(recording, tmp_path, capsys):
    bddl = tmp_path / "mine.bddl"
    bddl.write_text(get_task("libero_object", 1).bddl_file.read_text())
    file = tmp_path / "mine.hdf5"
    file.write_bytes(recording.read_bytes())
    with h5py.File(file, "r+") as content:
        del content["data"].attrs["bddl_file_name"]
        del content["data/demo_1"]
    assert cli.main(["replay", str(file)]) == 2
    assert "name its BDDL file (`--bddl`)" in capsys.readouterr().err
    assert cli.main(["replay", str(file), "--bddl", str(bddl)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lost"], "there must be *.hdf5 files at 'lost'"),
        (["{}", "--bddl", "lost.bddl"], "there must be a BDDL file"),
        (["{}", "--lerobot", "ds"], "pip install 'lerobot[dataset]'"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, message, recording, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    assert cli.main(["replay", *(argument.format(recording) for argument in arguments)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_dataset_without_episodes_is_not_written(
    recording,
    tmp_path,
    capsys,
    lerobot_stand_in,
):
    file = tmp_path / recording.name
    file.write_bytes(recording.read_bytes())
    with h5py.File(file, "r+") as content:
        del content["data/demo_0"]
    arguments = ["--lerobot", str(tmp_path / "ds"), "--image-size", "16"]
    assert cli.main(["replay", str(file), *arguments]) == 2
    assert "no demonstration reaches the goal" in capsys.readouterr().err
    assert not (tmp_path / "ds").exists()
