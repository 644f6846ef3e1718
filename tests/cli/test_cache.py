import os
import time

import pytest

from srpo_env.cli import main as cli
from srpo_env.libero import cache
from srpo_env.libero.assets import placeholder_folder
from srpo_env.libero.visuals import decimation_folder

pytestmark = pytest.mark.libero

CURRENT = (placeholder_folder(), decimation_folder(), "datasets", "locks", ".placeholders-new")
OUTDATED = (
    "placeholders-0123456789ab",
    "decimated-1-2.3.7-0.1.0",
    "thin-meshes",
    "libero-config-0123456789ab",
    ".placeholders-abandoned",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder with current and outdated entries of a megabyte each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cache_folder.cache_clear()
    folder = cache.cache_folder()
    for name in CURRENT + OUTDATED:
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(bytes(1_000_000))
    (folder / "libero-config-0123456789ab/config.yaml").write_text('{"assets": "/gone"}')
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(folder / ".placeholders-abandoned", (two_days_ago, two_days_ago))
    yield folder
    cache.cache_folder.cache_clear()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_lists_entries_with_sizes_and_removes_nothing(folder, capsys):
    assert cli.main(["cache"]) == 0
    first, *lines, total, _ = capsys.readouterr().out.splitlines()
    assert first == str(folder)
    assert {line.split()[2] for line in lines} == set(CURRENT + OUTDATED)
    assert {line.split()[2] for line in lines if line.endswith(" outdated")} == set(OUTDATED)
    assert all(line.startswith("     1.0 MB  ") for line in lines)
    assert total == "    10.0 MB  in total, of which 5.0 MB are outdated"
    assert names(folder) == sorted(CURRENT + OUTDATED)


def test_clean_removes_what_is_outdated(folder, capsys):
    assert cli.main(["cache", "clean"]) == 0
    assert names(folder) == sorted(CURRENT)
    assert "removed 5 entries" in capsys.readouterr().out


def test_clean_all_removes_everything_in_the_folder(folder, tmp_path):
    (tmp_path / "other").touch()
    (folder / "link").symlink_to(tmp_path / "other")
    assert cli.main(["cache", "clean", "--all"]) == 0
    assert names(folder) == []
    assert names(tmp_path) == ["other", "srpo-env"]


def test_all_without_clean_is_an_error(folder, capsys):
    assert cli.main(["cache", "--all"]) == 2
    assert "`--all` belongs to `clean`" in capsys.readouterr().err
