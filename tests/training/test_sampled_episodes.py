"""Which episodes a run records, and how their files are read."""

import dataclasses
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from srpo_env import ProgressReward
from srpo_env.system.files import DamagedFileError
from srpo_env.training.distributed import Ranks
from srpo_env.training.episode_files import read_recordings
from srpo_env.training.sampled_episodes import kept_iterations, record_episodes, sample_groups
from srpo_env.training.trajectories import Chunk, Trajectory
from tests.hostile.files import pickled, was_executed
from tests.training.groups import make_group

GREYS = (40, 120, 200)
"""brightness of the camera image before each of an episode's decisions"""


def trajectory(task_id=0, init_state_id=0, greys=GREYS, executed=20, camera="agentview", size=32):
    """Decisions of 8 control steps, of which ``executed`` are executed in all."""
    done = torch.arange(8 * len(greys)).view(-1, 8) < executed
    return Trajectory(task_id, init_state_id, [
        Chunk(
            {camera: torch.full((size, size, 3), grey, dtype=torch.uint8)}, torch.zeros(56),
            torch.zeros(56), row.repeat_interleave(7), torch.zeros(8, 3), torch.tensor(grey / 400),
        )
        for grey, row in zip(greys, done, strict=True)
    ])  # fmt: skip


def group_of(rewards, points, task_id=0, potential=(0.0, 0.25, 0.5, 0.75), **more):
    """A group whose rewards of 1 are successes; points are the places of the latents on a line."""
    group = make_group([reward == 1 for reward in rewards], rewards, key=(task_id, 0))
    episodes = tuple(
        dataclasses.replace(
            episode, latent=np.array([point], np.float32), potential=np.array(potential),
            potential_steps=np.arange(len(potential)),
        )
        for episode, point in zip(group.episodes, points, strict=True)
    )  # fmt: skip
    return dataclasses.replace(group, episodes=episodes), [trajectory(task_id, **more)] * len(
        points
    )


MIXED = group_of([1.0, 0.2, 0.6, 1.0, 0.4], [0.0, 0.9, 0.1, 1.0, 0.5])


def sample(*batch, source="srpo", seed=0):
    return sample_groups(batch, ProgressReward(), source, [seed])


def run_at(folder, iteration, seed=1):
    settings = SimpleNamespace(seed=seed)
    return SimpleNamespace(iteration=iteration, folder=folder, settings=settings, ranks=Ranks())


def record(folder, iteration, *batch, every=10):
    record_episodes(run_at(folder, iteration), batch, ProgressReward(), "srpo", every)


def test_best_and_worst_failure_are_taken_with_the_success_nearest_to_each():
    (group,) = sample(MIXED)
    assert group.pairs == ((2, 0), (1, 3))  # 0.1 is nearer to 0, and 0.9 to 1
    assert sorted(group.episodes) == [0, 1, 2, 3]
    np.testing.assert_array_equal(group.rewards, [1.0, 0.2, 0.6, 1.0, 0.4])
    np.testing.assert_array_equal(group.successes, [True, False, False, True, False])


def test_equal_failures_are_shown_once_and_a_group_without_success_without_one():
    (equal,) = sample(group_of([1.0, 0.4, 0.4], [0.0, 0.1, 0.2]))
    assert equal.pairs == ((1, 0),)
    (failed,) = sample(group_of([0.0, 0.0], [0.0, 0.1]))
    assert failed.pairs == ((0, None),)


def test_groups_without_a_failure_are_not_shown():
    assert sample(group_of([1.0, 1.0], [0.0, 0.1])) == []
    assert sample() == []


def test_groups_with_both_outcomes_are_of_different_tasks_and_one_failed_throughout():
    mixed = [group_of([1.0, 0.4], [0.0, 0.1], task_id=task) for task in (0, 0, 0, 0, 0, 1)]
    failed = [group_of([0.0, 0.0], [0.0, 0.1], task_id=task) for task in (2, 3)]
    drawn = [sample(*mixed, *failed, seed=seed) for seed in range(20)]
    assert all({groups[0].task_id, groups[1].task_id} == {0, 1} for groups in drawn)
    assert all(len(groups) == 3 for groups in drawn)
    assert {groups[2].task_id for groups in drawn} == {2, 3}  # which one is drawn


def test_steps_and_potential_are_those_of_the_decisions():
    (group,) = sample(MIXED)
    episode = group.episodes[2]
    assert episode.num_steps == 20
    assert episode.steps.tolist() == [0, 8, 16, 20]
    np.testing.assert_allclose(episode.potential, [0, 0.25, 0.5, 0.75])


def test_potential_of_the_oracle_is_the_simulators_and_other_rewards_have_none():
    (oracle,) = sample(MIXED, source="oracle")
    np.testing.assert_allclose(oracle.episodes[2].potential, [0, 0.1, 0.3, 0.5], atol=1e-6)
    (binary,) = sample(MIXED, source="binary")
    assert len(binary.episodes[2].potential) == 0
    (points,) = sample(group_of([1.0, 0.4], [0.0, 0.1], potential=()))
    assert len(points.episodes[1].potential) == 0
    (unknown,) = sample(group_of([0.0, 0.0], [0.0, 0.1], potential=[np.nan] * 4))
    assert len(unknown.episodes[0].potential) == 0


def test_frames_are_those_before_the_decisions():
    (group,) = sample(MIXED)
    episode = group.episodes[1]
    assert episode.frame_steps.tolist() == [0, 8, 16]
    with Image.open(io.BytesIO(episode.strip)) as strip:
        assert (strip.format, strip.size) == ("JPEG", (96, 32))
        greys = [strip.getpixel((32 * index + 16, 16))[0] for index in range(3)]
    np.testing.assert_allclose(greys, GREYS, atol=3)


def test_long_episodes_and_large_images_are_reduced():
    greys = np.linspace(0, 250, 65).astype(int).tolist()
    (group,) = sample(group_of([1.0, 0.4], [0.0, 0.1], greys=greys, executed=520, size=256))
    episode = group.episodes[1]
    assert len(episode.frame_steps) == 24
    assert episode.frame_steps[[0, -1]].tolist() == [0, 512]
    assert len(episode.steps) == 66
    with Image.open(io.BytesIO(episode.strip)) as strip:
        assert strip.size == (24 * 128, 128)


def test_policy_without_camera_images_has_no_frames():
    (group,) = sample(group_of([1.0, 0.4], [0.0, 0.1], camera="pixel_values"))
    assert group.episodes[1].strip == b""
    assert len(group.episodes[1].frame_steps) == 0
    assert len(group.episodes[1].potential) == 4


def test_recordings_are_read_as_they_were_sampled(tmp_path):
    record(tmp_path, 1, MIXED)
    record(tmp_path, 10)  # without groups
    first, second = read_recordings(tmp_path)
    assert (first.iteration, second.iteration, second.groups) == (1, 10, ())
    (read,), (sampled,) = first.groups, sample(MIXED)
    assert (read.task_id, read.init_state_id, read.pairs) == (0, 0, sampled.pairs)
    np.testing.assert_array_equal(read.rewards, sampled.rewards)
    np.testing.assert_array_equal(read.successes, sampled.successes)
    for row, episode in sampled.episodes.items():
        same = read.episodes[row]
        assert (same.num_steps, same.strip) == (episode.num_steps, episode.strip)
        for name in ("steps", "potential", "frame_steps"):
            np.testing.assert_array_equal(getattr(same, name), getattr(episode, name))


def test_first_iteration_and_every_tenth_are_recorded(tmp_path):
    assert read_recordings(tmp_path) == []
    for iteration in range(1, 31):
        record(tmp_path, iteration, MIXED)
    assert [recording.iteration for recording in read_recordings(tmp_path)] == [1, 10, 20, 30]


def test_number_of_recordings_is_bounded_and_they_stay_evenly_spaced():
    # 40 recordings of every 10th iteration: every 40th is kept, as every 20th would be 20.
    assert kept_iterations(400, 10) == [1, *range(40, 401, 40)]
    assert kept_iterations(390, 10) == [1, *range(40, 361, 40), 390]
    assert max(len(kept_iterations(10 * n, 10)) for n in range(1, 5000)) <= 18


@pytest.mark.parametrize("killed_at", [7, 8, 9, 16, 17, 18, 33])
def test_resumed_run_ends_with_the_same_files(tmp_path, killed_at):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    for iteration in range(1, 36):
        record(whole, iteration, MIXED, every=1)
    for iteration in [*range(1, killed_at + 1), *range(killed_at - 5, 36)]:
        record(parts, iteration, MIXED, every=1)
    content = [
        {file.name: file.read_bytes() for file in (folder / "episodes").iterdir()}
        for folder in (whole, parts)
    ]
    assert content[0] == content[1]


def test_files_after_a_checkpoint_and_unfinished_ones_are_deleted_and_others_kept(tmp_path):
    record(tmp_path, 30, MIXED)
    for name in (".iteration_0020.npz.123", "notes.txt"):
        (tmp_path / "episodes" / name).write_text("")
    record(tmp_path, 20, MIXED)
    names = sorted(file.name for file in (tmp_path / "episodes").iterdir())
    assert names == ["iteration_0020.npz", "notes.txt"]


# --- Files of others ---


def rewrite(file, change):
    """Changes the values of a recording."""
    with np.load(file) as archive:
        arrays = dict(archive)
    meta = json.loads(arrays["meta"].tobytes())
    change(meta)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(file, **arrays)


CHANGES = {
    "another format": lambda meta: meta.update(format="other"),
    "no groups": lambda meta: meta.pop("groups"),
    "groups of text": lambda meta: meta.update(groups="abc"),
    "a negative iteration": lambda meta: meta.update(iteration=-1),
    "a reward of text": lambda meta: meta["groups"][0].update(rewards=["x"] * 5),
    "a reward of NaN": lambda meta: meta["groups"][0].update(rewards=[float("nan")] * 5),
    "too few rewards": lambda meta: meta["groups"][0].update(rewards=[1.0]),
    "a pair of nobody": lambda meta: meta["groups"][0].update(pairs=[[7, 0]]),
    "a success as failure": lambda meta: meta["groups"][0].update(pairs=[[0, 2], [1, 3]]),
    "a task of text": lambda meta: meta["groups"][0].update(task_id="<script>"),
    "a potential above 1": lambda meta: meta["groups"][0]["episodes"]["2"].update(
        potential=[0, 1, 2, 3]
    ),
    "a potential too short": lambda meta: meta["groups"][0]["episodes"]["2"].update(potential=[0]),
    "steps that fall": lambda meta: meta["groups"][0]["episodes"]["2"].update(steps=[0, 8, 4, 20]),
    "an endless number": lambda meta: meta["groups"][0]["episodes"]["2"].update(num_steps=1e400),
    "frames without steps": lambda meta: meta["groups"][0]["episodes"]["2"].update(frame_steps=[]),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_changed_recording_is_refused(tmp_path, change):
    record(tmp_path, 1, MIXED)
    file = tmp_path / "episodes" / "iteration_0001.npz"
    rewrite(file, CHANGES[change])
    with pytest.raises(DamagedFileError, match=r"iteration_0001\.npz"):
        read_recordings(tmp_path)


def test_recording_of_another_version_and_pickles_are_refused(tmp_path):
    record(tmp_path, 1, MIXED)
    file = tmp_path / "episodes" / "iteration_0001.npz"
    rewrite(file, lambda meta: meta.update(format_version=2))
    with pytest.raises(ValueError, match="format version 1, got 2: use the version of srpo-env"):
        read_recordings(tmp_path)
    for content in (b"", b"PK", pickled(tmp_path)):
        file.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"iteration_0001\.npz"):
            read_recordings(tmp_path)
    assert not was_executed(tmp_path)
