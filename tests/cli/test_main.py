from __future__ import annotations

import argparse
import dataclasses
import importlib
import subprocess
import sys
import types

import pytest

import srpo_env
from srpo_env.cli import main as cli
from srpo_env.cli.demos import numbers


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
        ("yaml", ("encoders",), "pip install 'srpo-env[libero]' && pip install"),
        ("matplotlib", (), "pip install matplotlib`"),  # of several extras, none is needed
        ("tqdm", ("sb3",), "pip install tqdm`"),
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


def test_an_error_of_several_lines_is_printed_in_one(command, capsys):
    command.run = raise_(OSError("404 Client Error.\n\n  Repository Not Found.\nCheck the name.\n"))
    assert cli.main(["fake"]) == 2
    expected = "srpo-env fake: 404 Client Error. Repository Not Found. Check the name.\n"
    assert capsys.readouterr().err == expected


PRINTING = """
import sys, types
from srpo_env.cli import main as cli
from srpo_env.cli.demos import numbers
def run(args):
    for number in range(100_000):
        print(number, file=getattr(sys, "{stream}"))
    return 0
fake = types.ModuleType("srpo_env.cli.fake", "Prints numbers.")
fake.add_arguments, fake.run = lambda parser: None, run
sys.modules[fake.__name__], cli.COMMANDS["fake"] = fake, "print"
sys.exit(cli.main(["fake"]))
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_end_of_the_outputs_reader_ends_the_command_silently(stream):
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    with subprocess.Popen(
        [sys.executable, "-c", PRINTING.format(stream=stream)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        read = getattr(process, stream)
        assert read.readline() == "0\n"
        read.close()
        assert getattr(process, other).read() == ""
    assert process.returncode == 141


def test_output_that_nobody_reads_when_the_command_ends_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m srpo_env.cli.main --help | exec true", shell=True,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.stderr == ""


def test_a_broken_connection_that_is_not_the_output_is_an_error(command, capsys):
    command.run = raise_(BrokenPipeError("of a socket"))
    with pytest.raises(BrokenPipeError, match="of a socket"):
        cli.main(["fake"])


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


DEFAULTS = {
    "demos": "srpo_env.libero.demo_recording:DemoRecording",
    "record_behaviours": "srpo_env.libero.behaviour_recording:BehaviourRecording",
    "benchmark.sim": "srpo_env.benchmarks.sim.benchmark:Settings",
}
"""Modules of commands, which import nothing of LIBERO for their help, and their settings."""

OTHER_NAMES = {"task_id": "task"}


@pytest.mark.libero
@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_in_the_help_are_those_of_the_settings(name):
    pytest.importorskip("libero")
    command = importlib.import_module(f"srpo_env.cli.{name}")
    module, _, settings = DEFAULTS[name].partition(":")
    defaults = getattr(importlib.import_module(module), settings)()
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = vars(parser.parse_args([]))
    if "init_states" in args:
        args["init_states"] = numbers(args["init_states"], "--init-states")
    compared = 0
    for field in dataclasses.fields(defaults):
        shown = args.get(OTHER_NAMES.get(field.name, field.name))
        expected = getattr(defaults, field.name)
        if shown is not None:
            assert shown == (list(expected) if isinstance(expected, tuple) else expected)
            compared += 1
    assert compared >= 5
