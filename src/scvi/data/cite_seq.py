"""CITE-seq of Stoeckius et al. 2017 (GSE100866): RNA and antibodies of the same cells."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.data.csv import read_csv
from scvi.data.files import Unreadable, existing, numbered, readable_as

__all__ = ["read_cite_seq"]

_HUMAN = "HUMAN"


def read_cite_seq(
    rna: str | os.PathLike[str], adt: str | os.PathLike[str], adt_centered: str | os.PathLike[str]
) -> AnnData:
    """Reads the three tables of an experiment: genes x cells, antibodies x cells twice.

    Parameters
    ----------
    rna
        Counts of genes named after their species, HUMAN_... and MOUSE_...; the human ones are kept, without that
        prefix.
    adt, adt_centered
        Counts of antibodies, and the authors' centred log ratios.

    Returns
    -------
    Counts as CSR; ``obsm["protein_expression"]`` and ``obsm["protein_expression_clr"]`` with names of the antibodies in
    ``uns["protein_names"]`` and ``uns["protein_names_clr"]``.

    Raises
    ------
    ValueError
        If a table is damaged, there are no human genes, or cells or antibodies of the tables differ.
    """
    counts = read_csv(rna, genes_in_rows=True)
    human = counts.var_names.str.startswith(_HUMAN)
    if not human.any():
        raise Unreadable(f"{rna} has no genes called {_HUMAN}_..., such as {str(counts.var_names[0])!r}")
    protein = read_csv(adt, genes_in_rows=True)
    centered = _read_values(Path(adt_centered))
    if list(protein.var_names) != list(centered.index):
        raise Unreadable(f"{adt} and {adt_centered} do not have the same antibodies in the same order")
    for path, cells in ((adt, protein.obs_names), (adt_centered, centered.columns)):
        lacking = counts.obs_names.difference(cells)
        if len(lacking):
            raise Unreadable(f"{path} lacks {len(lacking)} cells of {rna}, {str(lacking[0])!r} among them")
    names = counts.var_names[human].str.rpartition("_").get_level_values(2)
    var = pd.DataFrame({"gene_symbols": names.to_numpy()}, index=numbered(names))
    adata = AnnData(counts.X[:, np.flatnonzero(human)], obs=counts.obs, var=var)
    adata.obsm["protein_expression"] = protein[adata.obs_names].X.toarray()
    adata.obsm["protein_expression_clr"] = centered[list(adata.obs_names)].to_numpy().T
    proteins = protein.var_names.to_numpy().astype(str)
    adata.uns["protein_names"], adata.uns["protein_names_clr"] = proteins, proteins.copy()
    return adata


def _read_values(path: Path) -> pd.DataFrame:
    """A small table of numbers that are no counts."""
    with readable_as(existing(path), "a table of numbers"):
        table = pd.read_csv(path, index_col=0)
        if not all(dtype.kind in "iuf" for dtype in table.dtypes) or table.isna().any(axis=None):
            raise ValueError("it holds something that is no number")
    return table
