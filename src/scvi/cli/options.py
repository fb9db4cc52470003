"""Parsers of commands, what is typed behind options, and options that several commands have."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from scvi.cli.answers import Answer
from scvi.cli.messages import without_passwords

USAGE = 2
Run = Callable[[argparse.Namespace], Answer | None]
Options = Mapping[str, Mapping[str, Any]]
"""Arguments of `add_argument` by name of the option."""

OPTIONS_OF_PARSERS: dict[str, Any] = {
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "allow_abbrev": False,
}


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with what was typed."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"scvi: error: {without_passwords(message)} (see {self.prog} --help)\n")


def add_command(
    commands: Any, name: str, run: Run, plan: Run | None = None, after_ctrl_c: str = "", **texts: str
) -> argparse.ArgumentParser:
    """Adds a command.

    Parameters
    ----------
    commands
        What `add_subparsers` gave.
    run
        Does the work, given the arguments, and returns what is printed.
    plan
        Says what would be read and done, with ``--dry-run``, which a command without a plan does not have.
    after_ctrl_c
        What is said behind "interrupted".
    **texts
        `help`, `description` and `epilog`.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, **texts, **OPTIONS_OF_PARSERS)
    parser.set_defaults(run=run, plan=plan, parser=parser, after_ctrl_c=after_ctrl_c, dry_run=False)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    if plan is not None:
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="say what would be read and done; no counts are read, nothing is written",
        )
    return parser


def add_options(parser: argparse.ArgumentParser, title: str, options: Options) -> None:
    """Adds a group of options under a title of its own."""
    group = parser.add_argument_group(title)
    for name, settings in options.items():
        group.add_argument(name, **settings)


def values_of(arguments: argparse.Namespace, options: Options) -> dict[str, Any]:
    """What was typed for these options, by their names in Python."""
    names = [settings.get("dest") or name.removeprefix("--").replace("-", "_") for name, settings in options.items()]
    return {name: getattr(arguments, name) for name in names}


# ---- what is typed ---------------------------------------------------------------------------------------------------


def whole_number(text: str, wanted: str, least: int = 0, below: float = math.inf) -> int:
    """The number that was typed, if it is one from `least` to under `below`."""
    if not (text.isdecimal() and least <= int(text) < below):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return int(text)


def number(text: str, wanted: str, least: float = -math.inf, most: float = math.inf) -> float:
    """The number that was typed, if it is one from `least` to `most`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


positive = partial(whole_number, least=1, wanted="a positive whole number")
seed = partial(whole_number, below=2**32, wanted=f"a whole number from 0 to {2**32 - 1}")
share = partial(number, least=0.0, most=1.0, wanted="a number from 0 to 1")


def device(text: str) -> dict[str, Any]:
    """A device as `accelerator` and number: 'auto', 'cpu', 'mps', 'gpu', or 'gpu:1' for the second."""
    found = re.fullmatch(r"(auto|cpu|mps|gpu|cuda)(?::(\d+))?", text)
    if not found or (found[2] and found[1] not in ("gpu", "cuda")):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, gpu, gpu:1 or mps")
    return {"accelerator": found[1], "device": [int(found[2])] if found[2] else "auto"}


def setting(text: str) -> tuple[str, Any]:
    """A NAME=VALUE whose value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as n_hidden=256")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


# ---- options of several commands -------------------------------------------------------------------------------------

MACHINE: Options = {
    "--device": {
        "type": device,
        "default": device("auto"),
        "metavar": "DEVICE",
        "help": "auto (a GPU if there is one), cpu, gpu, gpu:1 for the second, or mps (default: auto)",
    },
    "--threads": {"type": positive, "metavar": "N", "help": "cores to use (default: all)"},
}
SEED: Options = {"--seed": {"type": seed, "default": 0, "metavar": "N", "help": "same seed, same result (default: 0)"}}
FILES: Options = {
    "--on-disk": {
        "action": "store_true",
        "help": "leave the counts in the file (.h5ad, .zarr) and read them in blocks",
    },
    "--genes-in-rows": {"action": "store_true", "help": "a line of a table of text is a gene (default: a cell)"},
}


def use_machine(arguments: argparse.Namespace) -> None:
    """Takes as many cores as were asked for."""
    if arguments.threads is not None:
        from scvi import settings

        settings.num_threads = arguments.threads
