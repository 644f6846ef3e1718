"""Recorded episodes from other people: refused with a sentence, and nothing else is read."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.cli import main as cli
from srpo_env.cli.recordings import read_source, sources_of
from srpo_env.offline import read_libero
from tests.hostile.files import (
    failures_in_bounded_memory,
    pickled,
    unreadable_paths,
    was_executed,
)
from tests.hostile.hdf5_files import ACCEPTED, CAMERA, attacks, recording


@pytest.fixture
def secret(tmp_path):
    """A readable file that no other file may make the readers read."""
    path = tmp_path / "secret" / "walk.hdf5"
    path.parent.mkdir()
    with recording(path):
        pass
    return path


@pytest.mark.parametrize("attack", list(attacks("")))
def test_hostile_recordings_are_refused(attack, tmp_path, secret):
    file = tmp_path / "walk_demo.hdf5"
    with recording(file) as content:
        attacks(secret)[attack](content)
    with pytest.raises(ValueError, match=r"must|cannot be read") as error:
        list(read_source(file))
    assert "walk_demo.hdf5" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", list(ACCEPTED))
def test_unusual_recordings_are_read(case, tmp_path):
    file = tmp_path / "walk_demo.hdf5"
    with recording(file) as content:
        ACCEPTED[case](content)
    episodes = list(read_source(file))
    assert all(episode.success for episode in episodes)
    assert all(episode.video.shape[1:] in ((4, 4, 3), (128, 128, 3)) for episode in episodes)


@pytest.mark.parametrize(
    "value", ["opencv", np.bytes_(b"opencv"), "OpenCV", np.array(["opencv"], "S")]
)
@pytest.mark.parametrize("swap", [False, True])
def test_images_are_upright_however_the_convention_is_stored(value, swap, tmp_path):
    # The first row of an upright image is white. OpenGL stores it last.
    if swap:
        value = {str: "opengl", np.bytes_: np.bytes_(b"OpenGL")}.get(
            type(value), np.array([b"opengl"])
        )
    file = tmp_path / "walk_demo.hdf5"
    with recording(file) as content:
        content[f"data/demo_0/{CAMERA}"][:, -1 if swap else 0] = 255
        content["data"].attrs["macros_image_convention"] = value
    (episode,) = read_libero(file)
    assert (episode.video[:, 0] == 255).all()
    assert (episode.video[:, 1:] == 0).all()


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 4096, b"{}"]
)
def test_files_that_are_not_hdf5_are_refused(content, tmp_path):
    file = tmp_path / "walk.hdf5"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"walk.hdf5' is not an HDF5 file, or is damaged"):
        list(read_source(file))


def test_truncated_recordings_are_refused(tmp_path):
    file = tmp_path / "walk.hdf5"
    with recording(file):
        pass
    content = file.read_bytes()
    for length in range(0, len(content), 97):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not an HDF5 file, or is damaged"):
            list(read_source(file))


def test_paths_that_are_not_files_are_refused(tmp_path):
    for path in unreadable_paths(tmp_path):
        with pytest.raises(FileNotFoundError):
            [episode for source in sources_of([path]) for episode in read_source(source)]


def test_folders_with_the_name_of_a_recording_are_no_recordings(tmp_path):
    (tmp_path / "data" / "walk.hdf5").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"must contain \*.hdf5 files"):
        sources_of([tmp_path / "data"])


def test_memory_of_readers_is_bounded(tmp_path, secret):
    names = []
    for number, (name, attack) in enumerate(attacks(secret).items()):
        if "bytes" in name:
            with recording(tmp_path / f"{number}.hdf5") as content:
                attack(content)
            names.append(number)
    assert len(names) == 3
    assert not failures_in_bounded_memory(
        "from srpo_env.cli.recordings import read_source\nfrom pathlib import Path\n"
        "from functools import partial\nimport h5py\n"
        f"folder, names = Path({str(tmp_path)!r}), {names}",
        "[(n, lambda n=n: list(read_source(folder / f'{n}.hdf5'))) for n in names]",
    )


def test_pickles_are_not_recordings(tmp_path):
    file = tmp_path / "walk.hdf5"
    file.write_bytes(pickled(tmp_path))
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        list(read_source(file))
    assert not was_executed(tmp_path)


def test_names_that_are_not_text_are_refused(tmp_path):
    file = tmp_path / "walk.hdf5"
    with recording(file) as content:
        content["data"].move("demo_0", b"\xff")
    with pytest.raises(ValueError, match=r"of .*walk\.hdf5.* cannot be read"):
        list(read_source(file))


def test_a_name_that_a_damaged_file_lists_and_does_not_have_is_refused(tmp_path):
    file = tmp_path / "walk.hdf5"
    with recording(file):
        pass
    content = file.read_bytes()
    place = content.index(b"demo_0\0")
    file.write_bytes(content[:place] + b"\0" + content[place + 1 :])
    with pytest.raises(ValueError, match="damaged"):
        list(read_source(file))


def test_the_command_prints_one_sentence(tmp_path, secret, capsys):
    file = tmp_path / "walk_demo.hdf5"
    with recording(file) as content:
        attacks(secret)["external link to the images"](content)
    assert cli.main(["relabel", str(file), "--encoder", "pixels"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("srpo-env relabel: ")
    assert len(shown.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "walk_demo.hdf5"]


@pytest.mark.parametrize("name", ["..", "../../escaped", "/tmp/escaped", "a\nb", "x" * 1000])
def test_names_in_a_recording_choose_no_path(name, tmp_path):
    # HDF5 reads a slash as a path of groups.
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "walk_demo.hdf5"
    with recording(file) as content:
        content.move("data/demo_0", f"data/{name.strip('/').replace('/', chr(0x2215))}")
        content["data"].attrs["bddl_file_name"] = f"../../{name}.bddl"
    assert cli.main(["relabel", str(file), "--encoder", "pixels"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "walk_demo.hdf5",
        "walk_demo.srpo.npz",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
