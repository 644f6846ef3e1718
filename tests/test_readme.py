"""The README: its example runs as printed, its links lead somewhere, and it stays short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.snippets import fenced_blocks, local_links

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUICKSTART = ROOT / "examples" / "quickstart.py"


def test_first_example_is_the_quickstart():
    source = QUICKSTART.read_text()
    docstring = ast.parse(source).body[0]
    code = "\n".join(source.splitlines()[docstring.end_lineno :]).strip()
    assert fenced_blocks(README, "python")[0].strip() == code


def test_quickstart_prints_what_the_readme_shows():
    command = [sys.executable, str(QUICKSTART)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == fenced_blocks(README, "text")[0].strip()


def test_quickstart_pays_failures_by_how_near_they_came():
    reached, before, after = (
        [float(number) for number in re.findall(r"[\d.]+", line.split(":")[1])]
        for line in fenced_blocks(README, "text")[0].strip().splitlines()
    )
    assert reached == sorted(reached)
    assert set(before) == {0.0, 1.0}
    failures = [reward for reward, paid in zip(after, before, strict=True) if paid == 0.0]
    assert 0.0 < failures[0] < failures[-1] < 0.8
    assert failures == sorted(set(failures))  # every step further earns more
    assert set(after) - set(failures) == {1.0}


def test_quickstart_needs_the_core_install_only():
    tree = ast.parse(QUICKSTART.read_text())
    imported = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"gymnasium", "numpy", "srpo_env"}


def test_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120


def test_links_lead_to_files():
    missing = [link for link in local_links(README) if not (ROOT / link).exists()]
    assert not missing
