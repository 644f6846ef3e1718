import json
from dataclasses import asdict, dataclass

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from srpo_env.training.run_log import RunLog

STAND_INS, REAL = {"assets": "stand-in"}, {"assets": "real"}


@dataclass
class Args:
    seed: int = 3
    track: bool = False


def a_run(folder):
    log = RunLog(folder, asdict(Args()), STAND_INS)
    for iteration in range(3):
        counters = {"iteration": iteration, "control_steps": 100 * iteration}
        log.write(counters, {"loss/surrogate": 0.5 * iteration}, step=100 * iteration)
    log.close()
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_a_folder_tells_settings_and_conditions(tmp_path):
    folder = a_run(tmp_path / "deep" / "run")
    assert read(folder, "args.json") == {"seed": 3, "track": False}
    conditions = read(folder, "conditions.json")
    assert conditions["assets"] == "stand-in"
    assert set(conditions) == {"assets", "cpu", "cores", "torch", "srpo-env", "commit"}


def test_figures_stand_in_the_history_and_in_tensorboard(tmp_path):
    folder = a_run(tmp_path)
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"iteration": 2, "control_steps": 200, "loss/surrogate": 1.0}
    events = EventAccumulator(str(folder))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss/surrogate")]
    assert points == [(0, 0.0), (100, 0.5), (200, 1.0)]


def test_a_run_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path):
    folder = a_run(tmp_path)
    log = RunLog(folder, asdict(Args()), STAND_INS, resume_at={"iteration": 1, "step": 100})
    log.write({"iteration": 2, "control_steps": 210}, {"loss/surrogate": 7.0}, step=210)
    log.close()
    assert [record["iteration"] for record in log.past] == [0, 1]
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["control_steps"] for line in lines] == [0, 100, 210]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/surrogate")] == [0, 100, 210]


def test_a_run_does_not_go_on_with_other_assets(tmp_path):
    folder = a_run(tmp_path)
    before = (folder / "history.jsonl").read_text()
    with pytest.raises(ValueError, match="began with assets 'stand-in', and now it is 'real'"):
        RunLog(folder, asdict(Args()), REAL, resume_at={"iteration": 1, "step": 100})
    assert (folder / "history.jsonl").read_text() == before


def test_a_new_run_does_not_write_over_an_old_one(tmp_path):
    folder = a_run(tmp_path)
    with pytest.raises(FileExistsError, match="holds a run already"):
        RunLog(folder, asdict(Args()), STAND_INS)
