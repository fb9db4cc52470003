"""Counts of single cells by in-situ hybridisation: osmFISH, seqFISH and seqFISH+, as their authors published them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import (
    Unreadable,
    as_counts,
    existing,
    is_finite,
    names_of,
    numbered,
    open_bytes,
    read_table,
    readable_as,
    require,
    unique_names,
)
from scvi.data.loom import open_loom

_LARGEST_CLUSTER = 2**16 - 1
HIGH_LEVEL = {
    "Astrocytes": (3, 2),
    "Endothelials": (7, 26),
    "Inhibitory": (18, 17, 14, 19, 15, 16, 20),
    "Microglias": (29, 28),
    "Oligodendrocytes": (32, 33, 30, 22, 21),
    "Pyramidals": (9, 8, 10, 6, 5, 4, 12, 1, 13),
}
"""Numbers of the clusters of osmFISH in each of the types that they belong to."""


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
    if several or loom.genes["Gene"].size != counts.shape[1]:
        raise Unreadable(f"{path} has several values for each cell or gene in {several or ['Gene']}")
    if not all(is_finite(loom.cells[name]) for name in ("X", "Y")):
        raise Unreadable(f"{path} has places, 'X' and 'Y', that are no numbers")
    clusters, names, x, y = (loom.cells[name].ravel() for name in columns)
    numbers = clusters.dtype.kind in "iuf" and (clusters >= 0) & (clusters <= _LARGEST_CLUSTER) & (
        clusters == np.floor(clusters)
    )
    if not np.all(numbers):
        raise Unreadable(f"{path} has values in 'ClusterID' that are no whole numbers from 0 to {_LARGEST_CLUSTER}")
    with readable_as(path, "a loom file of clusters and genes"):
        obs = pd.DataFrame({"ClusterID": clusters.astype(np.int64), "ClusterName": names_of(names)})
        obs.index = obs.index.astype(str)
        var = pd.DataFrame(index=numbered(names_of(loom.genes["Gene"]).ravel()))
    return AnnData(counts, obs=obs, var=var, obsm={"coords": np.stack([x, y], axis=1)})


def read_seqfish(path: str | os.PathLike[str], sheet: str = "Hippocampus Counts") -> AnnData:
    """Reads a sheet of the workbook of the mouse hippocampus by seqFISH (Shah et al. 2016).

    A line for each gene: its name, in apostrophes, and a count for each cell. A line of names of cells may be above
    them; its corner is empty, or it has texts where the others have counts.

    Returns
    -------
    Counts as CSR, cells x genes. Names of genes that occur twice get a number.

    Raises
    ------
    ImportError
        If openpyxl is not installed.
    ValueError
        If it is no workbook, has no such sheet, holds something that is no number, or a gene has no name.
    """
    path = existing(path)
    try:
        import openpyxl  # noqa: F401  # pandas reads workbooks through it
    except ImportError as error:
        raise ImportError("reading .xlsx needs openpyxl: pip install 'scvi[xlsx]'") from error
    with readable_as(path, "an Excel workbook"):
        options: dict[str, Any] = {"na_values": [""], "keep_default_na": False}  # a gene may be called "NA"
        table = pd.read_excel(path, sheet_name=sheet, engine="openpyxl", header=None, dtype=object, **options)
        table = table.dropna(how="all").dropna(how="all", axis=1)
        if table.empty:
            raise ValueError(f"the sheet {sheet!r} has no counts")
        first, cells = table.iloc[0], pd.RangeIndex(table.shape[1] - 1).astype(str)
        if pd.isna(first.iloc[0]) or any(isinstance(value, str) for value in first.iloc[1:]):
            cells, table = pd.Index(first.iloc[1:].astype(str)), table.iloc[1:]
        counts = sp.csr_matrix(as_counts(table.iloc[:, 1:].infer_objects().to_numpy()).T)
        genes = table.iloc[:, 0]
        if not all(isinstance(name, str) for name in genes):
            raise ValueError("a line does not begin with the name of a gene")
    var = pd.DataFrame(index=numbered(genes.str.strip("' ")))
    return AnnData(counts, obs=pd.DataFrame(index=unique_names(cells, "names of cells", path)), var=var)


def read_seqfishplus(counts: str | os.PathLike[str], centroids: str | os.PathLike[str]) -> AnnData:
    """Reads the two tables of a region of the mouse brain by seqFISH+ (Eng et al. 2019).

    Parameters
    ----------
    counts
        A line of names of genes, then a line for each cell. A column without a name in front numbers the cells.
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
        table = read_table(file)
        if table.columns[0] == "Unnamed: 0":  # how pandas calls what has no name, as it writes its index
            table = table.set_index("Unnamed: 0")
        matrix = sp.csr_matrix(as_counts(table.to_numpy()))
    with readable_as(existing(centroids), "a table of places"):
        places = read_table(centroids, dtype={"Region": str})
        require(centroids, places, ("Field of View", "Cell ID", "X", "Y"), "columns")
        if not all(is_finite(places[name].to_numpy()) for name in ("X", "Y")):
            raise ValueError("it has places that are no numbers")
    if len(places) != len(table):
        raise Unreadable(f"{counts} has {len(table)} cells and {centroids} {len(places)}")
    columns = {"Field of View": "field_of_view", "Cell ID": "cell_id", "Region": "region"}
    obs = places[[name for name in columns if name in places]].rename(columns=columns)
    obs.index = obs.index.astype(str)
    coords = places[["X", "Y"]].to_numpy(np.float64)
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=numbered(table.columns)), obsm={"coords": coords})
