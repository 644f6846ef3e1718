"""Datasets for lerobot: through its own library where it is installed, and through a stand-in."""

import json
import sys

import numpy as np
import pytest

from srpo_env.adapters.lerobot_dataset import features, writing_dataset

IMAGE = np.zeros((16, 16, 3), np.uint8)
IMAGE[:8, :8] = (200, 0, 0)  # the upper left corner


def add_episode(writer, length):
    images = {"agentview": [IMAGE] * length, "wrist": [IMAGE] * length}
    states = np.linspace(0, 1, 8 * length).reshape(length, 8)
    writer.add(images, states, np.full((length, 7), 0.5), "lift it")


def test_frames_have_lerobots_names_types_and_orientation(lerobot_stand_in, tmp_path):
    with writing_dataset(tmp_path / "ds", 16) as writer:
        add_episode(writer, 3)
        add_episode(writer, 2)
    content = json.loads((tmp_path / "ds" / "dataset.json").read_text())
    assert content == {
        "lengths": [3, 2],
        "success": [False, False, True],
        "red": [0, 8],  # mirrored: the upper right corner
        "task": "lift it",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


def test_an_interruption_leaves_nothing(lerobot_stand_in, tmp_path):
    def interrupted():
        with writing_dataset(tmp_path / "ds", 16) as writer:
            add_episode(writer, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(lerobot_stand_in, tmp_path):
    (tmp_path / "ds").mkdir()
    with (
        pytest.raises(FileExistsError, match="a LeRobot dataset needs a new folder"),
        writing_dataset(tmp_path / "ds", 16),
    ):
        pass


def test_without_lerobot_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with (
        pytest.raises(ImportError, match=r"pip install 'lerobot\[dataset\]'") as raised,
        writing_dataset(tmp_path / "ds", 16),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_lerobot_reads_what_was_written(tmp_path):
    lerobot = pytest.importorskip(
        "lerobot.datasets.lerobot_dataset", reason="lerobot is not installed: pip install lerobot"
    )
    from srpo_env.offline import read_lerobot

    with writing_dataset(tmp_path / "ds", 16) as writer:
        add_episode(writer, 3)
        add_episode(writer, 2)
    dataset = lerobot.LeRobotDataset("ds", root=tmp_path / "ds")
    assert dataset.meta.info["codebase_version"] == "v3.0"
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 5, 20)
    assert set(features(16)) <= set(dataset.features)
    item = dataset[1]
    image = (item["observation.images.image"].numpy().transpose(1, 2, 0) * 255).round()
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    np.testing.assert_allclose(item["observation.state"], np.linspace(0, 1, 24)[8:16], rtol=1e-6)
    np.testing.assert_array_equal(item["action"], np.float32(0.5))
    assert item["task"] == "lift it"
    episodes = list(read_lerobot(dataset))
    assert [(episode.task, episode.success) for episode in episodes] == [("lift it", True)] * 2
