"""`scvi de`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from scvi.cli.answers import Answer
from scvi.cli.models import LATENT, load_with_cells
from scvi.cli.options import Options, number, positive, use_machine
from scvi.cli.questions import add_question, check_output, planned, table_answer

HELP = """\
Which genes differ between groups of cells: a table with a line for each gene and comparison, the surest first. It says
what the model learnt (proba_de, lfc_mean, is_de_fdr_...), what differs in the counts (lfc_data, p_value, p_adjusted)
and what the model does not expect (lfc_residual, p_residual).
"""
EPILOG = """\
examples:
  scvi de fit --groupby cell_type --output genes.csv              each type against all other cells
  scvi de fit --groupby cell_type --group1 B --group2 T --output genes.csv
  scvi de fit cells.h5ad --groupby treated --group1 yes --sample-key donor --output genes.tsv
"""
OPTIONS: Options = {
    "--groupby": {"required": True, "metavar": "COLUMN", "help": "column of obs with the groups"},
    "--group1": {"action": "append", "metavar": "GROUP", "help": "a group; may be given again (default: each)"},
    "--group2": {"metavar": "GROUP", "help": "the one to compare with (default: all other cells)"},
    "--sample-key": {"metavar": "COLUMN", "help": "samples (donors, animals), the unit of the tests of the counts"},
    "--strata": {
        "action": "append",
        "metavar": "COLUMN",
        "help": "within which counts are compared (default: batches)",
    },
    "--batch-correction": {"action": "store_true", "help": "decode every cell in all batches"},
    "--mode": {
        "choices": ("change", "vanilla"),
        "default": "change",
        "help": "change: is the fold change above --delta; vanilla: is there more (default: change)",
    },
    "--delta": {
        "type": partial(number, least=0.0, wanted="a number from 0 on"),
        "default": 0.25,
        "metavar": "X",
        "help": "log2 fold change that matters (default: 0.25)",
    },
    "--fdr": {
        "type": partial(number, least=0.0, most=1.0, wanted="a number from 0 to 1"),
        "default": 0.05,
        "metavar": "X",
        "help": "expected share of false calls (default: 0.05)",
    },
    "--n-samples": {"type": positive, "default": 5000, "metavar": "N", "help": "draws of each group (default: 5000)"},
    "--pseudobulk": {"action": "store_true", "help": "test sums by sample with PyDESeq2 as well"},
}


def add(commands: Any) -> None:
    """Adds the command."""
    output = "table to write, .csv or .tsv, perhaps with .gz (default: print it)"
    texts = {"help": "find genes that differ between groups", "description": HELP, "epilog": EPILOG}
    add_question(commands, "de", _run, _plan, OPTIONS, output, **texts)


def _run(arguments: argparse.Namespace) -> Answer:
    check_output(arguments)
    use_machine(arguments)
    model = load_with_cells(arguments, *_CLASSES)
    table = model.differential_expression(
        groupby=arguments.groupby,
        group1=arguments.group1,
        group2=arguments.group2,
        mode=arguments.mode,
        delta=arguments.delta,
        batch_correction=arguments.batch_correction,
        fdr_target=arguments.fdr,
        n_samples=arguments.n_samples,
        strata=arguments.strata,
        sample_key=arguments.sample_key,
        pseudobulk=arguments.pseudobulk,
        seed=arguments.seed,
    ).rename_axis("gene")
    called = f"is_de_fdr_{arguments.fdr}"
    numbers = table.groupby("comparison", sort=False)[called].sum().to_dict() if called in table else {}
    comparisons = list(table["comparison"].unique())
    says = f"{len(comparisons)} comparison{'s' * (len(comparisons) != 1)} of {table.index.nunique()} genes"
    if numbers:
        says += f"; called at an FDR of {arguments.fdr:g}: {', '.join(f'{n} in {name}' for name, n in numbers.items())}"
    facts = {"genes": table.index.nunique(), "comparisons": comparisons, "called": numbers}
    return table_answer(table, arguments, says, facts)


def _plan(arguments: argparse.Namespace) -> Answer:
    check_output(arguments)
    groups = " and ".join(arguments.group1 or ["each group"])
    does = [f"compare {groups} of {arguments.groupby!r} with {arguments.group2 or 'all other cells'}"]
    return planned(arguments, does, ("groupby", "sample_key", "strata"), _CLASSES)


_CLASSES = [name for name in LATENT if name != "GIMVI"]
