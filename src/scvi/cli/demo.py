"""`scvi demo`."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from scvi.cli.answers import Answer, plan
from scvi.cli.options import add_command
from scvi.cli.output import check_folder

HELP = """\
Fits scVI to 1021 real cells of five cell lines, sequenced in five batches (they come with the package), and prints
how well the cells find their true line and how well the batches mix, beside plain PCA. Takes a minute or two.
"""


def add(commands: Any) -> None:
    """Adds the command."""
    demo = add_command(commands, "demo", _run, _plan, help="fit the cells that come with the package", description=HELP)
    demo.add_argument("--output", type=Path, default=Path("scvi-demo"), metavar="DIR", help="(default: %(default)s)")


def _run(arguments: argparse.Namespace) -> Answer | None:
    from scvi import demo

    check_folder(arguments.output)
    if not arguments.json:
        demo.run(arguments.output)
        return None
    with redirect_stdout(sys.stderr):  # what it says of its course, and the table of scores
        found = demo.results(arguments.output)
    return Answer("", {"output": arguments.output, **found})


def _plan(arguments: argparse.Namespace) -> Answer:
    check_folder(arguments.output)
    does = ["fit SCVI to nine cells of ten", "score the others, beside a PCA"]
    reads = [{"file": "sc_mixology_demo.h5ad", "says": "the cells that come with the package"}]
    return plan(reads, does, [arguments.output / name for name in ("before-after.png", "report.html")])
