"""Training runs whose disk is full or read-only, or whose output cannot be written."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_env.policy import load_policy
from srpo_env.system.files import write_file
from srpo_env.training.checkpoint import newest_checkpoint
from tests.agents.toy_suite import ToySuite
from tests.faults.child_runs import Fault, run_child
from tests.faults.interrupted_runs import ToyRun, train
from tests.policy.fakes import make_policy


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted, and the number of its accesses to files."""
    run = ToyRun(tmp_path_factory.mktemp("whole"))
    ended = run.attempt()
    assert ended.exit_code == 0, ended.output
    return run, ended.accesses


def assert_sentence(run, ended, reason):
    """The last line of the output explains the end of the run, and how to resume it."""
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    sentence = ended.output.splitlines()[-1]
    assert reason in sentence
    if "from iteration" not in ended.output:  # the run did not start
        assert sentence.startswith("vla_grpo.py: "), ended.output
    elif run.saved() is None:
        assert sentence.endswith(" before the first checkpoint"), ended.output
    else:
        assert f"To resume: python agents/vla_grpo.py --resume {run.folder}" in sentence


# --- Errors of writing ---


def check_full_disk(folder, whole, access):
    run, (straight, _) = ToyRun(folder), whole
    ended = run.attempt(fault=Fault("full disk", access))
    assert_sentence(run, ended, "No space left on device")
    # A resumed run that finds the disk full as well does no harm.
    if run.saved() is not None:
        assert_sentence(run, run.attempt(fault=Fault("full disk", 0)), "No space left on device")
    ended = run.attempt()
    assert ended.exit_code == 0, ended.output
    run.assert_equals(straight)


@pytest.mark.parametrize("share", [0.0, 0.06, 0.5, 0.8])
def test_full_disk_ends_the_run_with_a_sentence_and_it_can_be_resumed(tmp_path, whole, share):
    check_full_disk(tmp_path / "run", whole, int(share * whole[1]))


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(4))
def test_disk_that_is_full_at_any_access_can_be_emptied_and_the_run_resumed(tmp_path, whole, part):
    for access in range(part, whole[1] - 6, 4):  # the last ones only delete
        check_full_disk(tmp_path / f"{access}", whole, access)


def train_with_small_files(args, max_bytes):
    """Trains while no file may be larger, which cuts a write in the middle."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    train(args)


def test_write_that_is_cut_ends_the_run_with_a_sentence(tmp_path, whole):
    run, (straight, _) = ToyRun(tmp_path), whole
    checkpoints = sorted((straight.folder / "checkpoints").iterdir())
    sizes = [(path / "training.safetensors").stat().st_size for path in checkpoints]
    assert sizes[0] < max(sizes)
    max_bytes = max(sizes) - 1
    ended = run_child(train_with_small_files, run.args, max_bytes, watch=run.args.run_dir)
    assert_sentence(run, ended, "File too large")
    assert run.saved() is not None
    assert run.attempt().exit_code == 0
    run.assert_equals(straight)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def train_on_full_disk(args, filler, free):
    """Trains, and fills the disk up to some bytes after the first iteration."""

    def fill(count):
        if count == 6 and not filler.exists():
            status = os.statvfs(filler.parent)
            filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free)))

    ToySuite.before_step = staticmethod(fill)
    train(args)


@pytest.mark.parametrize("free", [0, 4096, 300_000])
def test_run_on_a_disk_that_fills_up_can_be_resumed(small_disk, tmp_path, whole, free):
    run, filler = ToyRun(tmp_path / "run", run_dir=small_disk / "runs"), small_disk / "filler"
    ended = run_child(train_on_full_disk, run.args, filler, free, watch=run.args.run_dir)
    assert_sentence(run, ended, "No space left on device")
    assert run.saved() is not None
    # The full disk still allows to read the earlier checkpoint, and to evaluate its policy.
    load_policy(newest_checkpoint(run.folder) / "policy")
    if free < 4096:
        assert_sentence(run, run.attempt(), "No space left on device")
    filler.unlink()
    assert run.attempt().exit_code == 0
    run.assert_equals(whole[0])


IMPORT_LIBERO = """
import sys, tempfile
from pathlib import Path
from srpo_env.libero import cache
folder = cache.cache_folder()
assert folder.parent == Path(sys.argv[1])
try:
    (folder / "filler").write_bytes(bytes(2**24))
except OSError:
    pass  # the disk is full

def full():
    raise FileNotFoundError("No usable temporary directory found")

tempfile.gettempdir = full  # the disk is that of the temporary files as well
cache.SHARED_MEMORY = sys.argv[2]
from srpo_env.libero.assets import prepare_libero
assets = prepare_libero()
from libero.libero import get_assets_path
assert get_assets_path() == str(assets.path)
"""


@pytest.mark.libero
@pytest.mark.parametrize("has_memory", [True, False])
def test_on_a_full_disk_libero_is_imported_or_one_sentence_says_why(
    small_disk, tmp_path, libero_assets, has_memory
):
    memory = tmp_path / ("." if has_memory else "nothing")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_LIBERO, str(small_disk), str(memory)],
        env={**os.environ, "XDG_CACHE_HOME": str(small_disk), "LIBERO_ASSETS": str(libero_assets)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (0 if has_memory else 1), done.stderr
    if not has_memory:
        sentence = done.stderr.splitlines()[-1]
        assert f"OSError: '{small_disk}/srpo-env/libero-config-" in sentence
        assert "could not be written (No space left on device): free some space" in sentence


# --- Read-only folders ---


def test_folder_for_runs_that_cannot_be_written_is_refused(tmp_path):
    for run_dir, reason in (("/proc/runs", "No such file"), ("/dev/null/runs", "Not a directory")):
        run = ToyRun(tmp_path / "run", run_dir=Path(run_dir))
        ended = run_child(train, run.args, watch=tmp_path / "watched")
        assert ended.exit_code == 2
        sentence = ended.output.splitlines()[-1]
        assert sentence.startswith("vla_grpo.py: --run-dir must be a folder that can be written")
        assert reason in sentence


def test_read_only_run_is_refused_and_unchanged(small_disk, tmp_path):
    run = ToyRun(tmp_path / "run", run_dir=small_disk / "runs", iterations=1)
    assert run.attempt().exit_code == 0
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    ended = run.attempt()
    assert ended.exit_code == 2
    assert ended.output.count("\n") == 1
    assert f"Read-only file system: '{run.folder}" in ended.output
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def train_without_home(args):
    os.environ["HOME"] = "/proc/home"  # cannot be created, not even by root
    train(args)


def test_run_needs_no_home(tmp_path, whole):
    run = ToyRun(tmp_path)
    ended = run_child(train_without_home, run.args, watch=run.args.run_dir)
    assert ended.exit_code == 0, ended.output
    run.assert_equals(whole[0])


# --- Output ---


def train_with_broken_output(args, streams, signum):
    """Trains; after the first iteration, nothing can be printed any more, and a signal arrives."""

    def break_output(count):
        if count == 6:
            for stream in streams:
                os.dup2(os.open("/dev/full", os.O_WRONLY), stream)
            if signum is not None:
                os.kill(os.getpid(), signum)

    ToySuite.before_step = staticmethod(break_output)
    train(args)


@pytest.mark.parametrize(
    ("streams", "signum", "code"),
    [
        ([1], None, 2),  # stdout is a file on a full disk
        ([1, 2], None, 2),
        ([1, 2], signal.SIGHUP, 129),  # the terminal is closed
    ],
)
def test_run_whose_output_cannot_be_written_ends_and_can_be_resumed(
    tmp_path, whole, streams, signum, code
):
    run = ToyRun(tmp_path)
    ended = run_child(train_with_broken_output, run.args, streams, signum, watch=run.args.run_dir)
    assert ended.exit_code == code, ended.output
    assert ended.output.endswith(f"--resume {run.folder}\n") == (2 not in streams)
    assert run.attempt().exit_code == 0
    run.assert_equals(whole[0])


# --- Files ---


def test_policy_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    make_policy(1).save(tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for place, function in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:

            def fail(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(place, function, fail)
            with pytest.raises(OSError, match=r"No space left on device: .*policy\.safetensors"):
                make_policy(2).save(tmp_path / "policy")
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_file_is_old_or_new_if_it_cannot_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_file(file, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match=rf"broken: '{file}'"):
        write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
