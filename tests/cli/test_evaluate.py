import json

import gymnasium
import numpy as np
import pytest

from srpo_env.cli import main as cli
from tests.policy.fakes import make_policy


@pytest.fixture
def untrained(tmp_path):
    make_policy().save(tmp_path / "untrained", {"conditions": {"look": "mujoco"}})
    return str(tmp_path / "untrained")


@pytest.mark.libero
def test_evaluate_prints_a_table_and_writes_every_episode(untrained, tmp_path, capsys, caplog):
    arguments = ["--checkpoint", untrained, "--episodes", "1", "--json", str(tmp_path / "r.json")]
    assert cli.main(["evaluate", *arguments, "--physics", "fast", "--fixtures", "random"]) == 0
    shown = capsys.readouterr().out
    assert " 0    0/1    pick up the alphabet soup and place it in the basket" in shown
    assert "0% [0%, 79%] of 1 episodes" in shown
    assert "look=libero, visuals=" in shown
    assert "was trained on images with look='mujoco'" in caplog.text
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["episodes"] == [
        {"task_id": 0, "init_state_id": 40, "success": False, "control_steps": 280}
    ]
    assert content["physics"] == "fast"
    assert content["fixtures"] == "random"
    assert content["wilson_95"] == pytest.approx([0, 0.7935], abs=1e-4)
    assert content["assets"] in ("libero", "modified", "placeholder")
    assert content["look"] == "libero"
    assert {"visuals", "mujoco", "gl"} <= set(content)


OWN_SUITE = """
from srpo_env import register_suite
from srpo_env.libero.suites import get_task
task = get_task("libero_object", {task_id})
register_suite("my-shop", [task.bddl_file], init_states={states!r}, max_steps=8)
"""


@pytest.fixture
def own_suite(tmp_path, monkeypatch):
    """Writes a module that registers a suite, which is forgotten after the test."""
    from srpo_env.libero import suites

    monkeypatch.setattr(suites, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)

    def write(task_id, states=None):
        (tmp_path / f"suite_{task_id}.py").write_text(
            OWN_SUITE.format(task_id=task_id, states=states)
        )
        return f"suite_{task_id}:my-shop"

    yield write
    gymnasium.registry.pop("srpo_env/my-shop", None)


@pytest.mark.libero
def test_a_suite_of_the_user_is_named_by_its_module(untrained, own_suite, tmp_path, capsys):
    suite, file = own_suite(1), tmp_path / "r.json"
    arguments = ["--suite", suite, "--checkpoint", untrained, "--episodes", "2"]
    assert cli.main(["evaluate", *arguments, "--json", str(file)]) == 0
    assert "pick the cream cheese and place it in the basket" in capsys.readouterr().out
    # Sampled states, with the seeds 40 and 41.
    assert [episode["init_state_id"] for episode in json.loads(file.read_text())["episodes"]] == [
        40,
        41,
    ]


@pytest.mark.libero
def test_a_suite_without_states_for_evaluation_is_one_sentence(own_suite, tmp_path, capsys):
    from srpo_env.libero.suites import get_task

    np.save(tmp_path / "few.npy", get_task("libero_object", 2).init_states()[:10])
    suite = own_suite(2, str(tmp_path / "few.npy"))
    assert cli.main(["evaluate", "--suite", suite]) == 2
    shown = capsys.readouterr().err
    assert "evaluation 40-49, and" in shown
    assert "few.npy has 10: store 50, or none" in shown
    assert shown.count("\n") == 1


@pytest.mark.libero
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "lost"], "a checkpoint must be a path to NAME.safetensors"),
        (["--suite", "no_module:my-shop"], "a suite MODULE:NAME must name a module"),
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


@pytest.mark.libero
def test_perturbations_write_a_table_a_file_and_a_picture_and_continue(
    untrained, tmp_path, capsys, monkeypatch
):
    from srpo_env.libero import suites

    monkeypatch.setitem(suites.MAX_STEPS, "libero_object", 8)
    out = tmp_path / "out"
    arguments = ["--checkpoint", untrained, "--episodes", "1", "--out", str(out)]
    perturbed = [*arguments, "--perturbations", "noise,camera", "--severity"]
    assert cli.main(["evaluate", *perturbed, "2"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert "dimension level 2 all levels camera 0% [0%, 79%] 0% [0%, 79%] noise" in words
    assert "without a perturbation: 0% [0%, 79%] of 1 episodes" in shown
    assert "not LIBERO-Plus scores" in shown
    assert (out / "table.txt").read_text() in shown
    assert (out / "picture.png").read_bytes()[:4] == b"\x89PNG"
    content = json.loads((out / "evaluation.json").read_text())
    assert [(cell["dimension"], cell["level"]) for cell in content["cells"]] == [
        ("none", 0), ("camera", 2), ("noise", 2),
    ]  # fmt: skip
    assert content["settings"]["look"] == "libero"
    # The same command has nothing to do, and a longer one only adds.
    before = (out / "evaluation.json").read_bytes()
    assert cli.main(["evaluate", *perturbed, "2"]) == 0
    assert (out / "evaluation.json").read_bytes() == before
    assert cli.main(["evaluate", *perturbed, "1..2"]) == 0
    content = json.loads((out / "evaluation.json").read_text())
    assert len(content["cells"]) == 5
    capsys.readouterr()
    assert cli.main(["evaluate", *perturbed, "2", "--temperature", "1"]) == 2
    assert "other settings (temperature differ)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--perturbations", "sound"], "all or some of camera"),
        (["--perturbations", "all", "--severity", "0"], "levels in 1..5, got 0"),
        (["--perturbations", "all", "--severity", "x"], "must be numbers and ranges"),
        (["--perturbations", "all", "--json", "r.json"], "use `--out`"),
        (["--perturbations", "all", "--fixtures", "random"], "leave one of them out"),
    ],
)
def test_wrong_perturbations_are_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "results").exists()
