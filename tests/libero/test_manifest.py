"""The comparison of asset folders with the list of LIBERO's own files."""

from __future__ import annotations

import hashlib
import os
import re

import pytest

from srpo_env.libero import cache
from srpo_env.libero import manifest as module
from srpo_env.libero.manifest import (
    AssetFile,
    altered_files,
    first_few,
    manifest,
    missing_files,
)
from srpo_env.libero.suites import SUITES


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with three files, and a manifest that lists them."""
    contents = {"a.xml": b"<mujoco/>", "b/c.png": b"pixels", "b/d.msh": b"mesh"}
    suites = {"a.xml": ("libero_goal", "libero_10"), "b/c.png": ("libero_goal",), "b/d.msh": ()}
    files = tuple(
        AssetFile(path, len(content), hashlib.sha256(content).hexdigest(), suites[path])
        for path, content in contents.items()
    )
    monkeypatch.setattr(module, "manifest", lambda: files)
    for owner in (module, cache):
        monkeypatch.setattr(owner, "cache_folder", lambda: tmp_path / "cache")
    folder = tmp_path / "assets"
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def test_the_manifest_lists_liberos_585_files():
    files = manifest()
    assert len({file.path for file in files}) == len(files) == 585
    assert [file.path for file in files] == sorted(file.path for file in files)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0 for file in files)
    assert {suite for file in files for suite in file.suites} == set(SUITES)


def test_files_of_a_suite_are_known():
    (milk,) = [f for f in manifest() if f.path == "stable_hope_objects/milk/milk.xml"]
    assert "libero_object" in milk.suites
    assert "libero_spatial" not in milk.suites


def test_an_equal_folder_has_no_missing_or_altered_files(folder):
    assert missing_files(folder) == []
    assert altered_files(folder) == []


def test_missing_files_are_listed_for_all_files_or_for_suites(folder):
    (folder / "b/c.png").unlink()
    (folder / "b/d.msh").unlink()
    assert missing_files(folder) == ["b/c.png", "b/d.msh"]
    assert missing_files(folder, ["libero_goal"]) == ["b/c.png"]
    assert missing_files(folder, ["libero_10"]) == []
    assert altered_files(folder) == []  # a missing file is not an altered one


@pytest.mark.parametrize("content", [b"longer than before", b"nixels"], ids=["size", "content"])
def test_altered_files_are_listed(folder, content):
    (folder / "b/c.png").write_bytes(content)
    assert altered_files(folder) == ["b/c.png"]


def test_files_that_libero_does_not_have_are_ignored(folder):
    (folder / "extra.txt").write_text("not LIBERO's")
    assert altered_files(folder) == []


def test_a_change_is_noticed_after_a_cached_result(folder):
    assert altered_files(folder) == []
    (folder / "b/c.png").write_bytes(b"nixels")
    assert altered_files(folder) == ["b/c.png"]
    (folder / "b/c.png").write_bytes(b"pixels")
    assert altered_files(folder) == []


def test_read_all_finds_a_change_that_keeps_size_and_time(folder):
    assert altered_files(folder) == []
    file = folder / "b/c.png"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"nixels")
    os.utime(file, ns=times)
    assert altered_files(folder) == []
    assert altered_files(folder, read_all=True) == ["b/c.png"]
    assert altered_files(folder) == ["b/c.png"]


def test_an_altered_cached_result_is_replaced(folder, tmp_path):
    (folder / "b/c.png").write_bytes(b"nixels")
    altered_files(folder)
    (cached,) = (tmp_path / "cache/verified-assets").iterdir()
    stored = cached.read_bytes()
    for content in (b"", b"[]", stored[:-1], stored.replace(b'"b/c.png"', b"")):
        assert content != stored
        cached.write_bytes(content)
        assert altered_files(folder) == ["b/c.png"]
    assert cached.read_bytes() == stored


def test_without_a_cache_the_files_are_compared_each_time(folder, tmp_path, monkeypatch):
    (tmp_path / "cache").touch()  # a file, so nothing can be written below it
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    assert altered_files(folder) == []
    (folder / "b/c.png").write_bytes(b"nixels")
    assert altered_files(folder) == ["b/c.png"]


def test_long_lists_are_shortened():
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.libero
@pytest.mark.parametrize("suite", SUITES)
def test_the_files_of_a_suite_are_those_that_its_tasks_load(
    suite, libero_assets, tmp_path, monkeypatch
):
    from srpo_env.libero.assets import covered_suites, resolve_assets
    from srpo_env.libero.building import check_scene
    from srpo_env.libero.suites import tasks_of

    needed = [file.path for file in manifest() if suite in file.suites]
    for path in needed:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(libero_assets / path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    assert suite in covered_suites(resolve_assets())
    for task in (tasks_of(suite)[0], tasks_of(suite)[-1]):
        check_scene(task)  # raises an error if a file is missing
    # Folders alone are not enough: the suite is not covered without any one of the files.
    for path in needed:
        (tmp_path / path).unlink()
        assert missing_files(tmp_path, [suite]) == [path]
        (tmp_path / path).symlink_to(libero_assets / path)
