"""Rewards for recorded episodes: read from two formats, written beside, never over."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from srpo_env.offline import (
    read_lerobot,
    read_libero,
    relabel_episodes,
    rewards_file,
    write_rewards,
)
from srpo_env.rewards.progress import ProgressReward
from tests.corridor import PathEncoder, ReadingEncoder

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'srpo-env[agents]'")


def write_libero(path, ends, *, length=4, convention=None, rewards=None):
    """One episode for each end; its images' upper row, seen upright, is the position."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if convention is not None:
            data.attrs["macros_image_convention"] = convention
        for number, (end, success) in enumerate(ends):
            images = np.zeros((length, 4, 4, 3), np.uint8)
            row = 0 if convention == "opencv" else -1
            images[:, row] = np.linspace(0, end, length).round()[:, None, None]
            group = data.create_group(f"demo_{number}")
            group["obs/agentview_rgb"] = images
            flags = np.zeros(length, np.uint8)
            flags[-1] = success
            group["rewards"] = flags if rewards is None else rewards
    return path


def relabeled(*paths, **kwargs):
    episodes = (episode for path in paths for episode in read_libero(path))
    return relabel_episodes(episodes, ReadingEncoder(), **kwargs)


@pytest.mark.parametrize("convention", [None, "opengl", "opencv"])
def test_failures_are_rewarded_by_their_distance_and_images_are_turned_upright(
    tmp_path, convention
):
    # The encoder reads the last position: distances 1 and 3 to the success, z-scores -1 and 1.
    file = write_libero(
        tmp_path / "walk_demo.hdf5", [(9, True), (8, False), (6, False)], convention=convention
    )
    result = relabeled(file)
    assert result.tasks == ("walk",) * 3
    np.testing.assert_array_equal(result.successes, [True, False, False])
    np.testing.assert_array_equal(result.relabeling.distances, [0, 1, 3])
    near, far = 0.8 / (1 + np.exp(-1)), 0.8 / (1 + np.exp(1))
    np.testing.assert_allclose(result.relabeling.rewards, [1, near, far])


def test_episodes_of_one_task_are_compared_across_files_and_tasks_are_not(tmp_path):
    (tmp_path / "own").mkdir()
    demos = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)])
    own = write_libero(tmp_path / "own" / "walk_demo.hdf5", [(7, False)])
    other = write_libero(tmp_path / "run_demo.hdf5", [(7, False)])
    result = relabeled(demos, own, other)
    np.testing.assert_array_equal(result.relabeling.rewards, [1, 0.4, 0])
    np.testing.assert_array_equal(result.relabeling.distances, [0, 2, np.nan])


def test_the_rewards_are_written_beside_the_recording_and_leave_it_as_it_was(tmp_path):
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True), (8, False)])
    before = file.read_bytes()
    written = write_rewards(relabeled(file, reward=ProgressReward("siirl")))
    assert written == {str(file): tmp_path / "walk_demo.srpo.npz"}
    assert file.read_bytes() == before
    with np.load(written[str(file)]) as saved:
        assert saved["names"].tolist() == ["data/demo_0", "data/demo_1"]
        np.testing.assert_array_equal(saved["rewards"], [1, 0.3])
        np.testing.assert_array_equal(saved["successes"], [True, False])
        np.testing.assert_array_equal(saved["nearest_centers"], [0, 0])
        assert saved["latents"].shape == (2, 2)
        settings = json.loads(str(saved["settings"]))
    assert settings == {
        "encoder": "tests.corridor.ReadingEncoder", "latent_shape": [2],
        "distance": "srpo_env.rewards.distances.distances_to_centers",
        "formula": "siirl", "weight": 0.6,
    }  # fmt: skip


def test_rewards_that_are_there_are_replaced_on_demand_only(tmp_path):
    first = write_libero(tmp_path / "a_demo.hdf5", [(9, True)])
    second = write_libero(tmp_path / "b_demo.hdf5", [(9, True)])
    result = relabeled(first, second)
    rewards_file(second).write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"b_demo\.srpo\.npz"):
        write_rewards(result)
    assert not rewards_file(first).exists()
    assert rewards_file(second).read_bytes() == b"precious"
    write_rewards(result, overwrite=True)
    assert len(np.load(rewards_file(second))["rewards"]) == 1


def test_the_tenth_episode_comes_after_the_second(tmp_path):
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)] * 11)
    assert [episode.name for episode in read_libero(file)] == [f"data/demo_{i}" for i in range(11)]


def test_few_videos_are_held_however_many_there_are(tmp_path):
    held = []

    class Counting(ReadingEncoder):
        def encode(self, videos):
            held.append(len(videos))
            return super().encode(videos)

    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)] * 7)
    relabel_episodes(read_libero(file), Counting(), batch_size=3)
    assert held == [3, 3, 1]


def test_a_file_that_cannot_be_read_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        next(read_libero(tmp_path / "lost.hdf5"))
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    with pytest.raises(ValueError, match="data/demo_0"):
        next(read_libero(tmp_path / "empty.hdf5"))
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)])
    with pytest.raises(ValueError, match=r"obs/wrist_rgb; in obs it has \['agentview_rgb'\]"):
        next(read_libero(file, camera="wrist_rgb"))
    dense = write_libero(tmp_path / "dense.hdf5", [(9, True)], rewards=[0.1, 0.2, 0.5, 0.9])
    with pytest.raises(ValueError, match=r"must be 0 or 1.*0\.1 to 0\.9"):
        next(read_libero(dense))
    with pytest.raises(ValueError, match="at least one recorded episode"):
        relabel_episodes([], ReadingEncoder())


# --- LeRobot ---


class FakeLeRobotDataset:
    """The part of lerobot 0.4.4's LeRobotDataset that is used."""

    root = "/data/walks"

    def __init__(self, ends, label="next.success", cameras=("observation.images.image",), length=5):
        self.meta = SimpleNamespace(camera_keys=list(cameras))
        self.features = {"episode_index": {}, **({label: {}} if label else {})}
        self.hf_dataset = {"episode_index": np.repeat(np.arange(len(ends)), length)}
        if label:
            flags = np.zeros((len(ends), length))
            flags[:, -1] = [success for _, success in ends]
            self.hf_dataset[label] = flags.ravel()
        self.positions = np.concatenate([np.linspace(0, end, length) for end, _ in ends])
        self.read = []

    def __getitem__(self, row):
        self.read.append(row)
        image = np.full((3, 4, 4), self.positions[row].round() / 255, np.float32)
        return {"task": "walk", **dict.fromkeys(self.meta.camera_keys, image)}


@pytest.mark.parametrize("label", ["next.success", "next.reward"])
def test_a_lerobot_dataset_is_read_by_episode(label):
    dataset = FakeLeRobotDataset([(9, True), (8, False), (6, False)], label)
    result = relabel_episodes(read_lerobot(dataset), ReadingEncoder())
    assert result.names == ("episode_0", "episode_1", "episode_2")
    np.testing.assert_array_equal(result.successes, [True, False, False])
    np.testing.assert_array_equal(result.relabeling.distances, [0, 1, 3])


def test_only_the_frames_that_are_used_are_decoded():
    dataset = FakeLeRobotDataset([(9, True), (8, False)])
    list(read_lerobot(dataset, max_frames=3))
    assert dataset.read == [0, 2, 4, 5, 7, 9]


def test_successes_can_be_passed_where_the_dataset_does_not_tell():
    dataset = FakeLeRobotDataset([(9, True), (8, False)], label=None)
    with pytest.raises(ValueError, match=r"/data/walks has .*; pass `successes`"):
        list(read_lerobot(dataset))
    episodes = list(read_lerobot(dataset, successes=[True, False]))
    assert [episode.success for episode in episodes] == [True, False]
    with pytest.raises(ValueError, match="must name the 2 episodes of /data/walks, got 1"):
        list(read_lerobot(dataset, successes=[True]))


def test_one_of_several_cameras_must_be_named():
    dataset = FakeLeRobotDataset([(9, True)], cameras=["observation.top", "observation.side"])
    message = r"one of \['observation.top', 'observation.side'\], those of /data/walks, got None"
    with pytest.raises(ValueError, match=message):
        list(read_lerobot(dataset))
    assert len(list(read_lerobot(dataset, camera="observation.side"))) == 1


def test_pixels_out_of_range_are_an_error_that_names_the_episode():
    dataset = FakeLeRobotDataset([(9, True), (400, False)])
    with pytest.raises(ValueError, match=r"An image of episode_1 of /data/walks must have"):
        list(read_lerobot(dataset))


def test_dense_credit_writes_potentials_and_rewards_per_step(tmp_path):
    # Images at positions 0 3 6 9 and 0 1 2 3, before each of four steps; the encoder reads all.
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True), (3, False)])
    episodes = read_libero(file)
    result = relabel_episodes(episodes, PathEncoder(), credit="dense")
    written = write_rewards(result)
    with np.load(written[str(file)]) as saved:
        # Distances of 0 3 6 9 sum to 18, 9, 3, 0; for the failure to 18, 15, 12, 9.
        np.testing.assert_allclose(
            saved["potentials"], [[0, 9 / 18, 15 / 18, 1], [0, 3 / 18, 6 / 18, 9 / 18]]
        )
        assert saved["potential_steps"].tolist() == [[0, 1, 2, 3]] * 2
        assert saved["num_steps"].tolist() == [4, 4]
        success, failure = np.split(saved["step_rewards"], np.cumsum(saved["num_steps"])[:-1])
    np.testing.assert_allclose(success, [9 / 18, 6 / 18, 3 / 18, 0])
    np.testing.assert_allclose(failure, [0.4 / 3, 0.4 / 3, 0.4 / 3, 0])
    np.testing.assert_array_equal([r.sum() for r in result.step_rewards], result.relabeling.rewards)


def test_frames_between_are_left_out_and_steps_are_those_of_the_recording(tmp_path):
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True), (3, False)], length=10)
    (success, failure) = read_libero(file, max_frames=4)
    assert success.frame_steps.tolist() == [0, 3, 6, 9]
    assert failure.num_steps == 10


def test_dense_credit_of_points_is_refused_before_encoding(tmp_path):
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)])
    encoder = ReadingEncoder()
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        relabel_episodes(read_libero(file), encoder, credit="dense")
    assert encoder.videos == []
    result = relabeled(file)
    with pytest.raises(ValueError, match="Dense credit needs latents that are paths"):
        _ = result.step_rewards
    with np.load(write_rewards(result)[str(file)]) as saved:
        assert "step_rewards" not in saved


@pytest.mark.parametrize("steps", [[0, 1], [0, 2, 1, 3], [0, 1, 2, 5], [-1, 0, 1, 2]])
def test_steps_that_do_not_fit_the_frames_are_refused(tmp_path, steps):
    file = write_libero(tmp_path / "walk_demo.hdf5", [(9, True)])
    episodes = [replace(e, frame_steps=np.array(steps)) for e in read_libero(file)]
    with pytest.raises(ValueError, match=r"`frame_steps` of data/demo_0 must be 4 ascending"):
        relabel_episodes(episodes, PathEncoder(), credit="dense")
