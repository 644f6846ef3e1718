"""Evaluations under perturbations: their cells, their file, and how they continue."""

import json

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from srpo_env.libero.perturbations import DIMENSIONS, as_mixture
from srpo_env.training.evaluation import Evaluation, held_out_episodes, wilson_interval
from srpo_env.training.perturbation_report import draw, pooled, table
from srpo_env.training.perturbed_evaluation import (
    PerturbedEvaluation,
    cells_of,
    perturbations_of,
)

EPISODES = held_out_episodes(2, 6)
TWO = ("light", 2)
CELLS = cells_of(["camera", "noise"], [1, 3, 5])


class Perturbable:
    """Episodes of one step; they succeed up to level 2, and without a perturbation."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, num_envs=4):
        self.num_envs = num_envs
        self.weak = np.zeros(num_envs, dtype=bool)
        self.started = []
        self.stop_after = None

    def reset(self, *, seed=None, options):
        mask = options["reset_mask"]
        for slot in np.flatnonzero(mask):
            mixture = as_mixture(options["perturbation"][slot])
            size = getattr(mixture[0], "severity", 0) or mixture[0].azimuth / 7.5 if mixture else 0
            self.weak[slot] = size <= 4
            place = (int(options["task_id"][slot]), int(options["init_state_id"][slot]))
            self.started.append((*place, mixture))
        return {}, {"task": np.array(["toy"] * self.num_envs)}

    def step(self, actions):
        if self.stop_after is not None and len(self.started) > self.stop_after:
            raise KeyboardInterrupt
        ended = np.ones(self.num_envs, dtype=bool)
        infos = {"is_success": self.weak.copy(), "control_steps": np.full(self.num_envs, 8)}
        return {}, self.weak.astype(float), self.weak, ended & ~self.weak, infos


def make_act():
    return lambda observations, instructions: np.zeros((4, 1, 7), np.float32)


def run(file, envs, cells=CELLS, settings=None, seen=None):
    evaluation = PerturbedEvaluation.start(file, settings or {"suite": "toy", "seed": 3})
    evaluation.run(cells, EPISODES, envs, make_act, 3, (seen if seen is not None else []).append)
    return evaluation


def test_the_unperturbed_cell_comes_first():
    assert CELLS[0] == ("none", 0)
    assert CELLS[1:] == [(name, level) for name in ("camera", "noise") for level in (1, 3, 5)]
    assert len(cells_of(list(DIMENSIONS), range(1, 6))) == 36


@pytest.mark.parametrize(
    ("dimensions", "levels", "message"),
    [
        (["camera", "sound"], [1], "all or some of camera, .*, got 'sound'"),
        ([], [1], "all or some of camera"),
        (["camera"], [0, 1], "`--severity` must be levels in 1..5, got 0"),
        (["camera"], [], "`--severity` must be levels in 1..5, got"),
    ],
)
def test_unknown_cells_are_refused(dimensions, levels, message):
    with pytest.raises(ValueError, match=message):
        cells_of(dimensions, levels)


def test_draws_depend_on_seed_task_and_state_and_not_on_the_level():
    one, again, stronger, other = (
        perturbations_of(cell, EPISODES, seed)
        for cell, seed in [(TWO, 0), (TWO, 0), (("light", 4), 0), (TWO, 1)]
    )  # fmt: skip
    assert one == again
    draws = [[values[pair][0]["draw"] for pair in EPISODES] for values in (one, stronger, other)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == len(EPISODES)
    assert perturbations_of(("none", 0), EPISODES, 0) == {pair: [] for pair in EPISODES}


def test_every_cell_runs_the_same_episodes_under_its_perturbation(tmp_path):
    envs, seen = Perturbable(), []
    evaluation = run(tmp_path / "r.json", envs, seen=seen)
    assert {cell: part.success_rate for cell, part in evaluation.results.items()} == {
        ("none", 0): 1, ("camera", 1): 1, ("camera", 3): 0, ("camera", 5): 0,
        ("noise", 1): 1, ("noise", 3): 0, ("noise", 5): 0,
    }  # fmt: skip
    for part in evaluation.results.values():
        assert [(e.task_id, e.init_state_id) for e in part.episodes] == sorted(EPISODES)
    assert seen[0] == 0
    assert seen[-1] == len(CELLS) * len(EPISODES)
    assert (np.diff(seen) >= 0).all()


def test_an_interrupted_evaluation_continues_with_the_next_cell(tmp_path):
    expected = run(tmp_path / "whole.json", Perturbable()).results
    file, envs = tmp_path / "parts.json", Perturbable()
    envs.stop_after = 2 * len(EPISODES) + 3  # within the third cell
    with pytest.raises(KeyboardInterrupt):
        run(file, envs)
    assert len(json.loads(file.read_text())["cells"]) == 2
    envs, seen = Perturbable(), []
    evaluation = run(file, envs, seen=seen)
    assert evaluation.results == expected
    assert seen[0] == 2 * len(EPISODES)
    assert {mixture[0].dimension for *_, mixture in envs.started if mixture} == {"camera", "noise"}
    assert file.read_bytes() == (tmp_path / "whole.json").read_bytes()
    envs = Perturbable()
    run(file, envs)  # nothing is left
    assert envs.started == []


def test_more_cells_are_added_to_a_file(tmp_path):
    file = tmp_path / "r.json"
    run(file, Perturbable(), cells=CELLS[:2])
    envs = Perturbable()
    evaluation = run(file, envs)
    assert list(evaluation.results) == CELLS
    assert {mixture for *_, mixture in envs.started if not mixture} == set()


def test_the_file_says_what_each_episode_was(tmp_path):
    run(tmp_path / "r.json", Perturbable())
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["settings"] == {"suite": "toy", "seed": 3}
    cell = content["cells"][2]
    assert (cell["dimension"], cell["level"], cell["success_rate"]) == ("camera", 3, 0)
    assert cell["wilson_95"] == list(wilson_interval(0, 6))
    episode = cell["episodes"][0]
    (camera,) = as_mixture(episode["perturbation"])
    assert (camera.azimuth, episode["task_id"], episode["init_state_id"]) == (45, 0, 40)


def test_another_evaluation_is_not_continued(tmp_path):
    run(tmp_path / "r.json", Perturbable())
    with pytest.raises(ValueError, match=r"other settings \(seed differ\): choose another folder"):
        PerturbedEvaluation.start(tmp_path / "r.json", {"suite": "toy", "seed": 4})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content["cells"][0].pop("level"), "does not hold the results of cells"),
        (lambda content: content["cells"][0]["episodes"][0].pop("success"), "does not hold"),
        (lambda content: content.update(format="other"), "is not a file of format"),
        (lambda content: content.update(format_version=2), "must have format version 1, got 2"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    file = tmp_path / "r.json"
    run(file, Perturbable())
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        run(file, Perturbable())


def test_the_table_pools_episodes(tmp_path):
    results = run(tmp_path / "r.json", Perturbable()).results
    lines = table(results).splitlines()
    assert lines[0].split() == ["dimension", *"level 1 level 3 level 5".split(), "all", "levels"]
    assert lines[1].startswith("camera")
    assert "100% [61%, 100%]" in lines[1]
    low, high = wilson_interval(6, 18)
    assert lines[1].endswith(f"33% [{low:.0%}, {high:.0%}]")
    low, high = wilson_interval(12, 36)
    assert lines[3].startswith("total")
    assert lines[3].endswith(f"33% [{low:.0%}, {high:.0%}]")
    assert lines[-1] == "without a perturbation: 100% [61%, 100%] of 6 episodes"


def test_a_missing_cell_is_a_hyphen(tmp_path):
    results = run(tmp_path / "r.json", Perturbable()).results
    del results["noise", 3]
    assert " -  " in table(results).splitlines()[2]
    assert isinstance(pooled(list(results.values())), Evaluation)


def test_the_picture_has_a_curve_per_dimension(tmp_path):
    pytest.importorskip("matplotlib")
    results = run(tmp_path / "r.json", Perturbable()).results
    figure = draw(results, "toy")
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["camera", "sensor noise"]
    line = shown[0].lines[-1] if not shown[0].containers else shown[0].containers[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [1, 3, 5])
    np.testing.assert_array_equal(line.get_ydata(), [1, 0, 0])
    figure.savefig(tmp_path / "picture.png")
