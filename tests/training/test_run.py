import dataclasses
import io
import sys

import pytest

from srpo_env.training.progress_bar import progress_bar, with_progress
from srpo_env.training.run import TrainingRun
from srpo_env.training.settings import RunSettings


@pytest.fixture
def settings(tmp_path):
    return RunSettings(run_dir=tmp_path)


def open_run(settings):
    return TrainingRun("test", "name", settings, {}, counters=("control_steps",))


def test_runs_that_start_in_the_same_second_have_different_folders(settings, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1795388871.4)
    names = []
    for _ in range(2):
        with open_run(settings) as run:
            names.append(run.folder.name)
    assert names == ["name__1795388871", "name__1795388871-2"]


def test_two_runs_in_one_folder_are_refused(settings):
    with open_run(settings) as run:
        run.save()
        resumed = dataclasses.replace(settings, resume=run.folder)
        with pytest.raises(BlockingIOError, match="another run"):
            open_run(resumed)
    with open_run(resumed):
        pass


def test_counters_time_and_history_continue(settings, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with open_run(settings) as run:
        run.count(iteration=1, control_steps=50)
        clock[0] += 7
        run.write({"losses/surrogate": 0.5})
        run.save()
        clock[0] += 5
        run.write({"losses/surrogate": 0.7})
    clock[0] = 1e6
    with open_run(dataclasses.replace(settings, resume=run.folder)) as resumed:
        assert resumed.counters == {"iteration": 1, "control_steps": 50}
        assert resumed.seconds == 7
        assert [record["losses/surrogate"] for record in resumed.log.records] == [0.5]


def test_failed_start_releases_the_folder(settings):
    with open_run(settings) as run:
        path = run.save()
    resumed = dataclasses.replace(settings, resume=run.folder)
    content = (path / "training.json").read_text()
    (path / "training.json").write_text("{")
    for _ in range(2):
        with pytest.raises(ValueError, match="is damaged"):
            open_run(resumed)
    (path / "training.json").write_text(content)
    with open_run(resumed):
        pass


# --- Progress bars ---


def test_terminal_shows_a_bar_and_erases_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    with progress_bar("rollout, groups", 12) as show:
        show(6, "80 control steps")
        show(6, "80 control steps")
    shown = sys.stdout.getvalue()
    assert "rollout, groups |############            | 6/12, 00:00, 80 control steps" in shown
    assert shown.split("\r")[-2].strip() == ""


def test_file_gets_no_bar(capsys):
    assert list(with_progress("update", 3, iter("abc"))) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""
