"""The documentation: complete code blocks run and print what is shown, links lead to files."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import fenced_blocks, local_links, python_blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
PAGES_WITH_CODE = [page for page in PAGES if python_blocks((DOCS / page).read_text())]


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_code_of_a_page_runs_and_prints_what_is_shown(page, tmp_path):
    text = (DOCS / page).read_text()
    script = tmp_path / "page.py"
    script.write_text("\n".join(python_blocks(text)))
    for module in re.findall(r"^(?:from|import) (\w+)", script.read_text(), re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    process = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    for output in fenced_blocks(text, "text"):
        assert output in process.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_files(page):
    folder = (DOCS / page).parent
    links = local_links((DOCS / page).read_text())
    assert not [link for link in links if link and not (folder / link).exists()]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert not [page for page in PAGES if f": {page}\n" not in navigation]


def test_site_builds_without_warnings_and_without_network(tmp_path):
    if (
        importlib.util.find_spec("mkdocs") is None
        or importlib.util.find_spec("mkdocstrings") is None
    ):
        pytest.skip("needs the extra [docs]: run `make docs` once")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > len(PAGES)
    loaded = [
        url
        for page in pages
        for url in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page)
    ]
    assert not loaded
