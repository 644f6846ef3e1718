"""Importing the simulator neither writes a shared log file nor warns."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.libero

IMPORT = """
import logging

def refuse(*args, **kwargs):
    raise PermissionError("/tmp/robosuite.log belongs to another user")

logging.FileHandler.__init__ = refuse
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.upstream import import_upstream
choose_gl()
prepare_libero()
import_upstream()
import robosuite, robosuite.macros
from robosuite.utils import binding_utils  # reads the settings
assert robosuite.macros is binding_utils.macros
robosuite.make, robosuite.macros.CONSOLE_LOGGING_LEVEL
"""


@pytest.mark.parametrize("options", [[], ["-W", "error"]], ids=["", "warnings are errors"])
def test_the_import_writes_no_log_file_and_does_not_warn(options):
    done = subprocess.run(
        [sys.executable, *options, "-c", IMPORT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "robosuite" not in done.stderr
