"""Worker processes: replies belong to requests, and no process outlives its parent."""

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from srpo_env.libero.worker_process import SIGNALS, WorkerProcess, WorkerStartError
from srpo_env.system import notices

ROOT = Path(__file__).resolve().parents[2]
ECHO = "tests.libero.echo_worker:echo"


@pytest.fixture
def worker():
    worker = WorkerProcess(ECHO, "setup")
    yield worker
    worker.kill()


def ask(worker, content, **kwargs):
    """Returns the reply to a request; drops those to earlier ones."""
    number, answered = worker.send(pickle.dumps(content)), 0
    while answered != number:
        answered, reply = worker.receive(60, **kwargs)
    return pickle.loads(reply)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_requests_are_answered_in_turn(worker):
    assert [ask(worker, number) for number in range(3)] == [("setup", n) for n in range(3)]
    reports = []
    assert ask(worker, "report", on_report=reports.append) == ("setup", "report")
    assert reports == ["half of it"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["send", "poll", "recv"])
def test_an_interrupted_request_does_not_answer_a_later_one(worker, monkeypatch, method, when):
    """An exception at each place where the parent waits for the worker."""
    assert ask(worker, 0) == ("setup", 0)
    original = getattr(Connection, method)

    def interrupted(self, *args):
        monkeypatch.setattr(Connection, method, original)
        if when == "after":
            original(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(worker, "interrupted")
    # An interrupted transfer may have left half a message, which the user of the class must know.
    assert worker.is_in_sync == (method == "poll")
    if method == "poll":
        assert ask(worker, "next") == ("setup", "next")


def test_several_interrupted_requests_do_not_answer_a_later_one(worker):
    for number in range(5):
        worker.send(pickle.dumps(number))
    assert ask(worker, "next") == ("setup", "next")


def test_replies_have_the_numbers_of_their_requests(worker):
    sent = {worker.send(pickle.dumps(content)): ("setup", content) for content in "abc"}
    received = dict(worker.receive(60) for _ in sent)
    assert {number: pickle.loads(reply) for number, reply in received.items()} == sent


def test_a_late_reply_has_the_number_of_its_request(worker):
    late = worker.send(pickle.dumps("sleep"))
    with pytest.raises(TimeoutError, match=r"no answer from its worker for 0\.01 s"):
        worker.receive(0.01)
    worker.send(pickle.dumps("next"))
    assert worker.receive(60)[0] == late


def test_the_death_of_a_worker_is_an_error(worker):
    worker.send(pickle.dumps("die"))
    with pytest.raises(EOFError):
        worker.receive(60)
    assert worker.wait(30) == worker.exit_code == 3
    worker.send(b"")  # the error comes when the reply is received
    with pytest.raises(EOFError):
        worker.receive(60)


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        ("tests.libero.echo_worker:fail", "ImportError: libEGL.so is missing"),
        ("tests.libero.nothing:serve", "ModuleNotFoundError: .*nothing"),
    ],
)
def test_a_worker_that_cannot_start_is_one_sentence(function, cause, capfd):
    worker = WorkerProcess(function, None)
    worker.send(b"")
    with pytest.raises(WorkerStartError, match=f"could not be started: {cause}"):
        worker.receive(60)
    assert worker.wait(30) == 0
    assert capfd.readouterr().err == ""
    worker.kill()


def test_a_system_that_starts_no_process_is_one_sentence(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(WorkerStartError, match=r"could not be started: .*nowhere"):
        WorkerProcess(ECHO, None)


# --- Warnings ---


@pytest.fixture
def shown(monkeypatch, caplog):
    """The warnings that this process shows; none has been shown before."""
    monkeypatch.setattr(notices, "_shown", {})
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_warning_of_several_workers_is_shown_once_in_the_parent(shown, caplog, capfd):
    workers = [WorkerProcess(ECHO, None) for _ in range(3)]
    for worker in workers:
        assert ask(worker, "warn") == (None, "warn")
    assert shown() == ["the disk is full"]
    assert caplog.records[0].name == "srpo_env.echo"
    assert capfd.readouterr().err == ""  # the workers print nothing themselves
    # That it happens again is news; that it happens to another worker is not.
    ask(workers[0], "warn")
    ask(workers[1], "warn")
    assert shown() == ["the disk is full"] * 2
    for worker in workers:
        worker.kill()


def test_a_warning_of_the_parent_is_not_repeated_for_its_workers(shown, worker):
    for _ in range(2):
        notices.warn_once(logging.getLogger("srpo_env.test"), "the disk is full")
    ask(worker, "warn")
    assert shown() == ["the disk is full"]


def test_warnings_that_the_user_has_turned_off_are_not_shown(shown, worker, caplog):
    caplog.set_level(logging.ERROR, "srpo_env")
    ask(worker, "warn")
    assert shown() == []


# --- Signals and the end of the parent ----------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_workers_ignore_signals_from_their_start(number):
    worker = WorkerProcess(ECHO, "setup")
    for _ in range(20):  # before, during and after the start of the interpreter
        os.kill(worker.pid, number)
        time.sleep(0.02)
    assert ask(worker, 1) == ("setup", 1)
    os.kill(worker.pid, number)
    assert ask(worker, 2) == ("setup", 2)
    worker.kill()


def test_a_worker_ends_with_its_connection(worker):
    assert ask(worker, 1) == ("setup", 1)
    worker.close_connection()
    assert worker.wait(30) == 0


def test_a_worker_that_is_no_longer_referenced_is_ended():
    worker = WorkerProcess(ECHO, "setup")
    ask(worker, 1)
    pid = worker.pid
    del worker
    assert wait_until(lambda: not is_running(pid))


PARENT = """
import os, pickle, sys, time
from srpo_env.libero.worker_process import WorkerProcess
workers = [WorkerProcess("tests.libero.echo_worker:echo", None) for _ in range(2)]
for worker in workers:
    worker.send(pickle.dumps(1))
    worker.receive(60)
workers[1].send(pickle.dumps("hang"))
fork = os.fork()  # holds the connections open, as the workers of a data loader do
if fork == 0:
    time.sleep(600)
print(*(worker.pid for worker in workers), fork, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["killed", "returns", "raises"])
def test_no_worker_outlives_its_parent(end):
    last = {"killed": "", "returns": "", "raises": "1 / 0"}[end]
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT + last],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *workers, fork = map(int, process.stdout.readline().split())
    try:
        assert all(map(is_running, workers))
        if end == "killed":
            process.kill()
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        assert wait_until(lambda: not any(map(is_running, workers)))
    finally:
        os.kill(fork, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_fork_of_the_parent_does_not_end_its_workers(worker):
    context = multiprocessing.get_context("fork")
    fork = context.Process(target=worker.kill)
    fork.start()
    fork.join(60)
    assert ask(worker, 1) == ("setup", 1)


def test_the_parents_own_signals_are_delivered():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    worker = WorkerProcess(ECHO, "setup")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    worker.kill()
