from __future__ import annotations

import logging

import pytest

from srpo_env.cli import main as cli
from srpo_env.libero import placeholders

pytestmark = pytest.mark.libero


def test_it_shows_which_assets_are_used_and_for_which_suites(monkeypatch, tmp_path, capsys):
    placeholders.generate(tmp_path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    assert cli.main(["assets"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == [
        "kind    stand-in (LIBERO_ASSETS)",
        f"folder  {tmp_path}",
        "suites  libero_object",
    ]
    assert "`srpo-env assets download`" in " ".join(shown[3:])


def test_it_leaves_the_log_as_it_was(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    logger = logging.getLogger("srpo_env.libero.assets")
    level = logger.level
    assert cli.main(["assets"]) == 2
    assert logger.level == level


def test_a_broken_folder_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path / "lost"))
    assert cli.main(["assets"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("srpo-env assets: LIBERO_ASSETS must ")
    assert shown.count("\n") == 1


def test_a_download_without_a_network_is_one_sentence_with_the_way_out(monkeypatch, capsys):
    def snapshot_download(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert cli.main(["assets", "download"]) == 2
    shown = capsys.readouterr().err
    assert "no route to host" in shown
    assert "set LIBERO_ASSETS" in shown
