from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("h5py")

from srpo_env.cli import main as cli
from srpo_env.libero import behaviour_recording
from srpo_env.libero.behaviour_files import BehaviourEpisode, read_behaviours
from srpo_env.libero.behaviour_recording import (
    BehaviourRecording,
    default_max_steps,
    record_behaviours,
)
from srpo_env.libero.behaviours import FAILURES, KINDS, SUCCESSES, kinds_of, play
from srpo_env.libero.simulation import Simulation
from srpo_env.libero.suites import MAX_STEPS, get_task

pytestmark = pytest.mark.libero

SIZE = 16
SMALL = BehaviourRecording(successes=1, failures=1, init_states=(3,), image_size=SIZE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_behaviours(7, tmp_path_factory.mktemp("episodes"), SMALL)


def fake_play(monkeypatch, outcome):
    """Replaces episodes; returns a list of kinds and initial states that grows with each one."""
    tried = []

    def fake(simulation, kind, init_state_id, seed, *, chunk, max_steps):
        tried.append((kind, init_state_id))
        frames = np.zeros((3, 4, 4, 3), np.uint8)
        success = outcome(kind, seed)
        task_id = simulation.task.task_id
        return BehaviourEpisode(
            task_id, init_state_id, kind, seed, success, 16, frames, np.zeros(3)
        )

    monkeypatch.setattr(behaviour_recording, "play", fake)
    return tried


def test_the_plan_spreads_evenly_over_kinds_and_initial_states():
    recording = BehaviourRecording(successes=8, failures=18, init_states=(40, 41, 42, 43))
    plan = recording.plan(task_id=0)
    kinds, states, seeds = zip(*plan, strict=True)
    assert {kinds.count(kind) for kind in SUCCESSES} == {2}
    assert {kinds.count(kind) for kind in FAILURES} == {2}
    assert {states[:8].count(state) for state in recording.init_states} == {2}
    assert {states[8:].count(state) for state in recording.init_states} == {4, 5}
    assert len(set(seeds)) == len(plan)
    assert plan == recording.plan(task_id=0)
    assert plan != recording.plan(task_id=1)


def test_the_kinds_of_successes_can_be_chosen():
    recording = BehaviourRecording(successes=4, failures=0, success_kinds=("slow", "high"))
    assert sorted(kind for kind, *_ in recording.plan(0)) == ["high", "high", "slow", "slow"]
    with pytest.raises(
        ValueError, match=r"`success_kinds` must be some of expert, .*got \('fast',"
    ):
        BehaviourRecording(success_kinds=("fast",))


def test_an_episode_read_can_be_played_again(recorded):
    simulation = Simulation(get_task("libero_object", 7), SIZE)
    episodes = list(read_behaviours(recorded.file))
    assert [episode.success for episode in episodes] == [True, False]
    for stored in episodes:
        again = play(simulation, stored.kind, stored.init_state_id, stored.seed, max_steps=160)
        np.testing.assert_array_equal(again.frames, stored.frames)
        np.testing.assert_array_equal(again.progress, stored.progress)
        assert (again.success, again.num_steps) == (stored.success, stored.num_steps)
    assert episodes[1].num_steps == 160  # where training truncates failures
    simulation.close()


def test_a_file_with_the_same_settings_is_kept(recorded):
    before = recorded.file.stat().st_mtime_ns
    again = record_behaviours(7, recorded.file.parent, SMALL)
    assert again.skipped
    assert (again.num_episodes, again.file.stat().st_mtime_ns) == (2, before)


def test_other_settings_replace_a_file_only_with_overwrite(recorded):
    other = BehaviourRecording(successes=1, failures=1, init_states=(4,), image_size=SIZE)
    with pytest.raises(FileExistsError, match=r"recorded with other settings.*--overwrite"):
        record_behaviours(7, recorded.file.parent, other)


def test_an_episode_with_the_wrong_ending_is_repeated_with_the_next_seed(tmp_path, monkeypatch):
    recording = replace(SMALL, success_kinds=("slow",))
    first_seeds = {seed for _, _, seed in recording.plan(7)}
    fake_play(monkeypatch, lambda kind, seed: KINDS[kind].succeeds ^ (seed in first_seeds))
    done = record_behaviours(7, tmp_path, recording)
    assert done.num_rejected == 2
    assert {episode.seed - 1 for episode in read_behaviours(done.file)} == first_seeds


def test_another_initial_state_is_taken_where_a_kind_does_not_end_as_intended(
    tmp_path, monkeypatch
):
    recording = replace(SMALL, failures=0, init_states=(3, 4), success_kinds=("slow",))
    first = recording.plan(7)[0][1]
    tried = fake_play(monkeypatch, lambda kind, seed: len(tried) > 5)
    done = record_behaviours(7, tmp_path, recording)
    (episode,) = read_behaviours(done.file)
    assert (done.num_rejected, episode.init_state_id) == (5, 7 - first)


def test_an_expert_that_fails_is_not_repeated_with_other_seeds(tmp_path, monkeypatch):
    recording = replace(SMALL, failures=0, init_states=(3, 4), success_kinds=("expert",))
    tried = fake_play(monkeypatch, lambda kind, seed: kind == "noisy")
    done = record_behaviours(7, tmp_path, recording)
    (episode,) = read_behaviours(done.file)
    assert sorted(tried) == [("expert", 3), ("expert", 4), ("noisy", episode.init_state_id)]
    assert (done.num_rejected, episode.kind) == (2, "noisy")


@pytest.mark.parametrize("kind", [name for name in KINDS if KINDS[name].instead])
def test_the_kind_that_is_recorded_instead_ends_in_the_same_way(kind):
    assert KINDS[KINDS[kind].instead].succeeds == KINDS[kind].succeeds
    assert all(KINDS[kind].instead in kinds_of(suite) for suite in MAX_STEPS)


def test_only_libero_object_truncates_before_liberos_limit():
    limits = {suite: default_max_steps(suite) for suite in MAX_STEPS}
    assert limits == MAX_STEPS | {"libero_object": 160}


def test_a_kind_that_never_ends_as_intended_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    fake_play(monkeypatch, lambda kind, seed: False)
    with pytest.raises(ValueError, match=r"of kind '\w+' must succeed, but 20 in a row of pick_up"):
        record_behaviours(7, tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"successes": -1}, "`successes` must be at least 0, got -1"),
        ({"successes": 0, "failures": 0}, "must not both be 0"),
        ({"init_states": ()}, "`init_states` must name at least one initial state, got none"),
        ({"chunk": 0}, "`chunk` must be at least 1, got 0"),
        ({"image_size": 0}, r"`image_size` must be in 1\.\.480 pixels, got 0"),
        ({"image_size": 481}, r"`image_size` must be in 1\.\.480 pixels, got 481"),
    ],
)
def test_wrong_settings_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        BehaviourRecording(**settings)


def test_the_command_records_the_requested_episodes(tmp_path, capsys):
    arguments = ["--tasks", "7", "--successes", "1", "--failures", "0", "--image-size", str(SIZE)]
    assert cli.main(["record-behaviours", "--out", str(tmp_path), *arguments]) == 0
    assert "1 files" in capsys.readouterr().out
    (episode,) = read_behaviours(tmp_path)
    assert (episode.task_id, episode.success) == (7, True)
