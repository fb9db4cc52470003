"""The command `scvi`: one module a command, beside what they share. Importing it loads nothing heavy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import scvi
from scvi._job import is_first
from scvi.cli import annotate, check, convert, de, demo, impute, mapping, report, train, tune
from scvi.cli.messages import say, showing_messages
from scvi.cli.options import OPTIONS_OF_PARSERS, Parser
from scvi.cli.output import Refused

__all__ = ["main"]

BAD_DATA, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
COMMANDS = (
    demo,
    train,
    check,
    report,
    annotate,
    de,
    impute,
    mapping,
    tune,
    convert,
)  # in the order of the help; each has `add`
FORESEEN = (ImportError, OSError, RuntimeError, TypeError, ValueError)  # their messages say what to do


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `scvi` and returns its exit code.

    0; 1 for bad data; 2 for bad usage; 3 of `scvi check` for a bad fit; 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    # Threads that spin while they wait slow a fit tenfold where other programs want the cores too. Read by torch's
    # OpenMP when it is loaded, so after this line.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with showing_messages():
            answer = (arguments.plan if arguments.dry_run else arguments.run)(arguments)
            if answer is not None:
                if is_first():
                    print(answer.printed(arguments.json), flush=True)
                return int(answer.code)
    except KeyboardInterrupt:
        say("scvi: interrupted" + arguments.after_ctrl_c)
        return INTERRUPTED
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Refused as refusal:
        arguments.parser.error(str(refusal))
    except Exception as error:  # a shell user is served by one line, whatever happened
        if arguments.debug:
            raise
        unforeseen = f"{type(error).__name__}: {error} (not foreseen; scvi --debug shows where it comes from)"
        say(error if isinstance(error, FORESEEN) else unforeseen, "error")
        return BAD_DATA
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="scvi",
        description="Single-cell variational inference: batch-corrected latent spaces from raw counts.",
        epilog="start with: scvi demo\nthen:       scvi train --help",
        **OPTIONS_OF_PARSERS,
    )
    parser.add_argument("--version", action="version", version=f"scvi {scvi.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
