"""The command ``srpo-env``: runs a subcommand's module and turns errors into sentences.

A subcommand is a module of :mod:`srpo_env.cli`, imported only when it is called. It has
``add_arguments(parser: argparse.ArgumentParser) -> None`` and
``run(args: argparse.Namespace) -> int``, which returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from srpo_env import __version__

COMMANDS = {
    "assets": "show which LIBERO assets are used, or download LIBERO's own",
    "benchmark": "measure speed, side by side with what others use",
    "check-reward": "check whether the progress reward is any good on your recorded episodes",
    "demos": "record demonstrations of the scripted expert in LIBERO's file format",
    "doctor": "check whether training can run here, and say how to mend what is wrong",
    "record-behaviours": "record successes and failures of many kinds, with their true progress",
    "evaluate": "measure a policy's success from initial states that training never uses",
    "relabel": "reward recorded episodes for their progress, in a new file beside them",
    "report": "draw the learning curves of training runs",
}
"""Name of each subcommand, which is also its module's, and what it does."""

EXPECTED_ERRORS = (ValueError, OSError, ImportError)
"""What wrong input, missing files and missing packages raise; printed without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``srpo-env``.

    Args:
        arguments: The command line without the program's name; default: the process's own.

    Returns:
        The exit code: the subcommand's, 2 after an expected error, 130 after Ctrl-C.
    """
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
        return 130  # 128 + SIGINT, as shells have it
    except EXPECTED_ERRORS as error:
        if args.traceback:
            raise
        print(f"srpo-env {args.command}: {_sentence(error)}", file=sys.stderr)
        return 2


@contextmanager
def errors_as_sentences(program: str) -> Iterator[None]:
    """Ends the process with a sentence and exit code 2 where an expected error is raised.

    For programs of their own, such as the agents; around their set-up only, since an error in the
    middle of their work is better told with its traceback.
    """
    try:
        yield
    except EXPECTED_ERRORS as error:
        print(f"{program}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _sentence(error: Exception) -> str:
    if str(error) == f"No module named {getattr(error, 'name', None)!r}":
        return f"{error}. Run `srpo-env doctor`: it says how to install what is missing"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="srpo-env",
        usage="srpo-env [--help] [--version] [--traceback] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + "\n".join(f"  {name:17} {does}" for name, does in COMMANDS.items()),
    )
    parser.add_argument("--version", action="version", version=f"srpo-env {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="see below")
    parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="the command's own"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
