"""Fixtures of several test folders: kinds of vector environments, and LIBERO's own assets."""

from __future__ import annotations

import json
import signal
import sys
from types import ModuleType

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import settings

from tests.corridor import async_vector_env

# No time limit for each example, because it would depend on the load of the machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def default_signals():
    """Does not inherit ignored signals from nohup or a background shell: tests send them."""
    inherited = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    for number, handler in inherited.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)


@pytest.fixture(params=[SyncVectorEnv, async_vector_env], ids=["sync", "async"])
def vector(request):
    return request.param


@pytest.fixture(params=list(AutoresetMode), ids=lambda mode: mode.name)
def mode(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["box", "dict"])
def as_dict(request):
    return request.param


@pytest.fixture(scope="session")
def libero_assets():
    """The folder of LIBERO's own assets; skips the test if there is none."""
    from srpo_env.libero.assets import asset_warnings_silenced, resolve_assets

    with asset_warnings_silenced():
        assets = resolve_assets()
    if assets.kind != "libero":
        pytest.skip(
            f"needs LIBERO's own assets, found {assets.kind} assets: "
            "run `pip install 'srpo-env[assets]'`"
        )
    return assets.path


class RecordedDataset:
    """Takes calls as lerobot's class of datasets does, and writes a summary of them."""

    def __init__(self, root, features):
        self.root, self.features, self.frames, self.episodes = root, features, [], []

    @classmethod
    def create(cls, *, repo_id, fps, features, root, robot_type, use_videos):
        assert (repo_id, fps, robot_type, use_videos) == ("ds", 20, "panda", False)
        root.mkdir(parents=True, exist_ok=False)
        return cls(root, features)

    def add_frame(self, frame):
        described = {name: (f["dtype"], tuple(f["shape"])) for name, f in self.features.items()}
        found = {
            name: (
                described[name][0] if value.dtype == np.uint8 else str(value.dtype), value.shape
            )
            for name, value in frame.items() if name != "task"
        }  # fmt: skip
        assert found == described
        self.frames.append(frame)

    def save_episode(self):
        self.episodes.append(self.frames)
        self.frames = []

    def finalize(self):
        last = self.episodes[-1][-1]
        content = {
            "lengths": [len(frames) for frames in self.episodes],
            "success": [bool(frame["next.success"][0]) for frame in self.episodes[0]],
            "red": np.argwhere(last["observation.images.image"][..., 0] > 0).min(axis=0).tolist(),
            "task": last["task"],
        }
        (self.root / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def lerobot_stand_in(monkeypatch):
    """Replaces lerobot's datasets by a class that writes one JSON file."""
    module = ModuleType("lerobot.datasets.lerobot_dataset")
    module.LeRobotDataset = RecordedDataset
    for name in ("lerobot", "lerobot.datasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
