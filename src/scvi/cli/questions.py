"""What commands share that ask a fitted model: which model, which cells, where the answer goes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scvi._files import replacing
from scvi.cli.answers import Answer, plan
from scvi.cli.messages import say
from scvi.cli.models import files_of_cells, require_class
from scvi.cli.options import FILES, MACHINE, SEED, Options, Run, add_command, add_options
from scvi.cli.output import Refused, check_folder
from scvi.cli.reading import glance

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def add_question(
    commands: Any, name: str, run: Run, plan: Run, options: Options, output: str | None, **texts: str
) -> argparse.ArgumentParser:
    """Adds a command with MODEL, FILE and ``--output``.

    Parameters
    ----------
    options
        Its own ones.
    output
        What the help says of ``--output``; None: there is none.
    """
    parser = add_command(commands, name, run, plan, **texts)
    parser.add_argument("model", type=Path, metavar="MODEL", help="what `scvi train` wrote, or the folder of a model")
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="the cells (default: those that `scvi train` wrote, or saved)",
    )
    if output is not None:
        parser.add_argument("--output", type=Path, metavar="FILE", help=output)
        parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_options(parser, "question", options)
    add_options(parser, "cells", FILES)
    add_options(parser, "machine", {**SEED, **MACHINE})
    return parser


def check_output(arguments: argparse.Namespace, suffixes: Sequence[str] = TABLES) -> None:
    """Refuses a place where the answer cannot be written, before there is one."""
    path = arguments.output
    if path is None:
        return
    if not path.name.endswith(tuple(suffixes)):
        raise Refused(f"--output {str(path)!r} does not end with {', '.join(suffixes)}")
    if path.is_dir():
        raise Refused(f"--output {str(path)!r} is a folder; name a file")
    if path.exists() and not arguments.overwrite:
        raise Refused(f"--output {str(path)!r} is there already; add --overwrite, or name another file")
    if path.exists() and any(file.exists() and path.samefile(file) for file in files_of_cells(arguments)):
        raise Refused(f"--output {str(path)!r} holds the cells, which would be overwritten; name another file")
    check_folder(path.parent)


def planned(
    arguments: argparse.Namespace, does: Sequence[str], columns: Sequence[str] = (), classes: Sequence[str] = ()
) -> Answer:
    """What ``--dry-run`` answers; `columns` are arguments that name columns of `obs`."""
    from scvi.cells.checks import obs_column

    folder, name = require_class(arguments, *classes)
    glances = [glance(file) for file in files_of_cells(arguments)]
    for seen in glances:
        for argument in columns:
            typed = getattr(arguments, argument) or []
            for column in [typed] if isinstance(typed, str) else typed:
                if seen.cells is not None:
                    obs_column(seen.cells, argument, column)
    model = {"file": folder, "estimator": name, "says": f"{folder}: a model of {name}"}
    output = getattr(arguments, "output", None)
    return plan([model, *(seen.described() for seen in glances)], does, [output or "the answer on standard output"])


def table_answer(table: Any, arguments: argparse.Namespace, says: str, facts: dict[str, Any]) -> Answer:
    """Writes a table where it was asked for, or prints it.

    Parameters
    ----------
    says
        What there is to say of it in a line.
    facts
        The same for machines.
    """
    if arguments.output is not None:
        write_table(table, arguments.output)
        return Answer(f"{arguments.output}  {says}", {**facts, "output": arguments.output})
    if arguments.json:
        return Answer("", {**facts, "rows": table.reset_index().to_dict("records")})
    say(says)
    return Answer(table.to_csv(float_format="%.6g").rstrip("\n"))


def write_table(table: Any, path: Path) -> None:
    """Writes a table, with tabs where the name of the file says so; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_csv(
            temporary, float_format="%.6g", sep="\t" if ".tsv" in path.suffixes else ",", compression=_compression(path)
        )


def _compression(path: Path) -> Any:
    return "gzip" if path.suffix == ".gz" else None
