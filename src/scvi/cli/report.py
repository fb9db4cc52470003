"""`scvi report`."""

from __future__ import annotations

import argparse
from typing import Any

from scvi.cli.answers import Answer
from scvi.cli.models import load_with_cells
from scvi.cli.options import Options, positive, use_machine
from scvi.cli.output import Refused
from scvi.cli.questions import add_question, check_output, planned

HELP = """\
Writes one HTML page on a fit, for who does not program: what was fitted to what, verdicts and what to do, the cells on
a plane, counts beside draws of the model, and what the model has to say of its own. Needs the extra [report].
"""
EPILOG = """\
examples:
  scvi report fit --output report.html
  scvi report fit cells.h5ad --columns donor --columns treated --labels-key cell_type --output report.html
"""
OPTIONS: Options = {
    "--columns": {
        "action": "append",
        "metavar": "COLUMN",
        "help": "column of obs to colour cells by; may be given again",
    },
    "--labels-key": {"metavar": "COLUMN", "help": "column of obs with the cell type (default: that of the model)"},
    "--title": {"metavar": "TEXT", "help": "of the page"},
    "--n-cells": {"type": positive, "default": 2000, "metavar": "N", "help": "cells to draw, at most (default: 2000)"},
}


def add(commands: Any) -> None:
    """Adds the command."""
    texts = {"help": "write a page on a fit", "description": HELP, "epilog": EPILOG}
    add_question(commands, "report", _run, _plan, OPTIONS, ".html to write", **texts)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.output is None:
        raise Refused("the following arguments are required: --output")
    check_output(arguments, (".html",))


def _run(arguments: argparse.Namespace) -> Answer:
    _check(arguments)
    use_machine(arguments)
    model = load_with_cells(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    model.report(
        arguments.output,
        columns=arguments.columns,
        labels_key=arguments.labels_key,
        title=arguments.title,
        n_cells=arguments.n_cells,
        seed=arguments.seed,
    )
    return Answer(str(arguments.output), {"output": arguments.output})


def _plan(arguments: argparse.Namespace) -> Answer:
    _check(arguments)
    return planned(arguments, ["write a page on the fit"], ("labels_key", "columns"))
