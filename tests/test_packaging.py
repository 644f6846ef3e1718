"""What a user gets from `pip install`: the archives, what they ask for, what they import."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import srpo_env
from srpo_env.cli.doctor import HF_LIBERO

ROOT = Path(__file__).resolve().parents[1]
# What --track sends curves to is the user's own to install.
OWN_OR_OPTIONAL = {"srpo_env", "wandb"}
EXTRAS = {"encoders", "libero", "agents", "sb3", "docs", "dev"}

# Prints what was loaded and what it cost, in seconds of processor time: a busy machine adds none.
IMPORT_ALONE = """
import sys, time
start = time.process_time()
import srpo_env
print(time.process_time() - start, *sorted({module.partition(".")[0] for module in sys.modules}))
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Folder with the source archive, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(archives):
    (path,) = archives.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Metadata.from_email(archive.read(name))


def imported_modules(file):
    """Top-level names that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    from_imports = {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }
    return {name.partition(".")[0] for name in plain | from_imports}


def is_asked_for(requirement, extra=""):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "srpo_env").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == here
    assert "srpo_env/py.typed" in packed
    for kind in ("safetensors", "json"):
        assert any(name.startswith("srpo_env/weights/") and name.endswith(kind) for name in packed)


def test_the_wheel_has_the_version_of_the_package(metadata):
    assert str(metadata.version) == srpo_env.__version__


def test_without_extras_it_asks_for_numpy_gymnasium_and_scikit_learn_only(metadata):
    asked_for = {
        requirement.name for requirement in metadata.requires_dist if is_asked_for(requirement)
    }
    assert asked_for == {"numpy", "gymnasium", "scikit-learn"}
    assert set(metadata.provides_extra) == EXTRAS


def test_every_requirement_is_pinned_at_a_version_that_it_allows(metadata):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in constraints
        if is_asked_for(pin)
    }
    for requirement in [*metadata.requires_dist, Requirement(HF_LIBERO)]:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement.name


def test_every_package_that_the_code_imports_is_asked_for(metadata):
    distributions = importlib.metadata.packages_distributions()
    asked_for = {canonicalize_name(requirement.name) for requirement in metadata.requires_dist}
    asked_for.add(canonicalize_name(Requirement(HF_LIBERO).name))
    missing = {
        module
        for folder in ("srpo_env", "agents")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported_modules(file) - set(sys.stdlib_module_names) - OWN_OR_OPTIONAL
        if not asked_for & {canonicalize_name(name) for name in distributions.get(module, [])}
    }
    assert not missing


def test_every_python_that_the_wheel_supports_has_each_package_pinned_once(metadata):
    assert "3.10" in metadata.requires_python
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = [Requirement(line) for line in lines if not line.startswith("#")]
    for python_version in ("3.10", "3.11", "3.12", "3.13"):
        pinned = [
            pin.name
            for pin in constraints
            if pin.marker is None or pin.marker.evaluate({"python_version": python_version})
        ]
        assert len(pinned) == len(set(pinned))


def test_importing_it_is_quick_silent_and_loads_nothing_heavy():
    runs = [run(sys.executable, "-c", IMPORT_ALONE, cwd=ROOT) for _ in range(3)]
    assert [done.stderr for done in runs] == [""] * 3
    seconds, *modules = min(
        (done.stdout.split() for done in runs), key=lambda words: float(words[0])
    )
    heavy = {"torch", "mujoco", "libero", "robosuite", "transformers", "sklearn", "matplotlib"}
    assert not heavy & set(modules)
    assert float(seconds) < 0.5


@pytest.mark.slow
def test_installed_alone_it_imports_and_its_command_runs(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    pip = (python, "-m", "pip")
    installed = run(*pip, "install", "--constraint", ROOT / "constraints.txt", wheel)
    if "Failed to establish a new connection" in installed.stderr:
        pytest.skip("needs a package index to install NumPy, Gymnasium and scikit-learn from")
    assert installed.returncode == 0, installed.stderr
    imported = run(python, "-c", IMPORT_ALONE, cwd=tmp_path)
    assert imported.stderr == ""
    listed = run(*pip, "list", "--format=freeze").stdout
    assert not {"torch", "mujoco", "robosuite", "hf-libero"} & {
        line.partition("==")[0] for line in listed.split()
    }
    doctor = run(tmp_path / "venv/bin/srpo-env", "doctor", cwd=tmp_path)
    assert doctor.returncode == 1
    assert "pip install 'srpo-env[libero,agents]'" in doctor.stdout
    assert "Traceback" not in doctor.stderr
