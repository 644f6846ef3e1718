from __future__ import annotations

import logging

import pytest

from srpo_env.cli import main as cli
from srpo_env.libero import placeholders
from srpo_env.libero.manifest import manifest

pytestmark = pytest.mark.libero


def test_show_prints_kind_source_folder_and_suites(monkeypatch, tmp_path, capsys):
    placeholders.generate(tmp_path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    assert cli.main(["assets"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""  # the warning would repeat what is printed
    lines = shown.out.splitlines()
    assert lines[:4] == [
        "kind    placeholder",
        "source  LIBERO_ASSETS",
        f"folder  {tmp_path}",
        "suites  libero_object",
    ]
    assert "pip install 'srpo-env[assets]'" in " ".join(lines[4:])


def test_show_names_altered_files(monkeypatch, tmp_path, capsys):
    for file in manifest():
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).touch()
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    assert cli.main(["assets"]) == 0
    shown = capsys.readouterr().out
    assert "kind    modified" in shown
    assert f"585 files differ from LIBERO's: {manifest()[0].path}, " in shown


def test_verify_lists_missing_and_altered_files(tmp_path, capsys):
    kept, *others = manifest()
    (tmp_path / kept.path).parent.mkdir()
    (tmp_path / kept.path).write_text("not LIBERO's")
    assert cli.main(["assets", "verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("altered")] == [f"altered  {kept.path}"]
    missing = [line for line in lines if line.startswith("missing")]
    assert missing == [f"missing  {file.path}" for file in others]
    assert lines[-1] == (
        f"{tmp_path}: 0 of LIBERO's 585 files are equal, 584 are missing, 1 are altered"
    )


def test_verify_accepts_liberos_own_files(libero_assets, capsys):
    assert cli.main(["assets", "verify", str(libero_assets)]) == 0
    assert "585 of LIBERO's 585 files are equal" in capsys.readouterr().out


def test_verify_needs_an_existing_folder(tmp_path, capsys):
    assert cli.main(["assets", "verify", str(tmp_path / "lost")]) == 2
    assert "`folder` must be an existing folder, got" in capsys.readouterr().err


def test_verify_refuses_placeholders(monkeypatch, tmp_path, capsys):
    placeholders.generate(tmp_path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    assert cli.main(["assets", "verify"]) == 2
    assert "the assets in use are placeholders" in capsys.readouterr().err


def test_only_verify_takes_a_folder(tmp_path, capsys):
    assert cli.main(["assets", "show", str(tmp_path)]) == 2
    assert "`show` takes no folder" in capsys.readouterr().err


def test_the_log_level_is_restored_after_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    logger = logging.getLogger("srpo_env.libero.assets")
    level = logger.level
    assert cli.main(["assets"]) == 2
    assert logger.level == level


def test_a_missing_folder_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    assert cli.main(["assets"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("srpo-env assets: LIBERO_ASSETS must ")
    assert shown.count("\n") == 1


def test_a_download_without_a_network_is_one_sentence_with_the_alternatives(monkeypatch, capsys):
    def snapshot_download(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert cli.main(["assets", "download"]) == 2
    shown = capsys.readouterr().err
    assert "no route to host" in shown
    assert "set LIBERO_ASSETS" in shown
