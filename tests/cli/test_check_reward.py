from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("tqdm")

from srpo_env.cli import main as cli
from tests.benchmarks.reward.toy_episodes import write_episodes
from tests.test_offline import write_libero

PIXELS = ["--encoder", "pixels"]
ENDS = [(90, True), (92, True), (94, True), (60, False), (40, False)]


@pytest.fixture
def recording(tmp_path):
    return write_libero(tmp_path / "walk_demo.hdf5", ENDS, length=12)


def test_it_prints_a_verdict_and_writes_a_json_file_and_an_image(recording, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = ["--json", str(tmp_path / "out" / "c.json"), "--plot", str(tmp_path / "out" / "c.png")]
    assert cli.main(["check-reward", str(recording.parent), *PIXELS, *files]) == 0
    shown = capsys.readouterr().out
    assert "The reward is usable: " in shown
    assert "next: " in shown
    found = json.loads((tmp_path / "out" / "c.json").read_text())
    assert found["encoders"][0]["tasks"][0]["num_failures"] == 2
    assert (tmp_path / "out" / "c.png").stat().st_size > 10_000


def test_the_exit_code_is_1_if_the_reward_is_not_usable(tmp_path, capsys):
    recording = write_libero(tmp_path / "walk_demo.hdf5", ENDS[2:], length=12)
    assert cli.main(["check-reward", str(recording), *PIXELS]) == 1
    assert "Too few successes" in capsys.readouterr().out


def test_episodes_of_record_behaviours_can_be_checked(tmp_path, capsys):
    file, _ = write_episodes(tmp_path / "episodes")
    assert cli.main(["check-reward", str(file), *PIXELS, "--max-frames", "5"]) in (0, 1)
    assert "encoder: pixels" in capsys.readouterr().out


def test_the_bundled_world_model_is_the_default_and_compared_with_pixels(recording, capsys):
    pytest.importorskip("transformers")
    assert cli.main(["check-reward", str(recording)]) in (0, 1)
    shown = capsys.readouterr().out
    assert "encoder: libero-vjepa2" in shown
    assert "encoder: pixels" in shown


def test_a_file_without_success_is_one_sentence(tmp_path, capsys):
    recording = write_libero(tmp_path / "walk_demo.hdf5", [(9, False)])
    assert cli.main(["check-reward", str(recording), *PIXELS]) == 2
    shown = capsys.readouterr().err
    assert "at least one episode must have succeeded" in shown
    assert shown.count("\n") == 1


def test_an_unknown_image_format_is_an_error_before_encoding(recording, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    from srpo_env.cli import check_reward

    monkeypatch.setattr(check_reward, "named_encoder", lambda name: pytest.fail("encoded"))
    assert cli.main(["check-reward", str(recording), *PIXELS, "--plot", "check.bmq"]) == 2
    assert "must end in one of" in capsys.readouterr().err


def test_an_image_without_matplotlib_is_an_error_before_encoding(recording, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["check-reward", str(recording), *PIXELS, "--plot", "check.png"]) == 2
    assert "run `pip install matplotlib`" in capsys.readouterr().err


def test_wrong_paths_are_one_sentence(tmp_path, capsys):
    assert cli.main(["check-reward", str(tmp_path / "lost"), *PIXELS]) == 2
    assert "no such path" in capsys.readouterr().err
    (tmp_path / "text.hdf5").write_text("no episodes")
    assert cli.main(["check-reward", str(tmp_path), *PIXELS]) == 2
    assert "text.hdf5' is not an HDF5 file" in capsys.readouterr().err


def test_a_lerobot_dataset_without_lerobot_names_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    (tmp_path / "walks" / "meta").mkdir(parents=True)
    (tmp_path / "walks" / "meta" / "info.json").write_text("{}")
    assert cli.main(["check-reward", str(tmp_path / "walks"), *PIXELS]) == 2
    assert "pip install lerobot" in capsys.readouterr().err


def test_the_present_folder_can_be_a_lerobot_dataset(tmp_path, monkeypatch):
    opened = []

    class Dataset:
        def __init__(self, repo_id, root):
            opened.append((repo_id, root.resolve()))
            raise ValueError("no episodes")

    module = ModuleType("lerobot.datasets.lerobot_dataset")
    module.LeRobotDataset = Dataset
    for name in ("lerobot", "lerobot.datasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    folder = tmp_path / "walks"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text("{}")
    monkeypatch.chdir(folder)
    for command in ("check-reward", "relabel"):
        assert cli.main([command, ".", *PIXELS]) == 2
    assert opened == [("walks", folder)] * 2  # "." has no name


def test_more_frames_do_not_change_a_short_recording(recording, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, frames in zip(files, ("12", "64"), strict=True):
        arguments = [str(recording), *PIXELS, "--max-frames", frames, "--json", str(file)]
        cli.main(["check-reward", *arguments])
    a, b = (json.loads(file.read_text())["encoders"] for file in files)
    np.testing.assert_equal(a, b)
