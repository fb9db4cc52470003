"""Files of cells of any kind that is read here, opened and read a range of cells at a time."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset
from anndata.io import read_elem, sparse_dataset

from scvi.dataset.archives import extract, is_archive
from scvi.dataset.counts import as_rows, take
from scvi.dataset.files import Unreadable, as_counts, existing, numbered, readable_as, unique_names
from scvi.dataset.loom import Loom, open_loom
from scvi.dataset.matrix_market import read_matrix_market
from scvi.dataset.tenx import genes_and_others, listed_in_folder, matrix_file, matrix_folder, var_table
from scvi.dataset.tenx_h5 import TenxH5, open_tenx_h5

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """An open file: n cells in `obs`, G genes in `var`."""

    obs: pd.DataFrame
    var: pd.DataFrame

    @property
    def row_bytes(self) -> float:
        """Mean size of a cell's counts while they are read."""

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of the cells from `start` up to `stop`."""


def open_source(path: Path, layer: str | None, stack: ExitStack) -> Source:
    """Opens an .h5ad, a loom file, or a folder, archive or .h5 of Cell Ranger, which are told apart by their contents.

    Parameters
    ----------
    layer
        Read these counts of an .h5ad in place of `X`.
    stack
        Closes what is opened.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    path = existing(path)
    if path.is_dir():
        return _Folder.opened(matrix_folder(path))
    if is_archive(path):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scvi-"))
        extract(path, folder)
        return _Folder.opened(matrix_folder(Path(folder), named=path))
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file, no tar or zip archive and no folder; nothing else is read here")
    with readable_as(path, "an HDF5 file"), h5py.File(path) as file:
        is_h5ad, is_loom = "obs" in file and "var" in file, isinstance(file.get("matrix"), h5py.Dataset)
    if is_h5ad:
        return _H5ad.opened(path, layer, stack)
    if is_loom:
        return _LoomFile.opened(path, stack.enter_context(open_loom(path)))
    return _H5.opened(path, stack.enter_context(open_tenx_h5(path)))


@dataclass
class _H5ad:
    path: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    counts: Any

    @classmethod
    def opened(cls, path: Path, layer: str | None, stack: ExitStack) -> _H5ad:
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
        unique_names(obs.index, "names of cells", path)
        return cls(path, obs, var.set_axis(numbered(var.index)), counts)

    @property
    def row_bytes(self) -> float:
        return float(getattr(self.counts, "row_bytes", 0.0))

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        with readable_as(self.path, "an .h5ad file"):
            rows = sp.csr_matrix(take(self.counts, np.arange(start, stop)))
            rows.sum_duplicates()
            return sp.csr_matrix((as_counts(rows.data), rows.indices, rows.indptr), shape=rows.shape)


@dataclass
class _LoomFile:
    obs: pd.DataFrame
    var: pd.DataFrame
    loom: Loom

    @classmethod
    def opened(cls, path: Path, loom: Loom) -> _LoomFile:
        obs, var, _, _ = loom.tables()
        return cls(obs, var, loom)

    @property
    def row_bytes(self) -> float:
        return 8.0 * self.loom.shape[1]

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        return self.loom.rows(start, stop)


@dataclass
class _H5:
    obs: pd.DataFrame
    var: pd.DataFrame
    file: TenxH5
    genes: np.ndarray

    @classmethod
    def opened(cls, path: Path, file: TenxH5) -> _H5:
        features = file.features()
        genes, _ = genes_and_others(features, None, path)
        obs = pd.DataFrame(index=unique_names(file.barcodes(), "barcodes", path))
        return cls(obs, var_table(features, genes, "gene_ids"), file, genes)

    @property
    def row_bytes(self) -> float:
        return 8.0 * float(self.file.indptr[-1]) / max(len(self.obs), 1)

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        rows = self.file.rows(start, stop)
        return rows if len(self.genes) == rows.shape[1] else rows[:, self.genes]


@dataclass
class _Folder:
    """Text is read from its beginning only: it is read whole, once, when its first cell is asked for."""

    folder: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    genes: np.ndarray
    n_features: int
    counts: sp.csr_matrix | None = None

    @classmethod
    def opened(cls, folder: Path) -> _Folder:
        features, barcodes = listed_in_folder(folder)
        if barcodes is None:
            raise FileNotFoundError(f"there is no barcodes.tsv(.gz) beside the matrix in {folder}")
        genes, _ = genes_and_others(features, None, folder)
        return cls(folder, pd.DataFrame(index=barcodes), var_table(features, genes, "gene_ids"), genes, len(features))

    @property
    def row_bytes(self) -> float:
        return 0.0

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        if self.counts is None:
            counts = read_matrix_market(matrix_file(self.folder), self.n_features, len(self.obs))
            self.counts = counts if len(self.genes) == self.n_features else counts[:, self.genes]
        rows = self.counts[start:stop]
        if stop == len(self.obs):
            self.counts = None
        return rows
