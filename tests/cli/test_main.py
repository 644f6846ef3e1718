from __future__ import annotations

import sys
import types

import pytest

import srpo_env
from srpo_env.cli import main as cli


@pytest.fixture
def command(monkeypatch):
    """A subcommand ``fake --number N``, which returns N; tests replace what it does."""
    module = types.ModuleType("srpo_env.cli.fake", "Does what a test wants.")
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=0)
    module.run = lambda args: args.number
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, "fake", "do what a test wants")
    return module


def raise_(error):
    def run(args):
        raise error

    return run


def test_it_tells_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"srpo-env {srpo_env.__version__}\n"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: srpo-env {name} " in capsys.readouterr().out


def test_the_exit_code_is_the_commands_own(command):
    assert cli.main(["fake", "--number", "7"]) == 7


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["fake", "--number", "seven"]])
def test_a_wrong_command_line_ends_with_2(command, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a rule"), FileNotFoundError("a rule")])
def test_an_expected_error_is_one_sentence_and_ends_with_2(command, error, capsys):
    command.run = raise_(error)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "srpo-env fake: a rule\n"


def test_a_missing_package_leads_to_the_doctor(command, capsys):
    def run(args):
        import no_such_package  # noqa: F401

    command.run = run
    assert cli.main(["fake"]) == 2
    assert "'no_such_package'. Run `srpo-env doctor`" in capsys.readouterr().err


def test_an_error_can_be_shown_with_its_traceback(command):
    command.run = raise_(ValueError("a rule"))
    with pytest.raises(ValueError, match="a rule"):
        cli.main(["--traceback", "fake"])


def test_a_fault_of_the_program_is_not_passed_off_as_a_users(command):
    command.run = raise_(ZeroDivisionError("a fault"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


def test_ctrl_c_ends_with_130_and_no_traceback(command, capsys):
    command.run = raise_(KeyboardInterrupt())
    assert cli.main(["fake"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_other_programs_end_in_the_same_way(capsys):
    with pytest.raises(SystemExit) as end, cli.errors_as_sentences("agent.py"):
        raise ValueError("a rule")
    assert end.value.code == 2
    assert capsys.readouterr().err == "agent.py: a rule\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), cli.errors_as_sentences("agent.py"):
        _ = 1 / 0
