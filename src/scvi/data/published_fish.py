"""Counts of single cells by in-situ hybridisation: osmFISH, seqFISH and seqFISH+, as their authors published them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import Unreadable, as_counts, existing, names_of, numbered, open_bytes, readable_as, require
from scvi.data.loom import open_loom

_LARGEST_CLUSTER = 2**16 - 1


def read_smfish(path: str | os.PathLike[str]) -> AnnData:
    """Reads the loom file of the mouse somatosensory cortex by osmFISH (Codeluppi et al. 2018).

    Returns
    -------
    Counts as CSR; in `obs` ClusterID (int64) and ClusterName, as the authors have them; ``obsm["coords"]``.

    Raises
    ------
    ValueError
        If the file is damaged, no loom file, or lacks clusters, places or names of genes.
    """
    with open_loom(path) as loom:
        counts = loom.rows(0, loom.shape[0])
    columns = ("ClusterID", "ClusterName", "X", "Y")
    require(path, loom.cells, columns, "attributes")
    require(path, loom.genes, ["Gene"], "attributes")
    several = [name for name in columns if loom.cells[name].size != counts.shape[0]]
    if several:
        raise Unreadable(f"{path} has several values for each cell in {several}")
    clusters, names, x, y = (loom.cells[name].ravel() for name in columns)
    if clusters.dtype.kind not in "iuf" or not ((clusters >= 0) & (clusters <= _LARGEST_CLUSTER)).all():
        raise Unreadable(f"{path} has values in 'ClusterID' that are no numbers from 0 to {_LARGEST_CLUSTER}")
    obs = pd.DataFrame({"ClusterID": clusters.astype(np.int64), "ClusterName": names_of(names)})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=numbered(names_of(loom.genes["Gene"]).ravel()))
    return AnnData(counts, obs=obs, var=var, obsm={"coords": np.stack([x, y], axis=1)})


def read_seqfish(path: str | os.PathLike[str], sheet: str = "Hippocampus Counts") -> AnnData:
    """Reads a sheet of the workbook of the mouse hippocampus by seqFISH (Shah et al. 2016).

    A line of names, then a line for each cell, its name first.

    Returns
    -------
    Counts as CSR.

    Raises
    ------
    ImportError
        If openpyxl is not installed.
    ValueError
        If it is no workbook, has no such sheet, or holds something that is no number.
    """
    path = existing(path)
    try:
        import openpyxl  # noqa: F401  # pandas reads workbooks through it
    except ImportError as error:
        raise ImportError("reading .xlsx needs openpyxl: pip install 'scvi[xlsx]'") from error
    with readable_as(path, "an Excel workbook"):
        table = pd.read_excel(path, sheet_name=sheet, engine="openpyxl", index_col=0)
        if table.empty:
            raise ValueError(f"the sheet {sheet!r} has no counts")
        counts = sp.csr_matrix(as_counts(table.to_numpy()))
    names = table.index.astype(str) if table.index.is_unique else pd.RangeIndex(len(table)).astype(str)
    var = pd.DataFrame(index=numbered(table.columns.astype(str)))
    return AnnData(counts, obs=pd.DataFrame(index=names), var=var)


def read_seqfishplus(counts: str | os.PathLike[str], centroids: str | os.PathLike[str]) -> AnnData:
    """Reads the two tables of a region of the mouse brain by seqFISH+ (Eng et al. 2019).

    Parameters
    ----------
    counts
        A line of names of genes, then a line for each cell.
    centroids
        Field of View, Cell ID, X, Y and, for the cortex, Region of the same cells.

    Returns
    -------
    Counts as CSR; in `obs` field_of_view, cell_id and, where it is there, region; ``obsm["coords"]``.

    Raises
    ------
    ValueError
        If a table is damaged, or they are of different numbers of cells.
    """
    with readable_as(existing(counts), "a table of counts"), open_bytes(Path(counts)) as file:
        table = pd.read_csv(file)
        matrix = sp.csr_matrix(as_counts(table.to_numpy()))
    with readable_as(existing(centroids), "a table of places"):
        places = pd.read_csv(centroids, dtype={"Region": str})
    require(centroids, places, ("Field of View", "Cell ID", "X", "Y"), "columns")
    if len(places) != len(table):
        raise Unreadable(f"{counts} has {len(table)} cells and {centroids} {len(places)}")
    columns = {"Field of View": "field_of_view", "Cell ID": "cell_id", "Region": "region"}
    obs = places[[name for name in columns if name in places]].rename(columns=columns)
    obs.index = obs.index.astype(str)
    coords = places[["X", "Y"]].to_numpy(np.float64)
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=numbered(table.columns)), obsm={"coords": coords})
