"""Where LIBERO's assets come from, and how LIBERO is made to use them without asking."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_env.libero import assets, placeholders

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def complete_folder(tmp_path_factory):
    """A folder with every file that the tasks load, which does not say that it was generated."""
    folder = tmp_path_factory.mktemp("assets")
    placeholders.generate(folder)
    (folder / "STAND-INS.txt").unlink()
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty home and an empty LIBERO package; returns the folder with both."""
    package = tmp_path / "site" / "libero"
    (package / "libero").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("LIBERO_ASSETS", "LIBERO_CONFIG_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assets.cache_folder.cache_clear()
    assets._announce_standins.cache_clear()
    yield tmp_path
    assets.cache_folder.cache_clear()


def python(code, **environment):
    """Starts ``code`` in a fresh interpreter with nobody at the keyboard."""
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


def test_the_named_folder_comes_first(machine, monkeypatch, complete_folder):
    shutil.copytree(complete_folder, machine / "site/libero/libero/assets")
    monkeypatch.setenv("LIBERO_ASSETS", str(complete_folder))
    found = assets.resolve_assets()
    assert found == assets.LiberoAssets(complete_folder, "real", "LIBERO_ASSETS")


def test_the_installed_package_comes_before_downloads(machine, complete_folder):
    shutil.copytree(complete_folder, machine / "home/.cache/libero/assets")
    inside = shutil.copytree(complete_folder, machine / "site/libero/libero/assets")
    assert assets.resolve_assets() == assets.LiberoAssets(inside, "real", "installed package")


def test_what_libero_has_downloaded_is_found(machine, complete_folder):
    download = shutil.copytree(complete_folder, machine / "home/.cache/libero/assets")
    assert assets.resolve_assets() == assets.LiberoAssets(download, "real", "download")


def test_the_hugging_face_cache_is_found(machine, complete_folder):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = machine / "hub/datasets--lerobot--libero-assets"
    snapshot = shutil.copytree(complete_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert assets.resolve_assets() == assets.LiberoAssets(snapshot, "real", "download")


def test_an_incomplete_download_is_passed_over(machine, complete_folder):
    download = shutil.copytree(complete_folder, machine / "home/.cache/libero/assets")
    (download / "stable_hope_objects/milk/texture.png").unlink()
    assert assets.resolve_assets().kind == "stand-in"


def test_without_any_other_stand_ins_are_generated_once(machine, caplog):
    with caplog.at_level(logging.INFO, logger=assets.__name__):
        first, second = assets.resolve_assets(), assets.resolve_assets()
    assert first == second
    assert (first.kind, first.source) == ("stand-in", "generated")
    assert first.path.is_relative_to(machine / "home/.cache/srpo-env")
    assert assets.missing_files(first.path) == []
    assert len(caplog.records) == 1
    assert "srpo-env assets download" in caplog.records[0].getMessage()


def test_a_named_folder_of_stand_ins_is_not_called_real(machine, monkeypatch, caplog):
    generated = assets.resolve_assets().path
    monkeypatch.setenv("LIBERO_ASSETS", str(generated))
    found = assets.resolve_assets()
    assert (found.kind, found.source) == ("stand-in", "LIBERO_ASSETS")


def test_damaged_stand_ins_are_generated_anew(machine):
    folder = assets.resolve_assets().path
    (folder / "scenes/libero_floor_base_style.xml").unlink()
    assert assets.resolve_assets().path == folder
    assert assets.missing_files(folder) == []
    assert [entry for entry in folder.parent.iterdir() if entry.name.startswith(".")] == []


def test_a_missing_libero_says_how_to_install_it(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "libero", None)  # what an import then finds is nothing
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps hf-libero"):
        assets.resolve_assets()


# --- A broken LIBERO_ASSETS is an error, never a fallback ---------------------------------------


def test_a_named_folder_that_does_not_exist_is_an_error(machine, monkeypatch):
    monkeypatch.setenv("LIBERO_ASSETS", str(machine / "typo"))
    with pytest.raises(FileNotFoundError, match=r"LIBERO_ASSETS must name a folder.*typo.*exist"):
        assets.resolve_assets()


def test_a_named_file_is_an_error(machine, monkeypatch):
    (machine / "assets.zip").touch()
    monkeypatch.setenv("LIBERO_ASSETS", str(machine / "assets.zip"))
    with pytest.raises(FileNotFoundError, match=r"assets\.zip.*is not a folder"):
        assets.resolve_assets()


@pytest.mark.parametrize(
    "file",
    [
        "scenes/libero_floor_base_style.xml",
        "textures/light-gray-floor-tile.png",
        "stable_hope_objects/ketchup/visual.obj",
        "stable_scanned_objects/basket/texture.png",
    ],
)
def test_a_named_folder_that_lacks_a_file_is_an_error(machine, monkeypatch, complete_folder, file):
    broken = shutil.copytree(complete_folder, machine / "broken")
    (broken / file).unlink()
    monkeypatch.setenv("LIBERO_ASSETS", str(broken))
    with pytest.raises(FileNotFoundError, match=f"lacks {file}: run `srpo-env assets download`"):
        assets.resolve_assets()


def test_an_empty_named_folder_counts_what_is_missing(machine, monkeypatch):
    (machine / "empty").mkdir()
    monkeypatch.setenv("LIBERO_ASSETS", str(machine / "empty"))
    # The scene, eleven objects, two textures: three are shown.
    with pytest.raises(FileNotFoundError, match=r"lacks .* and 11 more"):
        assets.resolve_assets()


def test_a_truncated_xml_file_counts_as_missing(machine, complete_folder):
    broken = shutil.copytree(complete_folder, machine / "broken")
    (broken / "stable_hope_objects/milk/milk.xml").write_text("<mujoco>")
    assert assets.missing_files(broken) == ["stable_hope_objects/milk/milk.xml"]


# --- Other suites -------------------------------------------------------------------------------


def test_stand_ins_cover_libero_object_only(tmp_path):
    generated = assets.LiberoAssets(tmp_path, "stand-in", "generated")
    assets.check_suite(generated, "libero_object")
    with pytest.raises(FileNotFoundError, match=r"'libero_goal' needs LIBERO's own: run"):
        assets.check_suite(generated, "libero_goal")


def test_real_assets_must_have_the_folders_of_other_suites(complete_folder):
    partial = assets.LiberoAssets(complete_folder, "real", "LIBERO_ASSETS")
    with pytest.raises(FileNotFoundError, match="lacks: articulated_objects, turbosquid_objects"):
        assets.check_suite(partial, "libero_10")


# --- Several processes, homes that cannot be written --------------------------------------------


@pytest.mark.libero
def test_processes_that_start_together_share_one_folder(tmp_path):
    code = "from srpo_env.libero import assets; print(assets.resolve_assets().path)"
    started = [
        python(code, HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "cache"))
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=60) for process in started]
    folders = {output.strip() for output, _ in ended}
    assert len(folders) == 1, ended
    folder = Path(folders.pop())
    assert assets.missing_files(folder) == []
    assert list(folder.parent.iterdir()) == [folder]  # no half-made folder is left behind


def test_a_home_that_cannot_be_written_leads_to_the_temporary_folder(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("HOME", str(machine / "file/home"))  # below a file nothing can be made
    monkeypatch.setattr("tempfile.tempdir", str(machine))
    folder = assets.cache_folder()
    assert folder.parent == machine
    assert folder.stat().st_mode & 0o077 == 0  # nobody else can look or write


def test_a_temporary_folder_of_another_user_is_not_trusted(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("HOME", str(machine / "file/home"))
    monkeypatch.setattr("tempfile.tempdir", str(machine))
    somebody_else = os.getuid() + 1
    foreign = machine / f"srpo-env-{somebody_else}"
    foreign.mkdir()
    monkeypatch.setattr("os.getuid", lambda: somebody_else)
    assert assets.cache_folder() != foreign


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
def test_the_first_import_neither_asks_nor_writes_to_the_home_directory(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    process = python(IMPORT_LIBERO, HOME=str(home), XDG_CACHE_HOME=str(tmp_path / "cache"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "(Y/N)" not in output
    assert list(home.rglob("*")) == []


@pytest.mark.libero
@pytest.mark.parametrize("named", [False, True], ids=["in the home directory", "by variable"])
def test_a_configuration_of_the_users_own_stays_and_keeps_its_datasets(tmp_path, named):
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


def test_numba_keeps_its_cache_where_it_can_write(machine, monkeypatch):
    (machine / "site/robosuite").mkdir()
    (machine / "site/robosuite/__init__.py").touch()
    monkeypatch.delitem(sys.modules, "robosuite", raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", str(machine))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assets._redirect_caches()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr("os.access", lambda *_: False)  # as in a package folder of the system's
    assets._redirect_caches()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).is_relative_to(assets.cache_folder())


# --- Download -----------------------------------------------------------------------------------


def test_a_download_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        assets.download_assets()


def test_a_download_that_fails_says_why_and_what_else_to_do(machine, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    with pytest.raises(ConnectionError, match=r"Network is unreachable.*set LIBERO_ASSETS"):
        assets.download_assets()


def test_a_download_is_checked_and_found_again(machine, monkeypatch, complete_folder):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(complete_folder))
    assert assets.download_assets() == assets.LiberoAssets(complete_folder, "real", "download")
    assert assets.resolve_assets() == assets.LiberoAssets(complete_folder, "real", "download")


def test_a_download_that_lacks_files_is_an_error(machine, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(machine))
    with pytest.raises(FileNotFoundError, match=r"The download of lerobot/libero-assets must hold"):
        assets.download_assets()
