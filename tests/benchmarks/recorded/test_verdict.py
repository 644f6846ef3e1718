from __future__ import annotations

import json

import numpy as np
import pytest

from srpo_env import PixelEncoder
from srpo_env.benchmarks.plain_data import to_json
from srpo_env.benchmarks.recorded.report import draw, report
from srpo_env.benchmarks.recorded.verdict import check_reward
from tests.benchmarks.recorded.toy_recordings import Blind, LastPosition, recorded, walks


def test_an_encoder_that_sees_progress_is_usable():
    check = check_reward(walks(), LastPosition())
    assert check.verdict.status == "usable"
    assert check.verdict.text.startswith("The reward is usable: ")
    assert "SelfReferentialProgressWrapper" in check.verdict.next_steps[0]


def test_a_blind_encoder_is_not_usable_and_one_that_passes_is_named():
    check = check_reward(walks(), Blind())
    assert check.verdict.status == "not usable"
    assert "does not see progress" in check.verdict.text
    assert any("`--encoder pixels`" in step for step in check.verdict.next_steps)


def test_the_bundled_world_model_is_not_recommended_against_itself():
    steps = check_reward(walks(), Blind(), name="libero-vjepa2@mean").verdict.next_steps
    assert "trained on LIBERO's libero_object only" in steps[-1]


def test_failures_as_near_as_successes_are_not_usable():
    check = check_reward(walks([100, 102, 104], [101, 102, 103]), LastPosition())
    assert check.verdict.status == "not usable"
    assert "does not separate failures from successes" in check.verdict.text


def test_failures_that_are_equally_far_are_not_usable():
    check = check_reward(walks([100, 102, 104], [50, 50, 50]), LastPosition())
    assert check.verdict.status == "not usable"
    assert "almost equally far" in check.verdict.text


@pytest.mark.parametrize("num_successes", [1, 2])
def test_few_successes_are_too_little_data(num_successes):
    check = check_reward(walks([100, 102][:num_successes]), LastPosition())
    assert check.verdict.status == "too little data"
    assert f"must have 3, but no task has more than {num_successes}" in check.verdict.text


def test_no_failure_is_too_little_data_but_progress_is_judged():
    check = check_reward(walks(failures=()), LastPosition())
    assert check.verdict.status == "too little data"
    assert "sees progress" in check.verdict.text
    assert "no failure was recorded" in check.verdict.text
    blind = check_reward(walks(failures=()), Blind())
    assert blind.verdict.status == "not usable"


def test_tasks_below_the_thresholds_are_named():
    episodes = [*walks(task="a"), *walks(task="b"), *walks(task="c")]
    episodes += [recorded(102, False, "c") for _ in range(3)]
    check = check_reward(episodes, LastPosition())
    assert check.verdict.status == "usable"
    assert "Look at the tasks below the thresholds: c." in check.verdict.next_steps


def test_the_pixel_baseline_has_no_baseline():
    check = check_reward(walks(), PixelEncoder(), name="pixels")
    assert check.pixels is None
    assert check_reward(walks(), LastPosition()).pixels is not None


def test_progress_is_called_for_each_episode():
    calls = []
    check_reward(walks(), LastPosition(), progress=lambda: calls.append(1))
    assert len(calls) == 5


# --- Report ---------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_task_and_encoder():
    check = check_reward([*walks(), *walks([90], [20, 30], "lone")], LastPosition(), name="mine")
    text = report(check)
    rows = [line.split() for line in text.splitlines() if line.startswith(("walk", "lone"))]
    # Correlation and separation of three successes; spread of distances 52 and 42.
    assert rows[0] == ["walk", "3", "2", "1", "+", "0", "1.00", "1.00", "0.11"]
    assert rows[1] == ["lone", "1", "2", "0", "+", "1", "(fallback)", "-", "-", "0.08"]
    assert len(rows) == 4
    assert "encoder: mine" in text
    assert "encoder: pixels" in text
    assert "fewer than two successes, so neither correlation nor separation): lone" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_result_is_json():
    check = check_reward([*walks(), *walks([90], [20, 30], "lone")], LastPosition(), name="mine")
    found = json.loads(to_json(check.as_dict()))
    assert found["verdict"]["status"] == "usable"
    mine, pixels = found["encoders"]
    assert (mine["encoder"], pixels["encoder"]) == ("mine", "pixels")
    assert mine["tasks"][0]["failure_distances"] == [52, 42]
    assert mine["tasks"][1]["correlation"] is None
    assert set(mine["correlation"]) == {"value", "low", "high"}


@pytest.mark.parametrize(
    "episodes",
    [walks(), walks([100], [50]), walks(failures=()), [recorded(100, True, num_frames=1)]],
    ids=["all", "one success", "no failure", "one frame"],
)
def test_the_picture_shows_whatever_was_measured(episodes, tmp_path):
    pytest.importorskip("matplotlib")
    figure = draw(check_reward(episodes, LastPosition()))
    figure.savefig(tmp_path / "picture.png")
    curves, distances, _ = figure.axes
    num_points = sum(len(points.get_offsets()) for points in distances.collections)
    assert num_points == len(episodes)
    assert np.isfinite(curves.get_xlim()).all()
