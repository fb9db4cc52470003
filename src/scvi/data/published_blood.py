"""Blood and its progenitors as they were published: CITE-seq tables, PBMC of 10x Genomics, haematopoiesis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from scipy.special import logit

from scvi.cells.storage import row_sums
from scvi.data.csv import read_csv
from scvi.data.files import (
    Unreadable,
    as_counts,
    existing,
    is_finite,
    numbered,
    open_bytes,
    read_lines,
    read_table,
    readable_as,
    require,
    shared_names,
    stacked,
)
from scvi.data.pickles import read_metadata

_HUMAN = "HUMAN"
_LINES_AT_ONCE = 256
_CELL = ["cell_id", "library_id"]
_EXCLUDED = "basal_bm1"
_TABLES = ("design", "raw_qc", "qc_pc", "normalized_qc")
LINEAGES = {
    "Pr_Er": "Erythroid",
    "Pr_Gr": "Granulocyte",
    "Pr_Ly": "Lymphoid",
    "Pr_DC": "Dendritic",
    "Pr_Mk": "Megakaryocyte",
    "Pr_Mo": "Monocyte",
    "Pr_Ba": "Basophil",
}


def read_cite_seq(
    rna: str | os.PathLike[str], adt: str | os.PathLike[str], adt_centered: str | os.PathLike[str]
) -> AnnData:
    """Reads the three tables of an experiment: genes x cells, antibodies x cells twice.

    Parameters
    ----------
    rna
        Counts of genes named after their species, ``HUMAN_`` and ``MOUSE_``; the human ones are kept, without that
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
        table = read_table(path, index_col=0)
        if not all(dtype.kind in "iuf" for dtype in table.dtypes) or table.isna().any(axis=None):
            raise ValueError("it holds something that is no number")
    return table


def read_hemato(
    counts: str | os.PathLike[str], spring: str | os.PathLike[str], genes: str | os.PathLike[str]
) -> AnnData:
    """Reads the three files of the data set.

    Parameters
    ----------
    counts
        Table of cells: cell_id, library_id, and a column for each gene. Library basal_bm1 is left out.
    spring
        Table of cells: cell_id, coordinates, probabilities of the lineages.
    genes
        Names of the genes to keep, one on a line.

    Returns
    -------
    Counts as CSR of the cells in both tables; in `obs` their other columns, and fate_score, the logit of Pr_Gr less
    that of Pr_Er, where 0 and 1 stand for the nearest value between them.

    Raises
    ------
    ValueError
        If a table is damaged, or they have no cells or genes in common.
    """
    with readable_as(existing(spring), "a table of cells"):
        places = read_table(spring, dtype={"cell_id": str})
        require(spring, places, ("cell_id", "x_spring", "y_spring", *LINEAGES), "columns")
        if not all(is_finite(places[name].to_numpy()) for name in ("x_spring", "y_spring", *LINEAGES)):
            raise ValueError("it has coordinates or probabilities that are no numbers")
    cells, matrix, kept = _counts(Path(counts), _gene_list(Path(genes)))
    cells = cells.assign(row=np.arange(len(cells)))[cells["library_id"] != _EXCLUDED]
    joined = cells.merge(places, on=[name for name in _CELL if name in places], how="inner")
    if joined.empty:
        raise Unreadable(f"{counts} and {spring} have no cells in common")
    obs = joined.drop(columns="row").set_index(pd.RangeIndex(len(joined)).astype(str))
    obs["fate_score"] = _fate(obs["Pr_Gr"]) - _fate(obs["Pr_Er"])
    return AnnData(matrix[joined["row"].to_numpy()], obs=obs, var=pd.DataFrame(index=kept))


def _gene_list(path: Path) -> list[str]:
    names = (line[0].strip() for line in read_lines(path, "a list of genes"))
    return list(dict.fromkeys(name for name in names if name))


def _counts(path: Path, wanted: list[str]) -> tuple[pd.DataFrame, sp.csr_matrix, list[str]]:
    """Names of the cells, their counts, and which genes these are of."""
    with readable_as(existing(path), "a table of cells"):
        with open_bytes(path) as file:
            columns = read_table(file, nrows=0).columns
        require(path, columns, _CELL, "columns")
        kept = [gene for gene in wanted if gene in columns]
        if not kept:
            raise ValueError("none of the genes to keep is in it")
        options = {"usecols": [*_CELL, *kept], "dtype": dict.fromkeys(_CELL, str), "chunksize": _LINES_AT_ONCE}
        with open_bytes(path) as file, read_table(file, **options) as parts:
            read = [(part[_CELL], sp.csr_matrix(as_counts(part[kept].to_numpy()))) for part in parts]
    cells = pd.concat([names for names, _ in read], ignore_index=True)
    return cells, stacked([block for _, block in read], len(kept)), kept


def _fate(probability: pd.Series) -> np.ndarray:
    """Log odds; 0 and 1 stand for the nearest value between them."""
    p = probability.to_numpy(np.float64)
    inner = p[(p > 0) & (p < 1)]
    return logit(np.clip(p, inner.min(), inner.max()) if len(inner) else p)


def read_pbmc(runs: Sequence[AnnData], metadata: str | os.PathLike[str], genes: str | os.PathLike[str]) -> AnnData:
    """Joins the counts of runs with what is known of their cells and genes.

    Parameters
    ----------
    runs
        As :func:`scvi.data.read_10x` reads them, genes by Ensembl identifier. Cells without counts are left out.
    metadata
        Pickle with tables of the cells (barcodes, clusters, design, raw_qc, qc_pc, normalized_qc), and the names of the
        clusters (list_clusters).
    genes
        Table of genes, with a column ENSG.

    Returns
    -------
    Counts as CSR of the cells and genes that all of these have, cells in the order of the metadata; in `obs` the
    position of the run, the barcode and the cell type, in `obsm` the tables, in `var` the table of genes, in
    ``uns["qc_names"]`` the columns of raw_qc, if they have names.

    Raises
    ------
    ValueError
        If a file is damaged, lacks a table, or has no cells or genes in common with the counts.
    """
    with readable_as(existing(genes), "a table of genes"):
        info = read_table(genes)
        if "ENSG" not in info:
            raise ValueError("it has no column ENSG")
    known = read_metadata(metadata, "barcodes", "clusters", "list_clusters", *_TABLES)
    with readable_as(metadata, "metadata of cells"):
        cell_types, tables = _cell_types(known), {name: _as_array(known[name]) for name in _TABLES}
        short = [name for name, table in tables.items() if len(table) != len(cell_types)]
        if short or len(known["barcodes"]) != len(cell_types):
            raise ValueError(f"its tables {['barcodes', *short]} are not of the {len(cell_types)} cells with a cluster")
    runs = [run[row_sums(run.X) > 0] for run in runs]
    rows, cells = _matched(known["barcodes"], [run.obs_names for run in runs])
    if not len(rows):
        raise Unreadable(f"{metadata} has none of the barcodes of the counts")
    names = shared_names([run.var_names for run in runs])
    info = info.drop_duplicates("ENSG").set_index("ENSG", drop=False).rename_axis(None)
    names = names[names.isin(info.index)]
    if not len(names):
        raise Unreadable(f"{genes} has none of the genes of the counts")
    obs = pd.DataFrame(
        {
            "run": np.repeat(range(len(runs)), [run.n_obs for run in runs])[cells],
            "barcode": np.concatenate([run.obs_names for run in runs])[cells],
            "cell_type": cell_types[rows],
        }
    )
    columns = getattr(known["raw_qc"], "columns", None)
    return AnnData(
        sp.vstack([run[:, names].X for run in runs], format="csr")[cells],
        obs=obs.set_axis(obs.index.astype(str)),
        var=info.loc[names],
        obsm={name: table[rows] for name, table in tables.items()},
        uns={} if columns is None else {"qc_names": columns.to_numpy().astype(str)},
    )


def _cell_types(known: dict[str, Any]) -> pd.Categorical:
    names = np.asarray(known["list_clusters"]).astype(str).ravel()
    clusters = np.asarray(known["clusters"]).ravel().astype(np.int64)
    if clusters.min() == 1 and clusters.max() == len(names):
        clusters = clusters - 1  # they count from 1
    if clusters.min() < 0 or clusters.max() >= len(names):
        raise ValueError(f"it has clusters from {clusters.min()} to {clusters.max()}, and names of {len(names)}")
    return pd.Categorical.from_codes(clusters, names)


def _matched(barcodes: Any, runs: list[pd.Index]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the metadata that are cells of the runs, and which cells these are, all runs one after the other.

    Barcodes that occur in both runs got a further 1 at their second place in the metadata. Those that end so have no
    labels and are left out. At its first place such a barcode is of the run that the cells before it are of.
    """
    table = barcodes.index if isinstance(barcodes, (pd.DataFrame, pd.Series)) else pd.Index(np.ravel(barcodes))
    names = table.astype(str)
    places = np.stack([run.get_indexer(names) for run in runs])  # (runs, rows)
    found = places >= 0
    run = pd.Series(np.where(found.sum(axis=0) == 1, found.argmax(axis=0), np.nan))
    run = run.ffill().bfill().fillna(0).to_numpy(np.int64)
    run = np.where(found.sum(axis=0) > 1, run, found.argmax(axis=0))
    starts = np.cumsum([0, *(len(run_barcodes) for run_barcodes in runs[:-1])])
    rows = np.flatnonzero(found.any(axis=0) & ~names.str.endswith("11"))
    return rows, places[run[rows], rows] + starts[run[rows]]


def _as_array(table: Any) -> np.ndarray:
    """Numbers as they are, anything else as text."""
    values = np.asarray(table)
    return values if values.dtype.kind in "biuf" else values.astype(str)
