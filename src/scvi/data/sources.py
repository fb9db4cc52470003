"""Files of cells of any kind that is read here, opened and read a range of cells at a time."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset
from anndata.io import read_elem, sparse_dataset

from scvi.cells.storage import as_dense, as_rows, take
from scvi.data.archives import extract, is_archive
from scvi.data.files import Unreadable, as_counts, existing, names_of, numbered, readable_as, unique_names
from scvi.data.loom import Loom, open_loom
from scvi.data.matrix_market import read_matrix_market
from scvi.data.tenx import genes_and_others, listed_in_folder, matrix_file, matrix_folder, var_table
from scvi.data.tenx_h5 import TenxH5, open_tenx_h5

__all__ = ["Source", "open_source"]

logger = logging.getLogger(__name__)


Rows = tuple[sp.csr_matrix, np.ndarray]
"""Counts of some cells: of genes, and of proteins as an array of as many columns as there are."""
ANTIBODIES = "Antibody Capture"


class Source(Protocol):
    """An open file: n cells in `obs`, G genes in `var`, and names of the proteins that are counted beside them."""

    obs: pd.DataFrame
    var: pd.DataFrame
    proteins: pd.Index

    @property
    def row_bytes(self) -> float:
        """Mean size of a cell's counts while they are read."""

    def rows(self, start: int, stop: int) -> Rows:
        """The cells from `start` up to `stop`."""


def open_source(path: Path, layer: str | None, protein_key: str | None, stack: ExitStack) -> Source:
    """Opens an .h5ad, a loom file, or a folder, archive or .h5 of Cell Ranger, which are told apart by their contents.

    Parameters
    ----------
    layer
        Read these counts of an .h5ad in place of `X`.
    protein_key
        Key of `obsm` for the proteins of an .h5ad; None leaves those of any file out.
    stack
        Closes what is opened.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    path = existing(path)
    if path.is_dir():
        return _Folder.opened(matrix_folder(path), protein_key)
    if is_archive(path):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scvi-"))
        extract(path, folder)
        return _Folder.opened(matrix_folder(Path(folder), named=path), protein_key)
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file, no tar or zip archive and no folder; nothing else is read here")
    with readable_as(path, "an HDF5 file"), h5py.File(path) as file:
        is_h5ad, is_loom = "obs" in file and "var" in file, isinstance(file.get("matrix"), h5py.Dataset)
    if is_h5ad:
        return _H5ad.opened(path, layer, protein_key, stack)
    if is_loom:
        return _LoomFile.opened(path, stack.enter_context(open_loom(path)))
    return _H5.opened(path, stack.enter_context(open_tenx_h5(path)), protein_key)


_NONE = pd.Index([], dtype=object)


@dataclass
class _H5ad:
    path: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    counts: Any
    proteins: pd.Index
    protein_counts: Any

    @classmethod
    def opened(cls, path: Path, layer: str | None, protein_key: str | None, stack: ExitStack) -> _H5ad:
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
            proteins, protein_counts = _proteins_of_h5ad(file, protein_key, len(obs))
        unique_names(obs.index, "names of cells", path)
        proteins = unique_names(proteins, "proteins", path)
        return cls(path, obs, var.set_axis(numbered(var.index)), counts, proteins, protein_counts)

    @property
    def row_bytes(self) -> float:
        return float(getattr(self.counts, "row_bytes", 0.0))

    def rows(self, start: int, stop: int) -> Rows:
        with readable_as(self.path, "an .h5ad file"):
            rows = sp.csr_matrix(take(self.counts, np.arange(start, stop)))
            rows.sum_duplicates()
            genes = sp.csr_matrix((as_counts(rows.data), rows.indices, rows.indptr), shape=rows.shape)
            return genes, as_counts(np.asarray(self.protein_counts[start:stop]))


def _proteins_of_h5ad(file: h5py.File, key: str | None, n: int) -> tuple[pd.Index, Any]:
    """Names and (n, p) counts of the proteins, which stay on disk where they are an array."""
    none = np.empty((n, 0), np.int32)
    if key is None or f"obsm/{key}" not in file:
        return _NONE, none
    stored = file[f"obsm/{key}"]
    if not isinstance(stored, h5py.Dataset):
        stored = read_elem(stored)
    if isinstance(stored, pd.DataFrame):
        names, stored = stored.columns, stored.to_numpy()
    elif "uns/protein_names" in file:
        names = pd.Index(names_of(read_elem(file["uns/protein_names"])).ravel())
    else:
        logger.warning("%s: obsm[%r] is left out, for uns['protein_names'] is not there", file.filename, key)
        return _NONE, none
    counts = as_dense(stored) if sp.issparse(stored) else stored
    if counts.shape != (n, len(names)):
        raise ValueError(f"obsm/{key} has shape {counts.shape} for {n} cells and {len(names)} names of proteins")
    return pd.Index(names.astype(str), dtype=object), counts


@dataclass
class _LoomFile:
    obs: pd.DataFrame
    var: pd.DataFrame
    loom: Loom
    proteins: pd.Index = field(default_factory=_NONE.copy)

    @classmethod
    def opened(cls, path: Path, loom: Loom) -> _LoomFile:
        obs, var, _, _ = loom.tables()
        return cls(obs, var, loom)

    @property
    def row_bytes(self) -> float:
        return 8.0 * self.loom.shape[1]

    def rows(self, start: int, stop: int) -> Rows:
        return self.loom.rows(start, stop), np.empty((stop - start, 0), np.int32)


@dataclass
class _Features:
    """Which features of 10x are genes, and which proteins."""

    var: pd.DataFrame
    proteins: pd.Index
    genes: np.ndarray
    antibodies: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, path: Path, protein_key: str | None) -> _Features:
        genes, _ = genes_and_others(table, None, path)
        antibodies = np.flatnonzero((table["feature_types"] == ANTIBODIES).to_numpy() & (protein_key is not None))
        proteins = unique_names(table["gene_ids"].to_numpy()[antibodies], "proteins", path)
        return cls(var_table(table, genes, "gene_ids"), proteins, genes, antibodies)

    def apart(self, rows: sp.csr_matrix) -> Rows:
        proteins = rows[:, self.antibodies].toarray()
        return rows if len(self.genes) == rows.shape[1] else rows[:, self.genes], proteins


@dataclass
class _H5:
    obs: pd.DataFrame
    var: pd.DataFrame
    proteins: pd.Index
    file: TenxH5
    features: _Features

    @classmethod
    def opened(cls, path: Path, file: TenxH5, protein_key: str | None) -> _H5:
        features = _Features.of(file.features(), path, protein_key)
        obs = pd.DataFrame(index=unique_names(file.barcodes(), "barcodes", path))
        return cls(obs, features.var, features.proteins, file, features)

    @property
    def row_bytes(self) -> float:
        return 8.0 * float(self.file.indptr[-1]) / max(len(self.obs), 1)

    def rows(self, start: int, stop: int) -> Rows:
        return self.features.apart(self.file.rows(start, stop))


@dataclass
class _Folder:
    """Text is read from its beginning only: it is read whole, once, when its first cell is asked for."""

    folder: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    proteins: pd.Index
    features: _Features
    n_features: int
    counts: sp.csr_matrix | None = None

    @classmethod
    def opened(cls, folder: Path, protein_key: str | None) -> _Folder:
        table, barcodes = listed_in_folder(folder)
        if barcodes is None:
            raise FileNotFoundError(f"there is no barcodes.tsv(.gz) beside the matrix in {folder}")
        features = _Features.of(table, folder, protein_key)
        return cls(folder, pd.DataFrame(index=barcodes), features.var, features.proteins, features, len(table))

    @property
    def row_bytes(self) -> float:
        return 0.0

    def rows(self, start: int, stop: int) -> Rows:
        if self.counts is None:
            self.counts = read_matrix_market(matrix_file(self.folder), self.n_features, len(self.obs))
        rows = self.counts[start:stop]
        if stop == len(self.obs):
            self.counts = None
        return self.features.apart(rows)
