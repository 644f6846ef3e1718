from __future__ import annotations

import sys
import types

import pytest

import srpo_env
from srpo_env.cli import main as cli


@pytest.fixture
def command(monkeypatch):
    """A subcommand ``fake --number N`` that returns N; tests replace its ``run``."""
    module = types.ModuleType("srpo_env.cli.fake", "Returns its number.")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=0)
    module.run = lambda args: args.number
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "fake", "return its number")
    return module


def raise_(error):
    def run(args):
        raise error

    return run


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"srpo-env {srpo_env.__version__}\n"


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: srpo-env {name} " in capsys.readouterr().out


def test_exit_code_is_that_of_the_command(command):
    assert cli.main(["fake", "--number", "7"]) == 7


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["fake", "--number", "seven"]])
def test_wrong_command_line_exits_with_2(command, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_missing_command_is_named(capsys):
    with pytest.raises(SystemExit):
        cli.main([])
    assert "the following arguments are required: COMMAND\n" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a rule"), FileNotFoundError("a rule")])
def test_expected_error_is_one_sentence_and_exits_with_2(command, error, capsys):
    command.run = raise_(error)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "srpo-env fake: a rule\n"


@pytest.mark.parametrize(
    ("module", "extras", "fix"),
    [
        ("tqdm", ("libero", "agents"), "pip install 'srpo-env[libero,agents]' && pip install"),
        (
            "PIL.Image",
            ("libero",),
            "pip install 'srpo-env[libero]' && pip install --no-deps hf-lib",
        ),
        ("torch", ("encoders",), "pip install 'srpo-env[encoders]'"),
        ("stable_baselines3", (), "pip install 'srpo-env[sb3]'"),
        ("no_such_package", ("encoders",), "pip install no_such_package"),
    ],
)
def test_missing_package_is_reported_with_the_command_that_installs_it(
    command, monkeypatch, capsys, module, extras, fix
):
    monkeypatch.setitem(cli.NEEDED_EXTRAS, "fake", extras)
    command.run = raise_(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert cli.main(["fake"]) == 2
    assert f"No module named {module!r}: run `{fix}" in capsys.readouterr().err


def test_missing_package_keeps_a_message_that_has_its_own_fix(command, capsys):
    command.run = raise_(ModuleNotFoundError("a picture needs matplotlib", name="matplotlib"))
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "srpo-env fake: a picture needs matplotlib\n"


def test_traceback_option_shows_where_an_error_was_raised(command):
    command.run = raise_(ValueError("a rule"))
    with pytest.raises(ValueError, match="a rule"):
        cli.main(["--traceback", "fake"])


def test_unexpected_error_keeps_its_traceback(command):
    command.run = raise_(ZeroDivisionError("a fault"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_ctrl_c_exits_with_130_and_no_traceback(command, capsys):
    command.run = raise_(KeyboardInterrupt())
    assert cli.main(["fake"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_errors_as_sentences_exits_with_2_in_other_programs(capsys):
    with pytest.raises(SystemExit) as end, cli.errors_as_sentences("agent.py"):
        raise ValueError("a rule")
    assert end.value.code == 2
    assert capsys.readouterr().err == "agent.py: a rule\n"


def test_errors_as_sentences_keeps_the_traceback_of_unexpected_errors():
    with pytest.raises(ZeroDivisionError), cli.errors_as_sentences("agent.py"):
        _ = 1 / 0
