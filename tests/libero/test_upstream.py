"""Importing the simulator neither writes a shared log file nor warns."""

import os
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


ROTATE = """
import resource
from srpo_env.libero.assets import prepare_libero
from srpo_env.libero.gl import choose_gl
from srpo_env.libero.upstream import import_upstream
choose_gl()
prepare_libero()
import_upstream()
import numpy as np
from robosuite.utils.transform_utils import mat2quat, quat2mat
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can be written, as on a full disk
print(mat2quat(np.eye(3)), quat2mat(np.array([0.0, 0.0, 0.0, 1.0])).tolist())
"""


def test_on_a_full_disk_compiled_functions_are_used_without_numbas_cache(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ROTATE],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    identity = "[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]"
    assert (done.returncode, done.stdout) == (0, f"[0. 0. 0. 1.] {identity}\n"), done.stderr
    assert done.stderr.count("numba cannot write to its cache") == 1
