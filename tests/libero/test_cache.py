"""Faults of the cache folder: never a wrong mesh, and work goes on without the cache."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srpo_env.libero import cache, visuals

mujoco = visuals.mujoco
pytestmark = pytest.mark.libero

ROOT = Path(__file__).resolve().parents[2]

SCENE = """
<mujoco>
  <compiler inertiagrouprange="0 0"/>
  <asset>
    <mesh name="ball" file="{folder}/ball.obj"/>
    <texture name="checks" type="2d" file="{folder}/checks.png"/>
    <material name="checks" texture="checks"/>
  </asset>
  <worldbody>
    <body><geom type="box" size="1 1 1" group="0"/>
      <geom type="mesh" mesh="ball" group="1" contype="0" conaffinity="0"/></body>
    <geom type="plane" size="1 1 1" material="checks" group="1" contype="0" conaffinity="0"/>
  </worldbody>
</mujoco>
"""


SECONDS = itertools.count()
"""Times of the files that are written."""


def write_ball(file, num, radius=1.0):
    """A sphere of ``2 * num**2`` triangles in MuJoCo's OBJ format."""
    polar, azimuth = np.meshgrid(np.linspace(0, np.pi, num + 1), np.linspace(0, 2 * np.pi, num + 1))
    points = radius * np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], axis=-1
    )
    ids = np.arange(1, points.size // 3 + 1).reshape(num + 1, num + 1)
    a, b, c, d = (part.ravel() for part in (ids[:-1, :-1], ids[:-1, 1:], ids[1:, 1:], ids[1:, :-1]))
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points.reshape(-1, 3)]
    lines += [f"f {i} {j} {k}" for i, j, k in [*zip(a, c, b), *zip(a, d, c)]]  # noqa: B905
    file.write_text("\n".join(lines) + "\n")
    # MuJoCo keeps files that it has read, and compares their times in whole seconds.
    os.utime(file, 2 * (next(SECONDS),))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache folder, which is returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    yield cache.cache_folder()
    cache.cache_folder.cache_clear()


@pytest.fixture
def xml(tmp_path):
    """A scene with one mesh and one texture, which a fraction of a second decimates."""
    write_ball(tmp_path / "ball.obj", 30)
    pixels = np.indices((64, 64)).sum(axis=0) // 8 % 2 * 255
    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(tmp_path / "checks.png")
    return SCENE.format(folder=tmp_path)


def cached_files(folder):
    return sorted(folder.rglob("decimated-*/*/*"))


def content_of(model):
    return [
        (name, np.array(getattr(model, name)))
        for name in dir(model)
        if isinstance(getattr(model, name), np.ndarray) and not name.startswith("_")
    ]


def assert_equal_models(model, other):
    for (name, value), (_, expected) in zip(content_of(model), content_of(other), strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=name)


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        flip_a_bit,
    ],
    ids=["empty", "header", "half", "last byte", "longer", "one bit"],
)
def test_a_damaged_file_is_made_again(empty_cache, xml, damage, caplog):
    expected = visuals.load_model(xml, "fast")
    files = cached_files(empty_cache)
    assert [file.suffix for file in files] == [".npz", ".mjb", ".npz"]
    stored = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    assert_equal_models(visuals.load_model(xml, "fast"), expected)
    assert caplog.text.count("is truncated or altered") >= len(files)
    assert [file.read_bytes() for file in files] == stored


def test_a_file_with_the_content_of_another_one_is_made_again(empty_cache, xml, tmp_path):
    first = visuals.load_model(xml, "fast")
    other_mesh, other_model = cached_files(empty_cache)[:2]
    write_ball(tmp_path / "ball.obj", 30, radius=0.5)
    second = visuals.load_model(xml, "fast")
    assert not np.array_equal(first.mesh_vert, second.mesh_vert)
    for file in cached_files(empty_cache):
        source = {".npz": other_mesh, ".mjb": other_model}[file.suffix]
        if file.parent == source.parent and file != source:
            file.write_bytes(source.read_bytes())
    assert_equal_models(visuals.load_model(xml, "fast"), second)


def test_a_folder_in_place_of_a_file_is_not_used(empty_cache, xml, caplog):
    expected = visuals.load_model(xml, "fast")
    for file in cached_files(empty_cache):
        file.unlink()
        (file / "something").mkdir(parents=True)
    assert_equal_models(visuals.load_model(xml, "fast"), expected)
    assert "Is a directory" in caplog.text


LOAD = """
import hashlib, resource, sys
from srpo_env.libero import visuals
from srpo_env.libero.cache import cache_folder
cache_folder()
if sys.argv[1] != "unlimited":  # no file can have more bytes, as on a disk that is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
model = visuals.load_model(sys.stdin.read(), "fast")
digest = hashlib.sha256()
for name in ("mesh_vert", "mesh_normal", "mesh_face", "tex_data", "geom_pos", "body_mass"):
    digest.update(getattr(model, name).tobytes())
print(digest.hexdigest())
"""


def start(xml, folder, limit="unlimited"):
    """Loads a model in a new process; its output is a hash of the model."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(limit)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    process.stdin.write(xml)
    process.stdin.close()
    process.stdin = None  # so that `communicate` does not flush it
    return process


@pytest.mark.parametrize("limit", [0, 1000])
def test_on_a_full_disk_the_model_is_made_without_the_cache(xml, tmp_path, limit):
    full, free = (start(xml, tmp_path / str(size), size) for size in (limit, "unlimited"))
    output, errors = full.communicate(timeout=120)
    assert full.returncode == 0, errors
    assert output == free.communicate(timeout=120)[0]
    warnings = [line for line in errors.splitlines() if "Nothing can be written" in line]
    assert len(warnings) == 1
    assert "XDG_CACHE_HOME" in warnings[0]
    assert cached_files(tmp_path / str(limit)) == []
    assert not list((tmp_path / str(limit)).rglob(".new-*"))


def test_processes_that_share_the_cache_load_equal_models(xml, tmp_path):
    started = [start(xml, tmp_path / "shared") for _ in range(3)]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert len({output for output, _ in ended}) == 1
    assert len(cached_files(tmp_path / "shared")) == 3
    assert "altered" not in "".join(errors for _, errors in ended)


def test_an_asset_that_changes_is_read_again(empty_cache, xml, tmp_path):
    first = visuals.load_model(xml, "fast")
    write_ball(tmp_path / "ball.obj", 20, radius=0.7)
    second = visuals.load_model(xml, "fast")
    size = [np.ptp(model.mesh_vert, axis=0).max() for model in (first, second)]
    assert size == pytest.approx([2.0, 1.4], abs=0.05)


def test_a_lock_that_cannot_be_written_is_none(empty_cache):
    (empty_cache / "locks").touch()  # a file, so no lock can be created in it
    with cache.lock(Path("some-mesh.npz"), wait=True) as is_locked:
        assert is_locked


def test_a_folder_that_cannot_be_written_is_one_sentence(empty_cache):
    def fill(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"placeholders' could not be written \(No space left.*XDG"):
        cache.create_folder(empty_cache / "placeholders", fill)
    assert list(empty_cache.iterdir()) == []


# --- Entries ------------------------------------------------------------------------------------


def test_nothing_outside_of_the_folder_is_removed(empty_cache, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (empty_cache / "link").symlink_to(outside)
    (empty_cache / "folder").mkdir()
    (empty_cache / "folder/link").symlink_to(outside)
    for entry in cache.cache_entries():
        cache.remove_entry(entry.path)
    assert list(empty_cache.iterdir()) == []
    assert (outside / "file").exists()


@pytest.mark.parametrize("path", ["outside", ".", "..", "folder/file", "../outside/file"])
def test_a_path_that_is_no_entry_is_an_error(empty_cache, path):
    with pytest.raises(ValueError, match="must be directly in"):
        cache.remove_entry(empty_cache.parent / path if path == "outside" else empty_cache / path)


def test_sizes_are_those_of_the_files(empty_cache):
    (empty_cache / "a").write_bytes(b"12345")
    (empty_cache / "b/c").mkdir(parents=True)
    (empty_cache / "b/c/d").write_bytes(b"123")
    assert [(entry.path.name, entry.size) for entry in cache.cache_entries()] == [
        ("a", 5),
        ("b", 3),
    ]
