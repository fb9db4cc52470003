"""Files of cells of any kind that is read here, opened and read a range of cells at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset
from anndata.io import read_elem, sparse_dataset

from scvi._links import refuse_links
from scvi.cells.checks import rows_in_order, values_of_table
from scvi.cells.storage import as_dense, as_rows, take
from scvi.data.archives import is_archive
from scvi.data.files import as_counts, existing, names_of, numbered, readable_as, unique_names
from scvi.data.heaps import refuse_endless_heaps
from scvi.data.loom import Loom, open_loom
from scvi.data.tenx import ANTIBODIES, TenxFolder, TenxH5, columns_of, genes_and_others, open_10x, var_table

logger = logging.getLogger(__name__)

_NONE = pd.Index([], dtype=object)
Rows = tuple[sp.csr_matrix, np.ndarray]
"""Counts of some cells: of genes, and of proteins as an array of as many columns as there are."""


@dataclass
class Source:
    """An open file: n cells, G genes.

    Attributes
    ----------
    obs, var
        Tables of cells and of genes.
    proteins
        Names of the proteins that are counted beside them.
    row_bytes
        Mean size of a cell's counts while they are read.
    rows
        Gives the cells from a first up to an end.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    proteins: pd.Index
    row_bytes: float
    rows: Callable[[int, int], Rows]


def open_source(
    path: Path, layer: str | None, protein_key: str | None, stack: ExitStack, allow_links: bool = False
) -> Source:
    """Opens an .h5ad, a loom file, or a folder, archive or .h5 of Cell Ranger, which are told apart by their contents.

    Parameters
    ----------
    layer
        Read these counts of an .h5ad in place of `X`.
    protein_key
        Key of `obsm` for the proteins of an .h5ad; None leaves those of any file out.
    stack
        Closes what is opened.
    allow_links
        Follow the links of HDF5 files to others.

    Raises
    ------
    ValueError
        If it is none of these, or has links that are not allowed.
    """
    if existing(path).is_file() and not is_archive(path) and h5py.is_hdf5(path):
        with readable_as(path, "an HDF5 file"):
            refuse_endless_heaps(path)
        with readable_as(path, "an HDF5 file"), h5py.File(path) as file:
            refuse_links(file, allow_links)
            is_h5ad, is_loom = "obs" in file and "var" in file, isinstance(file.get("matrix"), h5py.Dataset)
        if is_h5ad:
            return _of_h5ad(path, layer, protein_key, stack)
        if is_loom:
            return _of_loom(stack.enter_context(open_loom(path, allow_links)))
    return _of_10x(path, stack.enter_context(open_10x(path, allow_links=allow_links)), protein_key)


def _of_h5ad(path: Path, layer: str | None, protein_key: str | None, stack: ExitStack) -> Source:
    with readable_as(path, "an .h5ad file"):
        file = stack.enter_context(h5py.File(path))
        key = "X" if layer is None else f"layers/{layer}"
        if key not in file:
            raise ValueError(f"it has no counts in {key}")
        obs, var = read_elem(file["obs"]), read_elem(file["var"])
        stored = file[key] if isinstance(file[key], h5py.Dataset) else sparse_dataset(file[key])
        counts = as_rows(stored.to_memory() if isinstance(stored, CSCDataset) else stored, key)
        if counts.shape != (len(obs), len(var)):
            raise ValueError(f"{key} has shape {counts.shape} for {len(obs)} cells and {len(var)} genes")
        proteins, protein_counts = _proteins_of_h5ad(file, protein_key, obs.index)
    unique_names(obs.index, "names of cells", path)
    proteins = unique_names(proteins, "proteins", path)

    def rows(start: int, stop: int) -> Rows:
        with readable_as(path, "an .h5ad file"):
            rows = sp.csr_matrix(take(counts, np.arange(start, stop)))
            rows.sum_duplicates()
            genes = sp.csr_matrix((as_counts(rows.data), rows.indices, rows.indptr), shape=rows.shape)
            return genes, _with_gaps(np.asarray(protein_counts[start:stop]))

    return Source(obs, var.set_axis(numbered(var.index)), proteins, getattr(counts, "row_bytes", 0.0), rows)


def _proteins_of_h5ad(file: h5py.File, key: str | None, cells: pd.Index) -> tuple[pd.Index, Any]:
    """Names and (n, p) counts of the proteins of the `cells`, (n,) names; they stay on disk where they are an array."""
    n = len(cells)
    none = np.empty((n, 0), np.int32)
    if key is None or f"obsm/{key}" not in file:
        return _NONE, none
    stored = file[f"obsm/{key}"]
    if not isinstance(stored, h5py.Dataset):
        stored = read_elem(stored)
    if isinstance(stored, pd.DataFrame):
        stored = rows_in_order(stored, cells, f"adata.obsm[{key!r}]")
        names, stored = stored.columns, values_of_table(stored, f"obsm/{key}")
    elif "uns/protein_names" in file:
        names = pd.Index(names_of(read_elem(file["uns/protein_names"])).ravel())
    else:
        logger.warning("%s: obsm[%r] is left out, for uns['protein_names'] is not there", file.filename, key)
        return _NONE, none
    counts = as_dense(stored) if sp.issparse(stored) else stored
    if counts.shape != (n, len(names)):
        raise ValueError(f"obsm/{key} has shape {counts.shape} for {n} cells and {len(names)} names of proteins")
    return pd.Index(names.astype(str), dtype=object), counts


def _with_gaps(values: np.ndarray) -> np.ndarray:
    """Counts of proteins, NaN where one was not measured."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    if not missing.any():
        return as_counts(values)
    return np.where(missing, np.float32(np.nan), as_counts(np.where(missing, 0, values)).astype(np.float32))


def _of_loom(loom: Loom) -> Source:
    def rows(start: int, stop: int) -> Rows:
        return loom.rows(start, stop), np.empty((stop - start, 0), np.int32)

    obs, var, _, _ = loom.tables()
    return Source(obs, var, _NONE, 8.0 * loom.shape[1], rows)


def _of_10x(path: Path, file: TenxFolder | TenxH5, protein_key: str | None) -> Source:
    features, barcodes = file.features, file.barcodes
    if barcodes is None:
        raise FileNotFoundError(f"there is no list of barcodes in {path}, or beside its matrix")
    genes, _ = genes_and_others(features, None, path)
    antibodies = np.flatnonzero((features["feature_types"] == ANTIBODIES).to_numpy() & (protein_key is not None))
    named = features["gene_ids"] if "gene_ids" in features else pd.Series(dtype=object)
    proteins = unique_names(named.to_numpy()[antibodies], "proteins", path)

    def rows(start: int, stop: int) -> Rows:
        rows = file.rows(start, stop)
        return columns_of(rows, genes), rows[:, antibodies].toarray()

    var = var_table(features, genes, "gene_ids", path)
    return Source(pd.DataFrame(index=barcodes), var, proteins, file.row_bytes, rows)
