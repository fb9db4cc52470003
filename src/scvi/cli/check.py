"""`scvi check`."""

from __future__ import annotations

import argparse
from typing import Any

from scvi.cli.answers import Answer
from scvi.cli.models import load_with_cells
from scvi.cli.options import Options, positive, use_machine
from scvi.cli.questions import add_question, planned

BAD_FIT = 3
HELP = """\
Says in plain words whether a fit can be trusted: the course of the losses, counts beside counts that the model draws
for the same cells, what it explains beside a coarse clustering, the mixing of batches, and genes whose residuals depend
on the batch or on --groupby. A fit that is bad ends the command with exit code 3.
"""
EPILOG = """\
examples:
  scvi check fit
  scvi check fit --groupby cell_type
  scvi check fit --json
"""
OPTIONS: Options = {
    "--groupby": {
        "action": "append",
        "metavar": "COLUMN",
        "help": "do the residuals of genes depend on this column of obs? May be given again",
    },
    "--n-cells": {"type": positive, "default": 2000, "metavar": "N", "help": "cells to draw, at most (default: 2000)"},
}


def add(commands: Any) -> None:
    """Adds the command."""
    texts = {"help": "say whether a fit can be trusted", "description": HELP, "epilog": EPILOG}
    add_question(commands, "check", _run, _plan, OPTIONS, None, **texts)


def _run(arguments: argparse.Namespace) -> Answer:
    use_machine(arguments)
    model = load_with_cells(arguments)
    found = model.check(groupby=arguments.groupby, n_cells=arguments.n_cells, seed=arguments.seed)
    verdicts = [
        {"name": verdict.name, "level": verdict.level, "says": verdict.says, "advice": verdict.advice}
        for verdict in found.verdicts
    ]
    data = {"level": found.level, "verdicts": verdicts, "skipped": dict(found.skipped)}
    return Answer(str(found), data, BAD_FIT if found.level == "bad" else 0)


def _plan(arguments: argparse.Namespace) -> Answer:
    return planned(arguments, [f"check the fit on {arguments.n_cells} cells at most"], ("groupby",))
