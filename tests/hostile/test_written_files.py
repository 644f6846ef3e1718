"""Rewards are written beside their recording and nowhere else, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from srpo_env.cli import main as cli
from srpo_env.offline import RecordedEpisode, relabel_episodes, rewards_file, write_rewards
from tests.corridor import ReadingEncoder
from tests.hostile.hdf5_files import recording

PIXELS = ["--encoder", "pixels"]


def record(path):
    path.parent.mkdir(exist_ok=True)
    with recording(path):
        pass
    return path


def relabeled(*sources, task="walk", name="data/demo_0"):
    video = np.zeros((3, 4, 4, 3), np.uint8)
    episodes = [RecordedEpisode(name, task, True, video, str(source)) for source in sources]
    return relabel_episodes(episodes, ReadingEncoder())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["nothing", "important"])
def test_a_link_in_the_place_of_the_rewards_is_not_followed(tmp_path, overwrite, target):
    file = record(tmp_path / "data" / "walk.hdf5")
    outside = tmp_path / target
    if target == "important":
        outside.write_text("content")
    rewards_file(file).symlink_to(outside)
    arguments = ["relabel", str(file), *PIXELS, *(["--overwrite"] if overwrite else [])]
    assert cli.main(arguments) == (0 if overwrite else 2)
    assert outside.exists() == (target == "important")
    assert target == "nothing" or outside.read_text() == "content"
    assert rewards_file(file).is_symlink() != overwrite


@pytest.mark.parametrize("names", [("walk.hdf5", "walk.h5"), ("walk.hdf5", "walk")])
def test_two_recordings_with_one_name_are_refused(tmp_path, names):
    for name in names:
        record(tmp_path / name)
    result = relabeled(*(tmp_path / name for name in names))
    with pytest.raises(ValueError, match=r"would both be written to .*walk\.srpo\.npz"):
        write_rewards(result)
    assert not rewards_file(tmp_path / names[0]).exists()


def test_a_recording_that_is_named_twice_counts_once(tmp_path, monkeypatch, capsys):
    file = record(tmp_path / "walk.hdf5")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = [str(tmp_path), str(file), "walk.hdf5", "./link/walk.hdf5"]
    assert cli.main(["relabel", *names, *PIXELS]) == 0
    assert len(np.load(rewards_file(file))["names"]) == 1
    assert capsys.readouterr().out.count("srpo.npz") == 1


def test_rewards_of_the_present_folder_go_beside_it(tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    (folder / "videos").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert rewards_file(".") == tmp_path / "dataset.srpo.npz"
    monkeypatch.chdir(folder / "videos")
    assert rewards_file("..") == tmp_path / "dataset.srpo.npz"


def test_an_interrupted_write_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    file = record(tmp_path / "walk.hdf5")
    result = relabeled(file)
    write_rewards(result)
    before = rewards_file(file).read_bytes()

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        write_rewards(result, overwrite=True)
    assert rewards_file(file).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk.hdf5", "walk.srpo.npz"]


@pytest.mark.parametrize("text", ["../../escaped", "/etc/passwd", "a\0b", "\n", "", "x" * 5000])
def test_names_and_tasks_choose_no_path(tmp_path, text):
    folder = tmp_path / "data"
    folder.mkdir()
    (written,) = write_rewards(relabeled(folder / "walk.hdf5", task=text, name=text)).values()
    assert written == folder / "walk.srpo.npz"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert os.listdir(folder) == ["walk.srpo.npz"]
    with np.load(written) as arrays:
        assert arrays["tasks"].tolist() == [text]


def test_no_file_is_written_outside_of_the_folder(tmp_path):
    file = record(tmp_path / "data" / "walk.hdf5")
    assert cli.main(["relabel", str(file), *PIXELS]) == 0
    written = {path for path in Path(tmp_path).rglob("*") if path.is_file()}
    assert written == {file, rewards_file(file)}
