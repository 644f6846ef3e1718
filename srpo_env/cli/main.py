"""The command ``srpo-env``: runs the module of a subcommand and prints errors as one sentence.

A subcommand is a module of `srpo_env.cli`, imported only when it is called. It has
``add_arguments(parser: argparse.ArgumentParser) -> None`` and
``run(args: argparse.Namespace) -> int``, which returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from srpo_env import __version__
from srpo_env.system.machine import EXTRAS, install_command
from srpo_env.system.text import one_line

COMMANDS = {
    "assets": "show which LIBERO assets are used, or download LIBERO's own",
    "benchmark": "measure the simulator's speed, or how well rewards rank failures",
    "cache": "list what srpo-env has generated on this machine, or remove what is outdated",
    "check-reward": "check on recorded episodes whether rewards follow progress",
    "demos": "record demonstrations of the scripted expert in LIBERO's file format",
    "doctor": "check whether training can run on this machine, and print fixes",
    "evaluate": "measure a policy's success rate on initial states that training never uses",
    "prepare-policy": "write a checkpoint of OpenVLA-OFT or SmolVLM that the agents can train",
    "record-behaviours": "record successes and many kinds of failures, with ground-truth progress",
    "relabel": "compute progress rewards for recorded episodes, and write them to new files",
    "replay": "check that demonstrations reach the goal here, and export them to LeRobot",
    "report": "draw the learning curves of training runs",
}
"""Description of each subcommand; the name with underscores is the name of its module."""

NEEDED_EXTRAS: dict[str, tuple[str, ...]] = {
    "assets": ("libero",),
    "benchmark": ("libero", "agents"),
    "cache": ("libero",),
    "demos": ("libero",),
    "evaluate": ("libero", "agents"),
    "prepare-policy": ("openvla",),
    "record-behaviours": ("libero",),
    "replay": ("libero",),
}
"""The optional extras that a subcommand needs; the others need the core, and more packages only for
some of their options."""

EXPECTED_ERRORS = (ValueError, OSError, ImportError)
"""Types of errors for wrong input, missing files and missing packages; printed as one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``srpo-env``.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit code: that of the subcommand, 2 after an expected error, 130 after Ctrl-C.

    Raises:
        SystemExit: After ``--help``, a wrong command line, or when the output is a closed pipe.
    """
    with closed_output_ends_the_program():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        command = importlib.import_module(f"srpo_env.cli.{args.command.replace('-', '_')}")
        parser = argparse.ArgumentParser(
            prog=f"srpo-env {args.command}", description=command.__doc__
        )
        command.add_arguments(parser)
        return int(command.run(parser.parse_args(args.arguments)))
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as in shells
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        if args.traceback:
            raise
        message = error_message(error, NEEDED_EXTRAS.get(args.command, ()))
        print(f"srpo-env {args.command}: {message}", file=sys.stderr)
        return 2


@contextmanager
def closed_output_ends_the_program() -> Iterator[None]:
    """Exits with code 141 if the reader of the output has ended, as in ``srpo-env ... | head``.

    That is 128 + SIGPIPE, as in shells.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if has_no_reader(stream)]
        if not closed:
            raise  # of another connection
        for stream in closed:
            # Python would write what is left at its end, and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(141) from None


def has_no_reader(stream: TextIO | None) -> bool:
    """Returns whether a stream is a pipe whose reader has ended."""
    poll = select.poll()
    try:
        poll.register(stream, 0)  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError):
        return False  # it is closed, or no file of the system
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def errors_as_sentences(program: str) -> Iterator[None]:
    """Exits with one sentence and code 2 if an expected error is raised in the block.

    For other programs, such as the agents. Only their set-up belongs in the block: an error in the
    middle of their work needs its traceback.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        print(f"{program}: {error_message(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def error_message(error: Exception, extras: Sequence[str] = ()) -> str:
    """Returns an error's message in one line, with the pip command if a package is missing.

    Args:
        error: Any exception.
        extras: The optional extras that the program needs.
    """
    module = getattr(error, "name", None)
    if module is None or str(error) != f"No module named {module!r}":
        return one_line(error)  # the message is complete
    package = module.partition(".")[0]
    if not any(package in EXTRAS[extra] for extra in extras):
        # An extra that is not needed as a whole is named only if no other one has the package.
        having = [extra for extra, modules in EXTRAS.items() if package in modules]
        extras = having if len(having) == 1 else []
    if not extras:
        return f"{error}: run `pip install {package}`; `srpo-env doctor` lists all missing packages"
    return f"{error}: run `{install_command(*extras)}`"


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:17}  {does}" for name, does in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="srpo-env",
        usage="srpo-env [--help] [--version] [--traceback] COMMAND ...",
        description="Progress rewards for failed robot episodes, and a fast LIBERO simulator.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "commands:",
                *lines,
                "",
                "`srpo-env COMMAND --help` describes the options of a command.",
            ]
        ),
    )
    parser.add_argument("--version", action="version", version=f"srpo-env {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="print where an error was raised, for bug reports"
    )
    parser.add_argument(
        "command", metavar="COMMAND", choices=COMMANDS, help="one of the commands below"
    )
    remaining = parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="the options of the command"
    )
    # Python 3.11 and earlier would name it as missing when the command is missing.
    remaining.required = False
    return parser


if __name__ == "__main__":
    sys.exit(main())
