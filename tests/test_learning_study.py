"""scripts/learning_study.py: its runs, its table and its ratios."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("learning_study")
    finally:
        sys.path.remove(str(SCRIPTS))
        del sys.modules["learning_study"]


def write_run(folder, start, variant, seed, points):
    """Writes a run: points are pairs of control steps and held-out success."""
    run = folder / start / variant / f"seed_{seed}" / "run"
    run.mkdir(parents=True)
    reward = "binary" if variant.startswith("binary") else "srpo"
    settings = {"env_id": "libero-object", "reward": reward, "seed": seed, "encoder": "pixels"}
    (run / "args.json").write_text(json.dumps(settings | {"eval_episodes": 100}))
    (run / "conditions.json").write_text(json.dumps({"assets": "libero"}))
    lines = [
        {"iteration": 4 * row, "control_steps": steps, "seconds": 1.0, "eval/success_rate": rate}
        for row, (steps, rate) in enumerate(points)
    ]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


FAKE_AGENT = """
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--resume" in arguments:
    run = pathlib.Path(arguments["--resume"])
else:
    run = pathlib.Path(arguments["--run-dir"]) / "run"
    run.mkdir(parents=True)
    settings = {"env_id": "libero-object", "reward": arguments["--reward"], "encoder": "pixels"}
    settings |= {"seed": int(arguments["--seed"]), "eval_episodes": 100}
    (run / "args.json").write_text(json.dumps(settings))
    (run / "conditions.json").write_text(json.dumps({"assets": "libero"}))
iteration = int(arguments["--iterations"])
with (run / "history.jsonl").open("a") as file:
    point = {"iteration": iteration, "control_steps": 10_000 * iteration, "seconds": 1.0}
    file.write(json.dumps(point | {"eval/success_rate": 0.5}) + "\\n")
with (run.parents[3] / "calls").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def fake_agent(study, tmp_path, monkeypatch):
    """An agent that takes 10,000 control steps per iteration; calls are appended to "calls"."""
    agent = tmp_path / "agent.py"
    agent.write_text(FAKE_AGENT)
    monkeypatch.setattr(study, "AGENT", agent)


def test_runs_are_continued_to_their_number_of_control_steps(study, fake_agent, tmp_path):
    folder = tmp_path / "study"
    run = study.Run(
        folder=folder, starts=("a=x",), variants=("binary",), seeds=(3,), control_steps=70_000
    )
    run()
    calls = (folder / "calls").read_text().splitlines()
    assert [call.split("--iterations ")[1].split()[0] for call in calls] == ["4", "8"]
    assert "--checkpoint x" in calls[0]
    assert "--seed 3" in calls[0]
    assert "--resume" in calls[1]
    run()  # complete
    assert len((folder / "calls").read_text().splitlines()) == 2


def test_a_seed_is_run_for_all_variants_before_the_next_one(study, fake_agent, tmp_path):
    folder = tmp_path / "study"
    study.Run(
        folder=folder, starts=("a=x",), variants=("binary", "srpo"), seeds=(1, 2), control_steps=1
    )()
    calls = (folder / "calls").read_text().splitlines()
    words = [call.split() for call in calls]
    assert [
        (line[line.index("--seed") + 1], line[line.index("--reward") + 1]) for line in words
    ] == [("1", "binary"), ("1", "srpo"), ("2", "binary"), ("2", "srpo")]


def test_an_agent_that_fails_ends_the_study_with_a_sentence(study, tmp_path, monkeypatch):
    agent = tmp_path / "agent.py"
    agent.write_text("import sys; sys.exit(1)")
    monkeypatch.setattr(study, "AGENT", agent)
    with pytest.raises(SystemExit, match="has failed, see above; the same command continues"):
        study.Run(folder=tmp_path, variants=("binary",), seeds=(1,))()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"variants": ("srpoo",)}, "got 'srpoo'"), ({"starts": ("weak",)}, "got 'weak'")],
)
def test_unknown_names_are_refused(study, arguments, message):
    with pytest.raises(SystemExit, match=message):
        study.Run(**arguments)


def test_table_has_steps_interpolated_between_evaluations(study, tmp_path):
    write_run(tmp_path, "weak", "binary", 1, [(0, 0.2), (100_000, 0.1), (200_000, 0.7)])
    write_run(tmp_path, "weak", "binary", 2, [(0, 0.2), (100_000, 0.6)])
    *_, row = study.table(study.read_cells(tmp_path), [0.6, 0.9])
    # By hand: 0.6 lies five sixths of the way from 0.1 to 0.7, at 183,333; the median of that and
    # 100,000 is 141,667. Two seeds give no interval.
    assert row == (
        "| weak | binary | 1 2 | 200, 100 | 20% | 10% | 65% | 142 (183, 100) "
        "| not reached (not reached, not reached) |"
    )


def test_interquartile_mean_leaves_out_the_outer_quarters(study):
    middle, low, high = study.interquartile_mean([0.0, 0.4, 0.6, 1.0])
    assert middle == pytest.approx(0.5)
    assert 0.0 <= low < middle < high <= 1.0
    assert study.interquartile_mean([0.3, 0.3, 0.3]) == (0.3, 0.3, 0.3)
    assert math.isnan(study.interquartile_mean([0.1, 0.9])[1])


def test_ratio_compares_medians_and_is_unknown_where_a_run_did_not_arrive(study, tmp_path):
    for seed, steps in enumerate([100_000, 110_000, 120_000], start=1):
        write_run(tmp_path, "weak", "binary", seed, [(0, 0.0), (2 * steps, 0.8)])
        write_run(tmp_path, "weak", "dense", seed, [(0, 0.0), (steps, 0.8)])
    write_run(tmp_path, "weak", "srpo", 1, [(0, 0.0), (100_000, 0.7)])
    lines = study.ratios(study.read_cells(tmp_path), [0.8], "binary")
    (dense,) = (line for line in lines if "dense" in line)
    assert dense.startswith("weak, dense, to 80%: 0.50 [")
    low, high = json.loads(dense.split(": ")[1][5:])
    # The extremes that resampling can give are 100 / 240 and 120 / 200.
    assert 100 / 240 <= low + 0.005
    assert low < 0.5 < high <= 0.6
    assert "weak, srpo, to 80%: unknown, because a run did not reach it" in lines


def test_picture_is_drawn(study, tmp_path, capsys):
    write_run(tmp_path, "weak", "binary", 1, [(0, 0.2), (100_000, 0.5)])
    write_run(tmp_path, "weak", "binary", 2, [(0, 0.2), (120_000, 0.6)])
    study.Table(folder=tmp_path, out=tmp_path / "study.png")()
    assert (tmp_path / "study.png").stat().st_size > 10_000
    assert "| weak | binary | 1 2 |" in capsys.readouterr().out
