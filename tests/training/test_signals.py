"""Runs that are stopped by a signal, on a suite without a simulator."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from agents.vla_grpo import Args, main
from srpo_env.training.checkpoint import newest_checkpoint
from srpo_env.training.signals import Stopped, check_signals, deferred_signals
from tests.agents.toy_suite import ToySuite, registered_toy, toy_args
from tests.training.runs import assert_same_run, metrics_of, only_folder

RUN = {"iterations": 3, "eval_every": 3, "eval_episodes": 2}


@pytest.fixture
def toy(monkeypatch):
    """The suite; the episodes of one of its tasks are longer, so some run at any time."""
    monkeypatch.setattr(ToySuite, "chunks_of_task", (2, 3))
    with registered_toy() as suite:
        yield suite


@pytest.fixture
def whole(toy, tmp_path):
    """Folder of a run that nothing stopped."""
    args = toy_args(tmp_path / "whole", **RUN)
    main(args)
    return only_folder(args.run_dir)


def send_at(monkeypatch, signum, step):
    """Sends a signal to this process in the given step of all environments."""
    monkeypatch.setattr(ToySuite, "count", 0)

    def before_step(count):
        if count == step:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(ToySuite, "before_step", staticmethod(before_step))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_run_prints_how_to_resume_and_resumes_to_the_bit(
    whole, tmp_path, monkeypatch, capsys, signum
):
    args = toy_args(tmp_path / "parts", **RUN)
    # In the evaluation at the start, and twice in rollouts.
    for step in (1, 5, 7):
        with monkeypatch.context() as patch:
            send_at(patch, signum, step)
            with pytest.raises(SystemExit) as end:
                main(args)
        assert end.value.code == 128 + signum
        shown = capsys.readouterr().out
        folder = only_folder(args.run_dir)
        if step == 1:
            assert f"Stopped by {signum.name} before the first checkpoint" in shown
            folder.rename(tmp_path / "nothing to resume")
        else:
            command = rf"Stopped by {signum.name}. To resume: python agents/vla_grpo.py (.*)\n"
            args = Args.parse(re.search(command, shown)[1].split())
    content = json.loads((newest_checkpoint(folder) / "training.json").read_text())
    assert content["parts"]["rollout"]["trajectories"], "no episode was running"
    main(args)
    assert_same_run(whole, folder)


def test_at_most_one_iteration_is_lost(toy, tmp_path, monkeypatch):
    args = toy_args(tmp_path, **{**RUN, "eval_every": 50, "iterations": 50})
    with monkeypatch.context() as patch:
        send_at(patch, signal.SIGTERM, 30)
        with pytest.raises(SystemExit):
            main(args)
    logged = metrics_of(only_folder(args.run_dir))[-1]["iteration"]
    assert logged > 2
    resumed = dataclasses.replace(args, resume=only_folder(args.run_dir), iterations=logged + 1)
    main(resumed)
    iterations = [x["iteration"] for x in metrics_of(resumed.resume) if "losses/entropy" in x]
    assert iterations == list(range(1, logged + 2))


def test_sigint_that_the_process_was_started_with_ignored_stops_the_run(toy, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        send_at(monkeypatch, signal.SIGINT, 3)
        with pytest.raises(SystemExit) as end:
            main(toy_args(tmp_path, **RUN))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == 130


def test_sighup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            check_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_sigint_interrupts_at_once():
    with deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_stop_is_not_an_error_that_code_below_may_handle():
    assert not issubclass(Stopped, Exception)


PROGRAM = """
import sys
from tests.agents.toy_suite import ToySuite, registered_toy
from agents.vla_grpo import Args, main
ToySuite.chunks_of_task = (2, 3)
with registered_toy():
    main(Args.parse(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, 128 + signal.SIGKILL)]
)
def test_killed_background_process_resumes_to_the_bit(whole, tmp_path, monkeypatch, signum, code):
    args = toy_args(tmp_path / "parts", **{**RUN, "iterations": 10**6})
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in dataclasses.asdict(args).items()
        if value != getattr(Args(), name)
    ]
    # A shell starts background jobs with SIGINT ignored.
    command = [sys.executable, "-c", PROGRAM, *flags]
    with subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait $!', "sh", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as shell:  # fmt: skip
        process = int(shell.stdout.readline())
        try:
            for line in shell.stdout:
                if line.split()[0] == "2/1000000":
                    break
            else:
                pytest.fail(shell.stderr.read())
        finally:
            os.kill(process, signum)
        assert shell.wait(timeout=60) == code
    folder = only_folder(args.run_dir)
    done = metrics_of(folder)[-1]["iteration"]
    resumed = Args.parse(["--resume", str(folder), "--iterations", str(done + 1)])
    main(resumed)
    straight = toy_args(tmp_path / "straight", **{**RUN, "iterations": done + 1})
    main(straight)
    assert_same_run(only_folder(straight.run_dir), folder)
