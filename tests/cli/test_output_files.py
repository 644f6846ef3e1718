"""Files to write are checked before the work whose results they will hold."""

import os

import pytest

from srpo_env.cli import main as cli
from srpo_env.cli.output_files import check_image_file, check_output_file


def test_the_folder_is_created_and_the_file_is_not(tmp_path):
    check_output_file(tmp_path / "new/figures.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_existing_file_is_kept(tmp_path):
    file = tmp_path / "figures.json"
    file.write_text("before")
    check_output_file(file)
    assert file.read_text() == "before"


@pytest.mark.parametrize("name", ["", "file/figures.json", "x" * 300])
def test_what_cannot_be_written_is_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="must be a file that can be written, and cannot: "):
        check_output_file(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["noext", "curves.", ".png", "curves.txt"])
def test_an_image_needs_a_known_ending(tmp_path, name):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="must end in one of"):
        check_image_file(tmp_path / name)


COMMANDS = {
    "report": ["RUN", "--out"],
    "check-reward": ["RECORDING", "--encoder", "pixels", "--plot"],
    "check-reward --json": ["RECORDING", "--encoder", "pixels", "--json"],
    "evaluate": ["--checkpoint", "nowhere", "--json"],
    "benchmark": ["sim", "--plot"],
    "benchmark --json": ["sim", "--json"],
}
"""Commands with an option that names a file, at their end."""


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_check_their_files_first(tmp_path, name, capsys):
    pytest.importorskip("matplotlib")
    if name.startswith(("evaluate", "benchmark")):
        pytest.importorskip("libero")
    (tmp_path / "file").touch()
    recording = tmp_path / "walk_demo.hdf5"
    recording.touch()  # is not read: the file to write is wrong
    arguments = [str(recording) if a == "RECORDING" else a for a in COMMANDS[name]]
    target = str(tmp_path / "file/figures.png")
    assert cli.main([name.partition(" ")[0], *arguments, target]) == 2
    shown = capsys.readouterr().err
    assert f"{target!r} must be a file that can be written" in shown
    assert shown.count("\n") == 1
