import numpy as np
import pytest

pytest.importorskip("h5py")

from srpo_env.benchmarks.reward.encoder_rows import make_rows
from srpo_env.benchmarks.reward.strategy_clusters import measure_strategies, strategies_table
from tests.benchmarks.reward.toy_episodes import slide, write_file


def write_strategies(path, kinds):
    """Writes five successes of each kind; the second kind slides late."""
    powers = dict(zip(kinds, (1, 4), strict=False))
    return write_file(
        path,
        [
            slide(np.linspace(0, 1, 10) ** power, kind=kind, seed=seed)
            for kind, power in powers.items()
            for seed in range(5)
        ],
    )


def test_one_strategy_is_one_cluster_and_two_strategies_are_two(tmp_path):
    file, steps = write_strategies(tmp_path / "task.hdf5", ("slow", "high")), []
    rows = measure_strategies([file], make_rows(["pixels"]), tmp_path, steps.append)
    assert [row["latents"] for row in rows] == ["mean", "path"]
    path = rows[1]
    assert (path["one"], path["two"]) == ([1], [2])
    assert (path["one_is_one"], path["two_are_several"]) == (1.0, 1.0)
    assert steps == ["pixels: strategies"]
    assert "pixels" in strategies_table(rows)


def test_episodes_of_one_strategy_only_are_an_error(tmp_path):
    file = write_strategies(tmp_path / "task.hdf5", ("slow",))
    with pytest.raises(ValueError, match=r"kinds 'slow' and 'high', got \['slow'\]"):
        measure_strategies([file], make_rows(["pixels"]), tmp_path, lambda _: None)
