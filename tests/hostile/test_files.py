"""JSON, npz archives and safetensors: data only, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from srpo_env.readers.arrays import read_npz, read_safetensors
from srpo_env.system.files import MAX_JSON_BYTES, parse_json, read_json
from tests.hostile.files import (
    JSON_ATTACKS,
    SAFETENSORS_ATTACKS,
    archive,
    failures_in_bounded_memory,
    npy,
    npz_attacks,
    safetensors,
    tensor,
    unreadable_paths,
    was_executed,
)


@pytest.mark.parametrize("attack", list(npz_attacks(".")))
@pytest.mark.parametrize("as_bytes", [False, True], ids=["file", "bytes"])
@pytest.mark.parametrize("max_bytes", [None, 2**20], ids=["stored", "compressed"])
def test_hostile_archives_are_refused(attack, as_bytes, max_bytes, tmp_path):
    file = tmp_path / "state.npz"
    file.write_bytes(npz_attacks(tmp_path)[attack]())
    with pytest.raises(ValueError, match="must be an archive of plain arrays") as error:
        read_npz(file.read_bytes() if as_bytes else file, max_bytes)
    assert as_bytes or str(file) in str(error.value)
    assert not was_executed(tmp_path)


def test_compressed_archives_are_read_up_to_a_size(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, states=np.zeros((1000, 100)))
    assert file.stat().st_size < 10_000
    assert read_npz(file, max_bytes=2**20)["states"].shape == (1000, 100)
    with pytest.raises(ValueError, match="it declares 800128 bytes, and may have 800127"):
        read_npz(file, max_bytes=800_127)
    with pytest.raises(ValueError, match="it is compressed"):
        read_npz(file)


def test_memory_of_the_archive_reader_is_bounded():
    assert not failures_in_bounded_memory(
        "from srpo_env.readers.arrays import read_npz\n"
        "from tests.hostile.files import npz_attacks\n"
        "contents = {name: make() for name, make in npz_attacks('/nowhere').items()}",
        "[(f'{n}, {m}', lambda c=c, m=m: read_npz(c, m))"
        " for n, c in contents.items() for m in (None, 2**20)]",
        limit=2**26,
    )


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.zeros((0, 4), np.float32),
        np.array("text"),
        np.array(""),
        np.array(["a", "bcd"]),
        np.array(True),
        np.array([np.nan, -np.inf]),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array(["2000-01-01"], "M8[D]"),
        np.arange(3, dtype=">i2"),
    ],
    ids=str,
)
def test_plain_arrays_are_read_to_the_bit(array, tmp_path):
    np.savez(tmp_path / "a.npz", array=array)
    (back,) = read_npz(tmp_path / "a.npz").values()
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)


def test_names_in_an_archive_are_only_names(tmp_path):
    content = archive(**{"../../escaped": npy((1,), data=b"\0" * 8), "/etc/x": npy((0,))})
    assert set(read_npz(content)) == {"../../escaped", "/etc/x"}
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_occurs_twice_is_refused():
    content = archive(a=npy((0,)), b=npy((0,))).replace(b"b.npy", b"a.npy")
    with pytest.raises(ValueError, match="'a' occurs twice"):
        read_npz(content)


@pytest.mark.parametrize("attack", list(JSON_ATTACKS))
def test_hostile_json_is_refused(attack, tmp_path):
    file, content = tmp_path / "settings.json", JSON_ATTACKS[attack]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"settings\.json is damaged: it is not valid JSON"):
        read_json(file)


def test_a_json_file_of_any_size_is_not_read_as_a_whole(tmp_path):
    file = tmp_path / "settings.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # without blocks on the disk
    with pytest.raises(ValueError, match=f"at most {MAX_JSON_BYTES:,} bytes"):
        read_json(file)


def test_python_s_own_json_is_read():
    assert parse_json('{"a": [Infinity, -Infinity], "b": {"a": 1}}', "text") == {
        "a": [float("inf"), float("-inf")],
        "b": {"a": 1},
    }


@pytest.mark.parametrize("attack", list(SAFETENSORS_ATTACKS))
def test_hostile_safetensors_are_refused(attack, tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "model.safetensors"
    file.write_bytes(SAFETENSORS_ATTACKS[attack])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_safetensors(file)


def test_memory_of_the_safetensors_reader_is_bounded(tmp_path):
    pytest.importorskip("torch")
    for number, content in enumerate(SAFETENSORS_ATTACKS.values()):
        (tmp_path / str(number)).write_bytes(content)
    assert not failures_in_bounded_memory(
        "import torch, safetensors.torch\nfrom pathlib import Path\n"
        "from srpo_env.readers.arrays import read_safetensors",
        f"[(f.name, lambda f=f: read_safetensors(f)) for f in Path({str(tmp_path)!r}).iterdir()]",
    )


def test_valid_safetensors_are_read(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors({"a": tensor()}, np.array([1, 2], "<f4").tobytes()))
    assert read_safetensors(file)["a"].tolist() == [1, 2]


@pytest.mark.parametrize("read", [read_json, read_npz, read_safetensors])
def test_paths_that_are_not_files_are_refused(read, tmp_path):
    pytest.importorskip("torch")
    for path in unreadable_paths(tmp_path):
        with pytest.raises(FileNotFoundError):
            read(path)
