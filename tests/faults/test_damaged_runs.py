"""Run folders whose files are cut, mixed or changed before the run is resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil

import pytest

from agents.vla_grpo import Args, main
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.report import read_curve, read_history
from tests.agents.toy_suite import ToySuite, registered_toy, toy_args
from tests.training.runs import assert_same_run, only_folder

SETTINGS = {"iterations": 2, "eval_every": 1, "eval_episodes": 2}


@pytest.fixture(autouse=True)
def toy():
    with registered_toy():
        yield


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Folder of a run of two iterations, whose three checkpoints are kept; not to be changed."""
    with registered_toy():
        args = toy_args(tmp_path_factory.mktemp("stopped"), **SETTINGS)
        main(args)
        return only_folder(args.run_dir)


@pytest.fixture
def folder(stopped, tmp_path):
    """A copy of the run's folder."""
    return shutil.copytree(stopped, tmp_path / "run")


def resume(folder, **settings):
    """Resumes a run; returns the exit code, and what it prints to stderr."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(dataclasses.replace(Args.parse(["--resume", str(folder)]), **settings))
        except SystemExit as end:
            return end.code, shown.getvalue()
    return 0, shown.getvalue()


def assert_refused(folder, *parts):
    code, sentence = resume(folder)
    assert code == 2, sentence
    assert sentence.count("\n") == 1, sentence
    for part in parts:
        assert part in sentence
    return sentence


def lengths_to_cut(content, number):
    """Some lengths of a file that was cut, among them the shortest and the longest ones."""
    size = len(content)
    return sorted({0, 1, 7, 8, 9, size - 1, *range(0, size, max(1, size // number))})


# --- Cut files ---


@pytest.mark.parametrize(
    "name", ["training.json", "training.safetensors", "policy.json", "policy.safetensors"]
)
def test_cut_file_of_a_checkpoint_is_refused_and_the_earlier_one_named(folder, name):
    newest = newest_checkpoint(folder)
    file = newest / name
    content = file.read_bytes()
    before = (folder / "history.jsonl").read_bytes()
    for length in lengths_to_cut(content, 10):
        file.write_bytes(content[:length])
        assert_refused(folder, f"{file} ", f"to resume from iteration_0001, delete {newest}\n")
    file.unlink()
    assert_refused(folder, f"{file}", f"to resume from iteration_0001, delete {newest}\n")
    assert (folder / "history.jsonl").read_bytes() == before


def test_run_continues_from_the_earlier_checkpoint_after_the_damaged_one_is_deleted(
    stopped, folder
):
    damaged = newest_checkpoint(folder)
    (damaged / "policy.safetensors").write_bytes(b"")
    assert_refused(folder, f"delete {damaged}\n")
    shutil.rmtree(damaged)
    assert resume(folder) == (0, "")
    assert_same_run(stopped, folder)


@pytest.mark.parametrize("content", ["no files", "a file", "no training.json"])
def test_newest_checkpoint_that_holds_nothing_is_named(stopped, folder, content):
    newest, earlier = folder / "checkpoints" / "iteration_0009", newest_checkpoint(folder)
    if content == "a file":
        newest.touch()
    else:
        newest.mkdir()
    if content == "no training.json":
        shutil.copy(earlier / "policy.json", newest)
    assert_refused(folder, f"to resume from {earlier.name}, delete {newest}\n")
    newest.unlink() if newest.is_file() else shutil.rmtree(newest)
    assert resume(folder) == (0, "")
    assert_same_run(stopped, folder)


def test_damaged_only_checkpoint_is_refused(folder):
    for checkpoint in ("iteration_0000", "iteration_0001"):
        shutil.rmtree(folder / "checkpoints" / checkpoint)
    (newest_checkpoint(folder) / "training.json").write_text("{")
    assert_refused(folder, "the run has no other checkpoint: start a new run")


@pytest.mark.parametrize("name", ["args.json", "conditions.json"])
def test_cut_settings_and_conditions_are_refused(folder, name):
    file = folder / name
    content = file.read_bytes()
    for length in range(0, len(content), 13):
        file.write_bytes(content[:length])
        assert_refused(folder, f"{file} ")
        # Nothing else has changed: with its content, the run can be resumed.
        assert file.read_bytes() == content[:length]
    file.unlink()
    assert_refused(folder, str(file))
    file.write_bytes(content)
    assert resume(folder) == (0, "")


def test_cut_history_is_refused_if_the_checkpoint_was_written_after_it(folder):
    file = folder / "history.jsonl"
    content = file.read_bytes()
    for length in lengths_to_cut(content, 20):
        file.write_bytes(content[:length])
        assert_refused(folder, f"{file} is damaged: it must hold at least 5 records, got ")
        assert file.read_bytes() == content[:length]


def test_history_after_the_checkpoint_may_be_damaged(stopped, folder):
    with (folder / "history.jsonl").open("ab") as stream:
        stream.write(b'{"iteration": 3}\nnot a record\n\0\0\0\n{"itera')
    with pytest.raises(ValueError, match="line 7, is not a record"):
        read_history(folder)
    assert resume(folder) == (0, "")
    assert_same_run(stopped, folder)


@pytest.mark.parametrize(
    "line", [b"{}", b"[1]", b"3", b"\xff\xfe", b"\0\0", b'"text"', b"9" * 5000]
)
def test_line_of_the_history_that_is_no_record_is_refused(folder, line):
    file = folder / "history.jsonl"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    assert_refused(folder, f"{file}, line 2, is not a record")


def test_report_of_a_run_with_cut_files_is_right_or_refused(folder):
    whole = read_curve(folder)
    for name in ("args.json", "conditions.json", "history.jsonl"):
        file = folder / name
        content = file.read_bytes()
        for length in range(0, len(content), 5):
            file.write_bytes(content[:length])
            try:
                curve = read_curve(folder)
            except ValueError as error:
                assert str(folder) in str(error)  # noqa: PT017
            else:
                assert name == "history.jsonl"  # as a run that is not finished
                num_points = len(curve.iterations)
                assert curve.success_rates.tolist() == whole.success_rates[:num_points].tolist()
        file.write_bytes(content)


# --- Changed and mixed files ---


@pytest.mark.parametrize("name", ["training.safetensors", "policy.safetensors"])
def test_changed_bit_is_refused(folder, name):
    file = newest_checkpoint(folder) / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert_refused(folder, f"{file}", "to resume from iteration_0001, delete ")


@pytest.mark.parametrize("stem", ["training", "policy"])
def test_files_of_another_checkpoint_are_refused(folder, stem):
    newest = newest_checkpoint(folder)
    names = (
        ["training.safetensors"] if stem == "training" else ["policy.safetensors", "policy.json"]
    )
    for name in names:
        shutil.copy(folder / "checkpoints" / "iteration_0001" / name, newest / name)
    assert_refused(folder, "is damaged: its SHA-256 differs from that in training.json")


def test_checkpoint_of_another_version_is_refused_and_not_to_be_deleted(folder):
    path = newest_checkpoint(folder) / "training.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 2}))
    message = "must have format version 1, got 2: use the version of srpo-env that wrote it"
    assert "delete" not in assert_refused(folder, message)


def test_files_with_other_names_are_ignored(folder):
    for name in ("iteration_0007.bak", "iteration_x", "iteration_", "iteration_0009 (copy)"):
        (folder / "checkpoints" / name).mkdir()
    assert newest_checkpoint(folder).name == "iteration_0002"


# --- Clocks ---


@pytest.mark.parametrize("seconds", [-86400, -1, 0, 86400])
def test_clock_that_jumps_changes_nothing(stopped, tmp_path, monkeypatch, seconds):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    clock = [1.8e9]
    monkeypatch.setattr("time.time", lambda: clock[0])
    args = toy_args(tmp_path, **SETTINGS)

    def kill_in_last_evaluation(_):
        if len(read_history(only_folder(args.run_dir))) == 4:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ToySuite, "before_step", staticmethod(kill_in_last_evaluation))
        with pytest.raises(RuntimeError, match="killed"):
            main(args)
    folder = only_folder(args.run_dir)
    assert folder.name.endswith("__1800000000")
    # The metrics of the second iteration are dropped, and logged again.
    shutil.rmtree(folder / "checkpoints" / "iteration_0002_temporary")
    clock[0] += seconds
    assert resume(folder) == (0, "")
    assert_same_run(stopped, folder)
    events = EventAccumulator(str(folder))
    events.Reload()
    steps = [event.step for event in events.Scalars("losses/entropy")]
    expected = [r["control_steps"] for r in read_history(folder) if "losses/entropy" in r]
    assert steps == expected
    # A new run with the same clock gets a folder of its own.
    clock[0] = 1.8e9
    main(dataclasses.replace(args, iterations=0))
    assert (args.run_dir / f"{folder.name}-2").is_dir()
