from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from srpo_env.cli import main as cli
from tests.test_offline import write_libero

PIXELS = ["--encoder", "pixels"]


@pytest.fixture
def recording(tmp_path):
    return write_libero(tmp_path / "walk_demo.hdf5", [(90, True), (80, False), (60, False)])


def test_folder_of_recordings_is_rewarded_in_new_files(recording, capsys):
    assert cli.main(["relabel", str(recording.parent), *PIXELS]) == 0
    shown = capsys.readouterr().out
    file = recording.with_name("walk_demo.srpo.npz")
    assert str(file) in shown
    # Pixel distances in the ratio 1 to 3, so the z-scores are -1 and 1.
    assert "0.22 to 0.58" in shown
    rewards = np.load(file)["rewards"]
    np.testing.assert_allclose(rewards, [1, 0.8 / (1 + np.exp(-1)), 0.8 / (1 + np.exp(1))])


def test_tasks_without_a_success_are_listed(tmp_path, capsys):
    write_libero(tmp_path / "lost_demo.hdf5", [(9, False)])
    assert cli.main(["relabel", str(tmp_path), *PIXELS]) == 0
    assert "no episode of the task succeeded: ['lost']" in capsys.readouterr().out


def test_existing_rewards_are_replaced_only_with_overwrite(recording, capsys):
    arguments = ["relabel", str(recording), *PIXELS]
    assert [cli.main(arguments), cli.main(arguments), cli.main([*arguments, "--overwrite"])] == [
        0,
        2,
        0,
    ]
    assert "--overwrite" in capsys.readouterr().err


def test_rewards_that_cannot_be_written_are_refused_before_encoding(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **settings):
        raise AssertionError("the episodes were encoded")

    monkeypatch.setattr("srpo_env.cli.relabel.relabel_episodes", fail)
    # The ending makes the name longer than a file's name may be, also for root.
    recording = write_libero(tmp_path / f"{'x' * 245}.hdf5", [(90, True), (80, False)])
    assert cli.main(["relabel", str(recording), *PIXELS]) == 2
    shown = capsys.readouterr().err
    assert "must be a file that can be written, and cannot: File name too long" in shown
    assert shown.count("\n") == 1
    assert os.listdir(tmp_path) == [recording.name]


def test_a_folder_is_not_replaced_by_rewards(recording, capsys):
    recording.with_name("walk_demo.srpo.npz").mkdir()
    assert cli.main(["relabel", str(recording), *PIXELS, "--overwrite"]) == 2
    assert "must be a file that can be written, and cannot: Is a dir" in capsys.readouterr().err


def test_default_encoder_is_the_bundled_world_model(recording):
    pytest.importorskip("transformers")
    assert cli.main(["relabel", str(recording), "--credit", "dense"]) == 0
    result = np.load(recording.with_name("walk_demo.srpo.npz"))
    assert "VJEPA2Encoder" in str(result["settings"])
    per_step = np.split(result["step_rewards"], np.cumsum(result["num_steps"])[:-1])
    np.testing.assert_allclose([rewards.sum() for rewards in per_step], result["rewards"])
    assert min(rewards.min() for rewards in per_step) >= 0
    assert result["latents"].shape[1:] == (16, 256)
    assert 0 < result["rewards"][1:].min() < result["rewards"][1:].max() < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "srpo-world"], "a checkpoint of V-JEPA 2 must be a folder"),
        (["--encoder", "srpo_env:NoEncoder"], "MODULE:NAME"),
        (["--encoder", "builtins:dict"], "MODULE:NAME"),
        (["--encoder", "no_such_module:Encoder"], "no_such_module"),
        ([*PIXELS, "--camera", "wrist_rgb"], "obs/wrist_rgb"),
        ([*PIXELS, "--max-frames", "1"], "at least 2, got 1"),
        ([*PIXELS, "--credit", "dense"], "needs latents that are paths"),
    ],
)
def test_wrong_argument_is_one_sentence(recording, arguments, message, capsys):
    assert cli.main(["relabel", str(recording), *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_successes_can_come_from_a_file(tmp_path, capsys):
    # Distances 1 and 3 to the first episode, as above; the recording itself says nothing.
    recording = write_libero(tmp_path / "walk_demo.hdf5", [(90, 0), (80, 0), (60, 0)])
    with h5py.File(recording, "r+") as file:
        for name in file["data"]:
            del file[f"data/{name}/rewards"]
    assert cli.main(["relabel", str(recording), *PIXELS]) == 2
    assert "--successes of `srpo-env relabel`" in capsys.readouterr().err
    labels = tmp_path / "labels.csv"
    labels.write_text("demo_0,true\ndemo_1,false\ndemo_2,false\n")
    assert cli.main(["relabel", str(recording), *PIXELS, "--successes", str(labels)]) == 0
    result = np.load(recording.with_name("walk_demo.srpo.npz"))
    np.testing.assert_array_equal(result["successes"], [True, False, False])
    np.testing.assert_allclose(
        result["rewards"], [1, 0.8 / (1 + np.exp(-1)), 0.8 / (1 + np.exp(1))]
    )


def test_successes_of_several_recordings_name_them(tmp_path):
    write_libero(tmp_path / "walk_demo.hdf5", [(9, False), (8, False)])
    write_libero(tmp_path / "run_demo.hdf5", [(9, False)])
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(
        {"walk_demo.hdf5:demo_0": False, "demo_1": True, "run_demo.hdf5:demo_0": True}
    ))  # fmt: skip
    assert cli.main(["relabel", str(tmp_path), *PIXELS, "--successes", str(labels)]) == 0
    walk, run = (np.load(tmp_path / f"{name}_demo.srpo.npz") for name in ("walk", "run"))
    np.testing.assert_array_equal(walk["successes"], [False, True])
    np.testing.assert_array_equal(run["successes"], [True])


def test_successes_that_do_not_fit_are_refused_before_encoding(recording, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("demo_0,1\ndemo_1,0\n")
    assert cli.main(["relabel", str(recording), *PIXELS, "--successes", str(labels)]) == 2
    shown = capsys.readouterr().err
    assert "must name each episode, and lacks demo_2 of" in shown
    assert shown.count("\n") == 1
    assert not recording.with_name("walk_demo.srpo.npz").exists()


def test_path_without_recordings_is_one_sentence(tmp_path, capsys):
    assert cli.main(["relabel", str(tmp_path / "lost")]) == 2
    assert "no such path" in capsys.readouterr().err
    assert cli.main(["relabel", str(tmp_path)]) == 2
    assert "must contain *.hdf5 files or be a LeRobot dataset" in capsys.readouterr().err
