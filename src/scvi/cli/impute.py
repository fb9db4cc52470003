"""`scvi impute`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvi._files import replacing
from scvi.cli.answers import Answer
from scvi.cli.models import load_with_cells, require_class
from scvi.cli.options import Options, positive, use_machine
from scvi.cli.output import Refused
from scvi.cli.questions import TABLES, add_question, check_output, planned, write_table

if TYPE_CHECKING:
    import pandas as pd

HELP = """\
Writes the expected expression of every gene in every cell, free of sampling noise: of a gimVI model for the spatial
cells, also of genes that were measured in the dissociated ones alone; of a totalVI model with its proteins, without
their background. Shares of a cell's molecules, unless --library-size says otherwise.

An .h5ad has the values in X, and proteins in obsm["proteins"]; a .csv or .tsv has a line for each cell, and proteins
go into a file of their own beside it.
"""
EPILOG = """\
examples:
  scvi impute fit --output denoised.h5ad
  scvi impute fit --genes CD3E,MS4A1 --library-size 10000 --output denoised.csv
  scvi impute joint --genes Vip,Sst --output imputed.csv           of gimVI: genes that the tissue was not measured for
"""


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _library_size(text: str) -> float | str:
    from scvi.cli.options import number

    return "latent" if text == "latent" else number(text, "a positive number or latent", least=1e-300)


OPTIONS: Options = {
    "--genes": {"type": _names, "metavar": "A,B,...", "help": "in this order (default: all)"},
    "--proteins": {"type": _names, "metavar": "A,B,...", "help": "of totalVI, in this order (default: all)"},
    "--transform-batch": {
        "action": "append",
        "metavar": "BATCH",
        "help": "decode every cell as if it were of this batch, or the mean of several (default: its own)",
    },
    "--library-size": {
        "type": _library_size,
        "default": 1.0,
        "metavar": "X",
        "help": "what a cell sums to: a number, or latent for its own size, which gives expected counts (default: 1)",
    },
    "--n-samples": {"type": positive, "default": 1, "metavar": "N", "help": "draws to average (default: 1)"},
}


def add(commands: Any) -> None:
    """Adds the command."""
    output = ".h5ad, .csv or .tsv to write"
    texts = {"help": "write denoised or imputed expression", "description": HELP, "epilog": EPILOG}
    add_question(commands, "impute", _run, _plan, OPTIONS, output, **texts)


def _run(arguments: argparse.Namespace) -> Answer:
    _check(arguments)
    use_machine(arguments)
    model = load_with_cells(arguments)
    genes, proteins, cells = _imputed(model, arguments)
    files = _written(arguments.output, genes, proteins, cells)
    says = f"{len(genes)} cells x {genes.shape[1]} genes"
    facts = {"cells": len(genes), "genes": genes.shape[1], "files": files}
    if proteins is not None:
        says, facts = f"{says}, {proteins.shape[1]} proteins", {**facts, "proteins": proteins.shape[1]}
    return Answer(f"{', '.join(map(str, files))}  {says}", facts)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what does not go together, before anything is read."""
    if arguments.output is None:
        raise Refused("the following arguments are required: --output")
    check_output(arguments, (".h5ad", *TABLES))
    _, name = require_class(arguments)
    if arguments.proteins is not None and name != "TOTALVI":
        raise Refused(f"--proteins is for TOTALVI models; {str(arguments.model)!r} holds a {name}")
    if name == "TOTALVI" and arguments.output.suffix != ".h5ad":
        beside = _of_proteins(arguments.output)
        if beside.exists() and not arguments.overwrite:
            raise Refused(f"{str(beside)!r}, for the proteins, is there already; add --overwrite, or name another file")
    if name == "GIMVI" and (
        arguments.transform_batch or arguments.n_samples != 1 or arguments.library_size not in (1.0, "latent")
    ):
        raise Refused("of a GIMVI model there is --library-size latent or 1, and no --transform-batch or --n-samples")


def _imputed(model: Any, arguments: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame | None, Any]:
    """Tables of genes and of proteins, and the cells that they are about."""
    import pandas as pd

    if type(model).__name__ == "GIMVI":
        cells = model.adata_spatial
        is_normalized = arguments.library_size != "latent"
        values = model.get_imputed_values([cells], gene_list=arguments.genes, normalized=is_normalized)[0]
        names = model.gene_names if arguments.genes is None else arguments.genes
        return pd.DataFrame(values, index=cells.obs_names, columns=names), None, cells
    asked = {
        "gene_list": arguments.genes,
        "transform_batch": arguments.transform_batch,
        "library_size": arguments.library_size,
        "n_samples": arguments.n_samples,
        "seed": arguments.seed,
    }
    if type(model).__name__ == "TOTALVI":
        return *model.get_normalized_expression(**asked, protein_list=arguments.proteins), model.adata
    return model.get_normalized_expression(**asked), None, model.adata


def _written(path: Path, genes: pd.DataFrame, proteins: pd.DataFrame | None, cells: Any) -> list[Path]:
    """Writes the tables, and says into which files."""
    if path.suffix == ".h5ad":
        _write_h5ad(path, genes, proteins, cells)
        return [path]
    write_table(genes.rename_axis("cell"), path)
    if proteins is None:
        return [path]
    write_table(proteins.rename_axis("cell"), _of_proteins(path))
    return [path, _of_proteins(path)]


def _of_proteins(path: Path) -> Path:
    """The table of proteins beside that of genes."""
    stem = path.name.partition(".")[0]
    return path.with_name(f"{stem}_proteins{path.name[len(stem) :]}")


def _write_h5ad(path: Path, genes: pd.DataFrame, proteins: pd.DataFrame | None, cells: Any) -> None:
    import pandas as pd
    from anndata import AnnData

    from scvi._writing import writable, write_h5ad

    obsm = {} if proteins is None else {"proteins": proteins}
    obs = cells.obs.loc[genes.index] if cells.obs_names.is_unique else cells.obs
    adata = AnnData(genes.to_numpy(), obs=obs, var=pd.DataFrame(index=genes.columns), obsm=obsm)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        write_h5ad(temporary, writable(adata, "adata"), compression="gzip")


def _plan(arguments: argparse.Namespace) -> Answer:
    _check(arguments)
    which = "all genes" if arguments.genes is None else f"{len(arguments.genes)} genes"
    return planned(arguments, [f"decode the expression of {which} in every cell"])
