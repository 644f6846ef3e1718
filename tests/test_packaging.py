"""What users get from `pip install`: archives, metadata, and an import without optional extras."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import srpo_env
from srpo_env.cli.main import COMMANDS, NEEDED_EXTRAS
from srpo_env.system.machine import EXTRAS, HF_LIBERO, install_command, require_extra
from tests.test_offline import write_libero

ROOT = Path(__file__).resolve().parents[1]
PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Users install what --track sends curves to, and what --four-bit needs.
OWN_OR_OPTIONAL = {"bitsandbytes", "srpo_env", "wandb"}
# Parts of the encoders and agents, which explain what is missing.
INTERNAL = re.compile(
    r"srpo_env\.(benchmarks\.|cli\.|training\.|encoders\.(clips|collapse|preprocessing|projection)$)"
)

# Prints what was loaded and the processor time in seconds, which a busy machine does not increase.
IMPORT_ALONE = """
import sys, time
start = time.process_time()
import srpo_env
print(time.process_time() - start, *sorted({module.partition(".")[0] for module in sys.modules}))
"""
IMPORT_ALL = """
import importlib, pkgutil, srpo_env
for module in pkgutil.walk_packages(srpo_env.__path__, "srpo_env.", onerror=lambda name: None):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, "|", error)
    else:
        print(module.name, "|")
"""
REWARD_ONE_GROUP = """
import gymnasium, numpy as np
from gymnasium.vector import SyncVectorEnv
from srpo_env import PixelEncoder, SelfReferentialProgressWrapper

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    def look(self):
        image = np.zeros((8, 8, 3), np.uint8)
        image[:, self.x] = 255
        return image
    def reset(self, seed=None, options=None):
        self.x = self.time = 0
        return self.look(), {}
    def step(self, action):
        self.x += int(action)
        self.time += 1
        success = self.x == 4
        return self.look(), float(success), success, self.time == 4 and not success, {
            "is_success": success}

envs = SelfReferentialProgressWrapper(SyncVectorEnv([Walk] * 3), PixelEncoder(), group_size=3)
envs.reset(seed=0)
rewards = np.array([envs.step(np.array([1, t < 3, t < 1]))[1] for t in range(4)])
envs.rewrite(rewards)
print(*rewards.sum(axis=0).round(2))
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, **options)


def pins_for(python_version):
    """Returns the pinned packages of a Python version, in the order of the file."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = [Requirement(line) for line in lines if not line.startswith("#")]
    environment = {"python_version": python_version}
    return [pin for pin in constraints if pin.marker is None or pin.marker.evaluate(environment)]


def imported_modules(file):
    """Returns the top-level names of all imports in a file."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    from_imports = {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }
    return {name.partition(".")[0] for name in plain | from_imports}


def is_required(requirement, extra=""):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


# --- Archives and metadata ---


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


def test_wheel_contains_the_whole_package_and_nothing_else(wheel):
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


def test_package_index_accepts_the_archives(archives):
    twine = pytest.importorskip("twine", reason="twine is not installed: pip install '.[dev]'")
    done = run(sys.executable, "-m", twine.__name__, "check", "--strict", *archives.iterdir())
    assert done.returncode == 0, done.stdout + done.stderr


def test_metadata_describes_the_package(metadata):
    assert str(metadata.version) == srpo_env.__version__
    assert metadata.license_expression == "MIT"
    assert {f"Programming Language :: Python :: {version}" for version in PYTHON_VERSIONS} <= set(
        metadata.classifiers
    )
    assert "Typing :: Typed" in metadata.classifiers
    assert len(metadata.summary) < 120


def test_core_requires_numpy_scipy_scikit_learn_and_gymnasium_only(metadata):
    required = {
        requirement.name for requirement in metadata.requires_dist if is_required(requirement)
    }
    assert required == {"numpy", "scipy", "scikit-learn", "gymnasium"}


NAMES_ALL_PACKAGES = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="before Python 3.11, importlib.metadata knows the modules of some packages only",
)


@NAMES_ALL_PACKAGES
@pytest.mark.parametrize("extra", EXTRAS)
def test_modules_of_an_extra_are_those_that_it_requires(metadata, extra):
    distributions = importlib.metadata.packages_distributions()
    required = {
        canonicalize_name(requirement.name)
        for requirement in metadata.requires_dist
        if is_required(requirement, extra) and not is_required(requirement)
    }
    provided = [
        required & {canonicalize_name(name) for name in distributions[module]}
        for module in EXTRAS[extra]
    ]
    assert all(len(names) == 1 for names in provided), provided
    assert set().union(*provided) == required


def test_every_requirement_is_pinned_at_a_version_that_it_allows(metadata):
    current = "{}.{}".format(*sys.version_info)
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins_for(current)
    }
    for requirement in [*metadata.requires_dist, Requirement(HF_LIBERO)]:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement.name


@pytest.mark.skipif(
    os.environ.get("SRPO_ENV_VERSIONS") != "oldest", reason="runs in `make test-oldest`"
)
def test_the_lowest_versions_that_are_declared_are_installed(metadata):
    extras = {*EXTRAS, "agents", "sb3", "trl", "dev"}
    for requirement in metadata.requires_dist:
        if not any(is_required(requirement, extra) for extra in extras):
            continue  # the documentation
        (lowest,) = [spec for spec in requirement.specifier if spec.operator in (">=", "==")]
        installed = importlib.metadata.version(requirement.name)
        assert Version(installed) == Version(lowest.version), requirement


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_each_package_is_pinned_once(python_version):
    pinned = [pin.name for pin in pins_for(python_version)]
    assert len(pinned) == len(set(pinned))


@NAMES_ALL_PACKAGES
def test_every_imported_package_is_required(metadata):
    distributions = importlib.metadata.packages_distributions()
    required = {canonicalize_name(requirement.name) for requirement in metadata.requires_dist}
    required.add(canonicalize_name(Requirement(HF_LIBERO).name))
    missing = {
        module
        for folder in ("srpo_env", "agents")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported_modules(file) - set(sys.stdlib_module_names) - OWN_OR_OPTIONAL
        if not required & {canonicalize_name(name) for name in distributions.get(module, [])}
    }
    assert not missing


# --- Without extras ---


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """Runs Python in an environment with the wheel and the core's requirements, nothing else."""
    return environment(wheel, tmp_path_factory.mktemp("core"), *CORE)


CORE = ("numpy", "gymnasium", "scikit-learn")


def environment(wheel, site, *requirements):
    """Makes an environment without a download; its packages are links to those of this one."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    waiting = list(requirements)
    found = set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files if ".." not in file.parts}
        for top in tops - {"__pycache__", "bin"}:
            (site / top).symlink_to(distribution.locate_file(top))
        for requirement in map(Requirement, distribution.requires or []):
            if is_required(requirement):
                waiting.append(requirement.name)

    def run_python(*arguments):
        # -S: without the site-packages of this environment.
        variables = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(site)}
        return run(sys.executable, "-S", *arguments, cwd=site, env=variables)

    return run_python


def test_import_is_quick_and_silent_and_loads_nothing_heavy(core):
    runs = [core("-c", IMPORT_ALONE) for _ in range(3)]
    assert [done.stderr for done in runs] == [""] * 3
    seconds, *modules = min(
        (done.stdout.split() for done in runs), key=lambda words: float(words[0])
    )
    heavy = {"torch", "mujoco", "libero", "robosuite", "transformers", "sklearn", "matplotlib"}
    assert not heavy & set(modules)
    assert float(seconds) < 0.5


def test_core_rewards_failures(core):
    done = core("-c", REWARD_ONE_GROUP)
    assert done.stderr == ""
    success, near, far = map(float, done.stdout.split())
    assert success == 1.0
    assert 0.8 > near > far > 0.0


def test_every_module_imports_or_names_the_command_that_installs_what_is_missing(core):
    done = core("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    errors = dict(line.split(" | ") for line in done.stdout.splitlines() if line[-1] != "|")
    public = {name: error for name, error in errors.items() if not INTERNAL.match(name)}
    assert {
        "srpo_env.adapters.sb3_replay",
        "srpo_env.adapters.stable_baselines3",
        "srpo_env.encoders.vjepa2",
        "srpo_env.libero",
        "srpo_env.policy",
    } == set(public)
    for name, error in public.items():
        assert re.search(r"run `pip install 'srpo-env\[\w+\]'", error), (name, error)


@pytest.mark.parametrize("make", ["make", "make_vec"])
def test_libero_environments_name_the_command_that_installs_them(core, make):
    done = core("-c", f"import gymnasium, srpo_env; gymnasium.{make}('srpo_env/libero-object')")
    assert f"run `{install_command('libero')}`" in done.stderr


@pytest.mark.parametrize("command", [*sorted(NEEDED_EXTRAS), "check-reward", "relabel"])
def test_commands_name_the_command_that_installs_what_is_missing(core, command):
    recording = ["srpo_env/py.typed"]
    arguments = {"benchmark": ["reward"]}
    arguments |= dict.fromkeys(["relabel", "check-reward", "replay"], recording)
    arguments["prepare-policy"] = ["smolvlm", "folder", "--out", "policy"]
    arguments = arguments.get(command, [])
    done = core("-m", "srpo_env.cli.main", command, *arguments)
    assert done.returncode == 2
    assert "run `pip install 'srpo-env[" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [*COMMANDS, "benchmark sim", "benchmark reward"])
def test_all_commands_print_their_help_without_extras(core, command):
    done = core("-m", "srpo_env.cli.main", *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: srpo-env {command} " in done.stdout


def test_a_command_that_needs_single_packages_names_no_whole_extra(core, tmp_path):
    recording = write_libero(tmp_path / "walk_demo.hdf5", [(90, True), (80, False)])
    arguments = ["check-reward", "--encoder", "pixels", str(recording)]
    done = core("-m", "srpo_env.cli.main", *arguments)
    assert "No module named 'tqdm': run `pip install tqdm`" in done.stderr
    assert "srpo-env[" not in done.stderr


def test_recordings_can_be_rewarded_without_a_simulator_and_a_world_model(wheel, tmp_path):
    recording = write_libero(tmp_path / "walk_demo.hdf5", [(90, True), (80, False), (60, False)])
    run_python = environment(wheel, tmp_path, *CORE, "h5py")
    done = run_python("-m", "srpo_env.cli.main", "relabel", "--encoder", "pixels", recording)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_lists_what_training_needs(core):
    done = core("-m", "srpo_env.cli.main", "doctor")
    assert done.returncode == 1
    assert install_command("libero", "agents") in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_modules_of_an_extra_are_one_error(monkeypatch):
    monkeypatch.setitem(EXTRAS, "new", ("numpy", "no_such_package", "nor_this_one"))
    with pytest.raises(
        ModuleNotFoundError,
        match=r"A test needs .*\(no_such_package, nor_this_one\): run `pip install 'srpo-env\[new",
    ):
        require_extra("new", "A test")
