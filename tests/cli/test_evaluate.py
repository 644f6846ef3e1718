import json

import pytest

from srpo_env.cli import main as cli
from tests.policy.fakes import make_policy


@pytest.fixture
def untrained(tmp_path):
    make_policy().save(tmp_path / "untrained")
    return str(tmp_path / "untrained")


@pytest.mark.libero
def test_evaluate_prints_a_table_and_writes_every_episode(untrained, tmp_path, capsys):
    arguments = ["--checkpoint", untrained, "--episodes", "1", "--json", str(tmp_path / "r.json")]
    assert cli.main(["evaluate", *arguments, "--physics", "fast"]) == 0
    shown = capsys.readouterr().out
    assert " 0    0/1    pick up the alphabet soup and place it in the basket" in shown
    assert "0% [0%, 79%] of 1 episodes" in shown
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["episodes"] == [
        {"task_id": 0, "init_state_id": 40, "success": False, "control_steps": 280}
    ]
    assert content["physics"] == "fast"
    assert content["wilson_95"] == pytest.approx([0, 0.7935], abs=1e-4)
    assert content["assets"] in ("libero", "modified", "placeholder")


@pytest.mark.libero
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "lost"], "a checkpoint must be a path to NAME.safetensors"),
        (["--suite", "libero-wood"], "`suite` must be one of libero_spatial, "),
        (["--episodes", "101"], "the number of held-out episodes must be in 1..100, got 101"),
        (["--temperature", "-1"], "`temperature` must not be negative, got -1.0"),
    ],
)
def test_invalid_input_is_one_sentence(arguments, message, capsys):
    assert cli.main(["evaluate", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
