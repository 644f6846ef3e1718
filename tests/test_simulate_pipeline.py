"""scripts/simulate_pipeline.py: its predictions against hand calculations."""

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("simulate_pipeline")
    finally:
        sys.path.remove(str(SCRIPTS))
        del sys.modules["simulate_pipeline"]


@pytest.fixture
def pipeline(script):
    """Eight environments at two workers; a decision of 40 ms, four chunks of 10 ms at each."""
    nothing = {field.name: 0.0 for field in dataclasses.fields(script.Times)}
    times = script.Times(**{**nothing, "chunk": 0.010, "decision_per_env": 0.005})
    return script.Pipeline(num_envs=8, num_workers=2, chunks_per_episode=5, times=times)


def with_times(script, pipeline, **times):
    return dataclasses.replace(pipeline, times=dataclasses.replace(pipeline.times, **times))


def test_without_overlap_policy_and_simulators_wait_for_each_other(script, pipeline):
    result = script.simulate(pipeline)
    # 40 ms of the policy, then 40 ms of the simulators, for 64 control steps.
    assert result.steps_per_second == pytest.approx(64 / 0.080)
    assert result.simulators == pytest.approx(0.5)
    assert result.learner == pytest.approx(0.5)


def test_with_overlap_the_slower_part_determines_the_speed(script, pipeline):
    overlap = dataclasses.replace(pipeline, overlap=True, episodes=20, chunks_per_episode=500)
    result = script.simulate(overlap)
    # Each half takes 20 ms at the learner and 20 ms at the simulators: both are always busy.
    assert result.steps_per_second == pytest.approx(64 / 0.040, rel=0.01)
    assert min(result.simulators, result.learner) > 0.98
    slow = script.simulate(with_times(script, overlap, decision_per_env=0.015))
    assert slow.steps_per_second == pytest.approx(64 / 0.120, rel=0.01)
    assert slow.simulators == pytest.approx(1 / 3, abs=0.01)


def test_resets_messages_encoding_and_updates_take_their_time(script, pipeline):
    one = dataclasses.replace(pipeline, num_envs=1, num_workers=1, episodes=400)
    slow = with_times(script, one, reset=0.1, message=0.002, encoding=0.030, update=0.020)
    # An episode: five steps of 5 + 10 + 2 ms, a reset, and 50 ms of encoding and update.
    seconds = 5 * 0.017 + 0.1 + 0.050
    assert script.simulate(slow).steps_per_second == pytest.approx(40 / seconds, rel=0.01)


def test_the_slowest_worker_determines_when_a_step_ends(script, pipeline):
    even = script.simulate(pipeline)
    varied = script.simulate(with_times(script, pipeline, chunk_spread=0.3))
    assert varied.steps_per_second < 0.99 * even.steps_per_second
