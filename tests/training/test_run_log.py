import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from srpo_env.training.run_log import RunLog
from srpo_env.training.settings import RunSettings

SETTINGS = RunSettings(seed=3)
PLACEHOLDERS, LIBERO = {"assets": "placeholder"}, {"assets": "libero"}


def write_run(folder):
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, SETTINGS, PLACEHOLDERS, {"gl": "Mesa"})
    for iteration in range(3):
        counters = {"iteration": iteration, "control_steps": 100 * iteration}
        log.write(counters, {"losses/surrogate": 0.5 * iteration}, step=100 * iteration)
    log.close()
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_folder_holds_settings_and_conditions(tmp_path):
    folder = write_run(tmp_path / "deep" / "run")
    assert read(folder, "args.json") == SETTINGS.as_json()
    conditions = read(folder, "conditions.json")
    assert conditions["assets"] == "placeholder"
    assert conditions["gl"] == "Mesa"
    assert set(conditions) == {"assets", "gl", "cpu", "cores", "torch", "srpo-env", "commit"}


def test_metrics_are_in_the_history_and_in_tensorboard(tmp_path):
    folder = write_run(tmp_path)
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"iteration": 2, "control_steps": 200, "losses/surrogate": 1.0}
    events = EventAccumulator(str(folder))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("losses/surrogate")]
    assert points == [(0, 0.0), (100, 0.5), (200, 1.0)]


def test_nan_is_left_out(tmp_path):
    log = RunLog(tmp_path, SETTINGS, {})
    log.write({"iteration": 1}, {"rollout/distance_spread": math.nan, "rollout/shaped": 0.5}, 1)
    log.close()
    assert log.records == [{"iteration": 1, "rollout/shaped": 0.5}]
    assert math.isnan(log.latest("rollout/distance_spread"))
    assert log.latest("rollout/shaped") == 0.5


def test_resumed_run_drops_metrics_after_its_checkpoint(tmp_path):
    folder = write_run(tmp_path)
    log = RunLog(folder, SETTINGS, PLACEHOLDERS, resume_at={"records": 2, "step": 100})
    assert [record["iteration"] for record in log.records] == [0, 1]
    log.write({"iteration": 2, "control_steps": 210}, {"losses/surrogate": 7.0}, step=210)
    log.close()
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["control_steps"] for line in lines] == [0, 100, 210]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("losses/surrogate")] == [0, 100, 210]


def test_run_is_not_resumed_on_other_assets(tmp_path):
    folder = write_run(tmp_path)
    before = (folder / "history.jsonl").read_text()
    with pytest.raises(ValueError, match="began with assets 'placeholder', now it is 'libero'"):
        RunLog(folder, SETTINGS, LIBERO, resume_at={"records": 2, "step": 100})
    assert (folder / "history.jsonl").read_text() == before


def test_run_is_not_resumed_under_a_condition_that_it_did_not_record(tmp_path):
    folder = write_run(tmp_path)
    conditions = {**PLACEHOLDERS, "look": "libero"}
    with pytest.raises(ValueError, match="began with look None, now it is 'libero'"):
        RunLog(folder, SETTINGS, conditions, resume_at={"records": 2, "step": 100})


def test_run_is_resumed_on_another_machine(tmp_path):
    folder = write_run(tmp_path)
    at = {"records": 2, "step": 100}
    RunLog(folder, SETTINGS, PLACEHOLDERS, {"gl": "NVIDIA"}, resume_at=at).close()
    assert read(folder, "conditions.json")["gl"] == "NVIDIA"


def test_new_run_does_not_overwrite_an_old_one(tmp_path):
    folder = write_run(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunLog(folder, SETTINGS, PLACEHOLDERS)
