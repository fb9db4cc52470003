"""Blood cells of two runs of 10x Genomics with the cell types and quality metrics that were published for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells.storage import row_sums
from scvi.data.files import Unreadable, existing, readable_as, shared_names
from scvi.data.unpickling import read_metadata

__all__ = ["read_pbmc"]

_TABLES = ("design", "raw_qc", "qc_pc", "normalized_qc")


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
        info = pd.read_csv(genes)
        if "ENSG" not in info:
            raise ValueError("it has no column ENSG")
    known = read_metadata(metadata, "barcodes", "clusters", "list_clusters", *_TABLES)
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
            "cell_type": _cell_types(known)[rows],
        }
    )
    columns = getattr(known["raw_qc"], "columns", None)
    return AnnData(
        sp.vstack([run[:, names].X for run in runs], format="csr")[cells],
        obs=obs.set_axis(obs.index.astype(str)),
        var=info.loc[names],
        obsm={name: _as_array(known[name])[rows] for name in _TABLES},
        uns={} if columns is None else {"qc_names": columns.to_numpy().astype(str)},
    )


def _cell_types(known: dict[str, Any]) -> pd.Categorical:
    names = np.asarray(known["list_clusters"]).astype(str).ravel()
    clusters = np.asarray(known["clusters"]).ravel().astype(np.int64)
    if clusters.min() < 0 or clusters.max() >= len(names):  # codes that do not count from 0
        clusters = np.unique(clusters, return_inverse=True)[1]
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
