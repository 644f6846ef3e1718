"""lerobot's environment in ``srpo-env benchmark sim``: `make test-lerobot` installs lerobot."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("libero", reason="LIBERO is not installed: pip install 'srpo-env[libero]'")

from srpo_env.benchmarks.sim import benchmark, lerobot_peer
from srpo_env.benchmarks.sim.implementations import CHUNK
from srpo_env.benchmarks.sim.report import header, tables
from srpo_env.libero.vector import LiberoVectorEnv

pytestmark = pytest.mark.libero

TINY = benchmark.Settings(
    steps=CHUNK, repeats=1, workers=(1,), min_seconds=0.0, image_size=32, parts=("speed",)
)


@pytest.mark.parametrize("version", [None, "0.4.4"])
def test_without_lerobot_one_line_says_how_to_get_it(version, monkeypatch):
    def find(name):
        if version is None:
            raise lerobot_peer.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(lerobot_peer.importlib.metadata, "version", find)
    assert lerobot_peer.lerobot_version() is None
    monkeypatch.undo()
    result = {**benchmark.describe(TINY), "lerobot": None}
    (line,) = (line for line in header(result).splitlines() if "lerobot" in line)
    assert "without lerobot's: run `pip install 'lerobot>=0.6.1'`" in line


@pytest.fixture
def lerobot():
    return pytest.importorskip("lerobot", reason="needs lerobot: run `make test-lerobot`")


@pytest.mark.slow
def test_lerobots_environment_does_the_same_work(lerobot):
    work = benchmark.make_work(TINY, num_envs=2, repeat=3)
    with closing(lerobot_peer.Lerobot(work.task, 2, TINY.image_size)) as peer:
        assert len(peer.processes) == 2
        for _ in range(2):  # the second time, each environment starts from the same state again
            peer.reset(work)
            peer.step(work)
    with closing(
        LiberoVectorEnv(
            "libero_object", 2, num_workers=1, chunk=CHUNK, settle_steps=0,
            image_size=TINY.image_size,
        )
    ) as ours:  # fmt: skip
        ours.reset(options={"task_id": 0, "init_state_id": work.init_state_id})
        expected = ours.step(work.actions[0])[0]
    found = peer.observations
    for name, camera in (("image", "agentview"), ("image2", "wrist")):
        assert found["pixels"][name].shape == expected[camera].shape
    positions = found["robot_state"]["eef"]["pos"]
    np.testing.assert_allclose(positions, expected["proprio"][:, :3], atol=1e-5)
    assert np.abs(positions[0] - positions[1]).max() > 1e-3  # each with actions of its own


@pytest.mark.slow
def test_ratios_to_lerobot_are_reported(lerobot, monkeypatch):
    monkeypatch.setattr(benchmark, "BLOCKS", {"exact": ("fast",)})
    steps = []
    settings = replace(TINY, parts=("speed", "memory"))
    monkeypatch.setattr(benchmark, "MANY_KINDS", ())
    result = benchmark.measure(settings, steps.append)
    assert len(steps) == benchmark.num_measurements(settings)
    (row,) = result["speed_lerobot"]
    theirs, ours = row["lerobot"]["steps_per_second"], row["ours"]["steps_per_second"]
    assert row["speedup"]["median"] == pytest.approx(ours["median"] / theirs["median"])
    assert {row["implementation"] for row in result["memory"]} == {"upstream", "lerobot", "ours"}
    assert "lerobot's, two cameras" in tables(result)
    assert f"lerobot {result['lerobot']}" in header(result)
