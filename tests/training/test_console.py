import pytest

from srpo_env.training.console import print_iteration
from srpo_env.training.run import TrainingRun
from srpo_env.training.settings import RunSettings
from tests.agents.toy_suite import registered_toy, toy_args

RECORD = {
    "rollout/num_groups": 18.0, "rollout/num_episodes": 144.0, "rollout/success_rate": 0.57,
    "rollout/without_signal": 1 / 3, "charts/steps_per_second": 197.2, "losses/kl": 0.25,
    "charts/update_completed": 1.0,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def run(tmp_path, clock):
    run = TrainingRun("test", "run", RunSettings(run_dir=tmp_path), {}, counters=("control_steps",))
    with run:
        yield run


def print_next(run, capsys, iterations=60, **changed):
    run.count(iteration=1)
    run.write({**RECORD, **changed})
    capsys.readouterr()
    print_iteration(run, iterations)
    return capsys.readouterr().out


def test_line_of_an_iteration(run, clock, capsys):
    run.write({"eval/success_rate": 0.3})
    clock[0] = 102.0
    assert print_next(run, capsys) == (
        "   1/60  success  57% of 144  held-out 30%  signal 12/18  kl 0.25  197 steps/s"
        "  2 min, 100 to go\n"
    )


def test_line_late_in_a_long_run_fits_a_terminal(run, clock, capsys):
    run.write({"eval/success_rate": 1.0})
    run.count(iteration=9998)
    clock[0] = 60 * 99_999.0
    line = print_next(run, capsys, iterations=9999, **{"rollout/success_rate": 1.0})
    assert len(line.rstrip("\n")) <= 110


def test_remaining_time_follows_the_newest_iterations(run, clock, capsys):
    clock[0] = 6000.0  # a slow start
    run.write({"eval/success_rate": 0.3})
    lines = []
    for iteration in range(1, 21):
        clock[0] += 60 if iteration <= 5 else 120
        lines.append(print_next(run, capsys, iterations=30))
    assert lines[0].endswith("101 min, 29 to go\n")
    assert lines[-1].endswith("135 min, 20 to go\n")


def test_line_ends_with_what_is_wrong_and_the_advice_is_printed_once(run, capsys):
    shown = [
        print_next(run, capsys, **{"charts/update_completed": x}) for x in (0.4, 0.4, 0.4, 0.4, 1.0)
    ]
    assert ["[KL limit]" in x.splitlines()[0] for x in shown] == [False, False, True, True, False]
    assert [len(x.splitlines()) for x in shown] == [1, 1, 2, 1, 1]
    advice = shown[2].splitlines()[1]
    assert advice.startswith("KL limit: 3 updates in a row ended at --target-kl before half of ")


def test_advice_names_the_values_of_the_settings(tmp_path, capsys):
    with registered_toy():
        settings = toy_args(tmp_path, target_kl=0.25)
    with TrainingRun("test", "run", settings, {}, counters=("control_steps",)) as run:
        shown = [print_next(run, capsys, **{"charts/update_completed": 0.0}) for _ in range(3)]
    assert "ended at --target-kl 0.25 before half" in shown[2]
    assert "a lower --learning-rate 0.001" in shown[2]
