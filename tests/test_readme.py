"""README's Python runs as it stands there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import python_blocks

README = Path(__file__).parent.parent / "README.md"


def test_there_is_an_example():
    assert python_blocks(README.read_text())


@pytest.mark.libero
@pytest.mark.slow
def test_the_example_runs_as_a_script(tmp_path):
    script = tmp_path / "example.py"
    script.write_text("\n".join([*python_blocks(README.read_text()), "print(rewards.shape)"]))
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "(10, 8)" in done.stdout
