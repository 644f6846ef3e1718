import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import pytest

from srpo_env.training.checkpoint import save_training
from srpo_env.training.settings import RunSettings, SuiteSettings, TorchSettings


@dataclass(frozen=True, kw_only=True)
class Args(RunSettings):
    """Settings of every type that an agent has."""

    files: tuple[Path, ...] = (Path("a"),)
    start: Path | None = None
    limit: float | None = None
    rate: float = 0.5
    verbose: bool = False

    fixed = ("rate",)

    def __post_init__(self):
        self.check_numbers({"rate": 0}, {"rate": 1})


@pytest.fixture
def folder(tmp_path):
    """Folder of a run with its settings and a checkpoint."""
    args = Args(files=(Path("b"), Path("c/d")), start=Path("e"), run_dir=tmp_path)
    (tmp_path / "args.json").write_text(json.dumps(args.as_json()))
    save_training(tmp_path, {}, {"iteration": 0})
    return tmp_path, args


def test_settings_survive_json(folder):
    path, args = folder
    assert Args.read(path) == args
    assert args.as_json(full_paths=False)["files"] == ["b", "d"]


def test_resumed_run_keeps_its_settings_unless_flags_change_them(folder):
    path, args = folder
    resumed = Args.parse(["--resume", str(path), "--limit", "3"])
    assert (resumed.files, resumed.limit, resumed.resume) == (args.files, 3.0, path)


def test_fixed_settings_of_a_resumed_run_cannot_change(folder, capsys):
    path, _ = folder
    with pytest.raises(SystemExit) as end:
        Args.parse(["--resume", str(path), "--rate", "0.7"])
    assert end.value.code == 2
    assert "--rate of a resumed run must stay 0.5, got 0.7: start a new run" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("change", [{"colour": 1}, {"rate": 7}])
def test_settings_of_another_agent_are_refused(folder, change, capsys):
    path, args = folder
    (path / "args.json").write_text(json.dumps({**args.as_json(), **change}))
    with pytest.raises(SystemExit):
        Args.parse(["--resume", str(path)])
    assert "does not hold the settings of this agent" in capsys.readouterr().err


def test_resuming_a_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        Args.parse(["--resume", str(tmp_path)])
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert "--resume must name the folder of a run with checkpoints" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": -0.1}, "--rate must be at least 0, got -0.1"),
        ({"rate": 1.1}, "--rate must be at most 1, got 1.1"),
        ({"rate": float("nan")}, "--rate must be at least 0, got nan"),
        ({"limit": 0.0}, "--limit must be above 0, got 0.0"),
        ({"torch_threads": 0}, "--torch-threads must be above 0, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Args(**settings)


def test_wrong_setting_on_the_command_line_ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as end:
        Args.parse(["--rate", "7"])
    assert end.value.code == 2
    assert "--rate must be at most 1, got 7" in capsys.readouterr().err


def test_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert TorchSettings(device="auto").set_up_torch() == "cpu"
    with pytest.raises(ValueError, match="--device cuda needs a GPU"):
        TorchSettings(device="cuda").set_up_torch()


@pytest.mark.parametrize("name", ["libero-object", "libero_object", "srpo_env/libero_object"])
def test_suite_is_accepted_in_any_spelling(name):
    settings = SuiteSettings(env_id=name)
    assert (settings.gym_id, settings.suite) == ("srpo_env/libero-object", "libero-object")


@pytest.mark.libero
def test_a_suite_of_the_user_is_named_by_its_module(tmp_path, monkeypatch):
    from srpo_env.libero import suites

    monkeypatch.setattr(suites, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_settings_suite.py").write_text(
        "from srpo_env import register_suite\nfrom srpo_env.libero.suites import get_task\n"
        "register_suite('my_hall', [get_task('libero_object', 0).bddl_file])\n"
    )
    settings = SuiteSettings(env_id="my_settings_suite:my_hall")
    settings.check_requirements()
    assert (settings.suite, settings.gym_id) == ("my-hall", "srpo_env/my-hall")
    assert gymnasium.registry.pop(settings.gym_id).kwargs == {"suite": "my_hall"}
