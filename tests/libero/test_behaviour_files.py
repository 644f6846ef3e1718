from __future__ import annotations

import dataclasses

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from srpo_env.libero.behaviour_files import (  # noqa: E402
    BehaviourEpisode,
    read_behaviours,
    read_videos,
    writing_behaviours,
)
from srpo_env.libero.demos import recording_settings, writing_demos  # noqa: E402


def episode(seed, length):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (length, 6, 6, 3), dtype=np.uint8)
    return BehaviourEpisode(
        7, 3, "drops", seed, False, 8 * (length - 1), frames, rng.uniform(size=length)
    )


EPISODES = [episode(seed, length) for seed, length in enumerate([2, 5, 3])]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "of episodes" / "some.hdf5"
    with writing_behaviours(path, {"seed": 1}) as write:
        for one in EPISODES:
            write(one)
    return path


def test_episodes_are_read_as_they_were_written(written):
    for found, expected in zip(read_behaviours(written), EPISODES, strict=True):
        for field in dataclasses.fields(BehaviourEpisode):
            value, wanted = getattr(found, field.name), getattr(expected, field.name)
            np.testing.assert_array_equal(value, wanted)
            assert type(value) is type(wanted), field.name
    assert recording_settings(written) == {"seed": 1}


def test_max_progress_is_the_maximum_over_the_frames():
    assert EPISODES[1].max_progress == max(EPISODES[1].progress)


def test_an_interruption_leaves_no_file(tmp_path):
    def press_ctrl_c():
        with writing_behaviours(tmp_path / "a.hdf5", {}) as write:
            write(EPISODES[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    assert list(tmp_path.iterdir()) == []


def test_videos_come_from_our_files_and_from_demonstrations(written, tmp_path):
    images = np.arange(19, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    rows = np.zeros((19, 7))
    path = tmp_path / "pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5"
    with writing_demos(path, {}) as writer:
        writer.add(
            actions=rows,
            executed_actions=rows,
            states=np.zeros((19, 8)),
            robot_states=np.zeros((19, 9)),
            obs={
                "agentview_rgb": images,
                "eye_in_hand_rgb": images,
                "joint_states": rows,
                "ee_pos": rows[:, :3],
                "ee_ori": rows[:, :3],
                "gripper_states": rows[:, :2],
            },
            init_state_id=0,
        )
    *ours, demo = read_videos([written, tmp_path])
    for video, episode in zip(ours, EPISODES, strict=True):
        np.testing.assert_array_equal(video, episode.frames)
    # An image per control step: one of eight, and the last.
    np.testing.assert_array_equal(demo[:, 0, 0, 0], [0, 8, 16, 18])


def test_missing_and_foreign_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there must be \*\.hdf5 files at"):
        list(read_behaviours(tmp_path))
    text = tmp_path / "notes.hdf5"
    text.write_text("no HDF5")
    with pytest.raises(ValueError, match="is not an HDF5 file, or is damaged"):
        list(read_behaviours(text))
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(ValueError, match=r"must be a file recorded by `srpo-env record-b"):
        list(read_behaviours(tmp_path / "other.hdf5"))
