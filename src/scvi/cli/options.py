"""Parsers of commands, and what is typed behind options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

USAGE = 2
OPTIONS_OF_PARSERS: dict[str, Any] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with what was typed."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"scvi: error: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], after_ctrl_c: str = "", **texts: str
) -> argparse.ArgumentParser:
    """Adds a command.

    Parameters
    ----------
    commands
        What `add_subparsers` gave.
    run
        Does the work, given the arguments.
    after_ctrl_c
        What is said behind "interrupted".
    **texts
        `help`, `description` and `epilog`.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, **texts, **OPTIONS_OF_PARSERS)
    parser.set_defaults(run=run, parser=parser, after_ctrl_c=after_ctrl_c)
    return parser


def whole_number(text: str, wanted: str, least: int = 0, below: float = math.inf) -> int:
    """The number that was typed, if it is one from `least` to under `below`."""
    if not (text.isdecimal() and least <= int(text) < below):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return int(text)


positive = partial(whole_number, least=1, wanted="a positive whole number")
seed = partial(whole_number, below=2**32, wanted=f"a whole number from 0 to {2**32 - 1}")
