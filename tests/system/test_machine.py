from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import pytest

from srpo_env.system import machine


def test_container_limits_override_the_size_of_the_host(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(machine, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "CGROUP_MEMORY_LIMIT", tmp_path / "memory.max")
    assert machine.usable_cores() == 0.5
    assert machine.usable_memory() == 2**30


def test_container_without_limits_has_the_size_of_the_host(monkeypatch, tmp_path):
    cores, memory = machine.usable_cores(), machine.usable_memory()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "CGROUP_CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "CGROUP_MEMORY_LIMIT", tmp_path / "memory.max")
    assert (machine.usable_cores(), machine.usable_memory()) == (cores, memory)


def test_cpu_name_is_read_from_the_system(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    assert machine.cpu_name() == "Abacus 9000"


def test_commit_is_none_outside_the_checkout_of_the_package(monkeypatch, tmp_path):
    assert machine.commit() is None or re.fullmatch(r"[0-9a-f]{7,}(\+changes)?", machine.commit())
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.commit() is None


@pytest.mark.libero
def test_description_of_the_machine_can_be_stored_as_json(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    description = json.loads(json.dumps(machine.describe_machine()))
    assert description["cores"] > 0
    assert description["robosuite"] == "1.4.0"
    assert description["environment"]["OMP_NUM_THREADS"] == "3"


# --- triton beside Mesa ---

# Two libraries that export the same function, as libtriton and Mesa's libLLVM do. The fake triton
# must call its own, which returns 2.
OWN_FUNCTION = """
int answer(void) { return 2; }
int call_answer(void) { return answer(); }
"""
MESA_FUNCTION = "int answer(void) { return 1; }"
LOAD_IN_ORDER = """
import ctypes, sys
from srpo_env.system.machine import load_triton
_, mesa, triton, *order = sys.argv
for name in order:
    load_triton() if name == "load_triton" else ctypes.CDLL(mesa, ctypes.RTLD_GLOBAL)
print(ctypes.CDLL(triton).call_answer())
"""


@pytest.fixture(scope="module")
def same_symbols(tmp_path_factory):
    """Folder with a package ``triton`` and a library that looks like Mesa's LLVM."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: cc")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "triton/_C").mkdir(parents=True)
    (folder / "triton/__init__.py").write_text("raise ImportError('not needed')")
    files = {"triton/_C/libtriton.so": OWN_FUNCTION, "libLLVM-15.so.1": MESA_FUNCTION}
    for name, code in files.items():
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name)]
        subprocess.run(command, input=code, text=True, check=True)
    return folder


@pytest.mark.parametrize(
    ("order", "answer"),
    [
        (["mesa"], "1"),  # the fault that `load_triton` prevents
        (["load_triton", "mesa"], "2"),
        (["mesa", "load_triton"], "2"),
        (["load_triton"], "2"),
    ],
)
def test_triton_keeps_its_own_llvm(same_symbols, monkeypatch, order, answer):
    monkeypatch.setenv("PYTHONPATH", str(same_symbols), prepend=":")
    libraries = [same_symbols / "libLLVM-15.so.1", same_symbols / "triton/_C/libtriton.so"]
    command = [sys.executable, "-c", LOAD_IN_ORDER, *map(str, libraries), *order]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (answer, "")


RENDER = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current()"
LOAD = "from srpo_env.libero.gl import choose_gl; choose_gl()"


@pytest.mark.libero
@pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="needs triton: pip install triton"
)
@pytest.mark.parametrize("order", [(LOAD, RENDER), (RENDER, LOAD)])
@pytest.mark.parametrize("gl", ["osmesa", "egl"])
def test_triton_can_be_imported_after_mujoco(monkeypatch, gl, order):
    monkeypatch.setenv("MUJOCO_GL", gl)
    renders = subprocess.run([sys.executable, "-c", RENDER], capture_output=True, text=True)
    if renders.returncode != 0:
        pytest.skip(f"needs a renderer for MUJOCO_GL={gl}")
    code = "; ".join([*order, "import triton.language"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
