"""`scvi annotate`."""

from __future__ import annotations

import argparse
from typing import Any

from scvi.cli.answers import Answer
from scvi.cli.models import load_with_cells
from scvi.cli.options import Options, share, use_machine
from scvi.cli.questions import add_question, check_output, planned, table_answer

HELP = """\
Gives every cell the most probable label of a scANVI model, and writes a table: a line for each cell with its label, the
probability of this label, and the probabilities of all labels. A cell whose label is less probable than --abstain-below
gets none, but the value that stands for unknown labels.
"""
EPILOG = """\
examples:
  scvi annotate labels --output labels.csv
  scvi annotate labels new_cells.h5ad --output labels.csv --abstain-below 0.9

Cells of a batch that the model does not know are mapped first: scvi map.
"""
OPTIONS: Options = {
    "--abstain-below": {
        "type": share,
        "default": 0.5,
        "metavar": "P",
        "help": "no label where the most probable one has a lower probability (default: 0.5; 0 always answers)",
    },
    "--keep-observed": {"action": "store_true", "help": "keep the labels that cells were given"},
}


def add(commands: Any) -> None:
    """Adds the command."""
    output = "table to write, .csv or .tsv, perhaps with .gz (default: print it)"
    texts = {"help": "label the cells of a file", "description": HELP, "epilog": EPILOG}
    add_question(commands, "annotate", _run, _plan, OPTIONS, output, **texts)


def _run(arguments: argparse.Namespace) -> Answer:
    import pandas as pd

    check_output(arguments)
    use_machine(arguments)
    model = load_with_cells(arguments, "SCANVI")
    found = model.predict(soft=True, keep_observed=arguments.keep_observed)
    label, surest = found.idxmax(axis=1).astype(object), found.max(axis=1)
    is_sure = surest >= arguments.abstain_below
    label[~is_sure] = model.schema.unlabeled_category
    answers = pd.DataFrame({"label": label, "probability": surest})
    table = pd.concat([answers, found.add_prefix("probability_")], axis=1).rename_axis("cell")
    numbers = label[is_sure].value_counts().to_dict()
    says = f"{len(table)} cells, {int((~is_sure).sum())} without a label"
    says += "".join(f", {number} {name}" for name, number in numbers.items())
    facts = {"cells": len(table), "labels": numbers, "without_label": int((~is_sure).sum())}
    return table_answer(table, arguments, says, facts)


def _plan(arguments: argparse.Namespace) -> Answer:
    check_output(arguments)
    does = [f"label every cell whose label has a probability of {arguments.abstain_below:g} or more"]
    return planned(arguments, does, classes=["SCANVI"])
