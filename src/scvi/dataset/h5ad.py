"""AnnData files, with counts by cell."""

from __future__ import annotations

import os

import anndata
import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset.files import Unreadable, as_counts, existing, readable_as, stacked, unique_names

__all__ = ["read_h5ad"]

_ROWS_AT_ONCE = 1024


def read_h5ad(path: str | os.PathLike[str]) -> AnnData:
    """Reads an .h5ad file; the counts in `X` become CSR if they are dense or stored by gene.

    Raises
    ------
    ValueError
        If the file is damaged, no .h5ad, has no counts, or names of cells repeat.
    """
    path = existing(path)
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file, so it is no .h5ad")
    with readable_as(path, "an .h5ad file"):
        with h5py.File(path) as file:
            missing = [name for name in ("obs", "var") if name not in file]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        adata = anndata.read_h5ad(path)
    if adata.X is None:
        raise Unreadable(f"{path} has no counts in X")
    unique_names(adata.obs_names, "names of cells", path)
    if sp.issparse(adata.X):
        adata.X = adata.X.tocsr()
    else:
        with readable_as(path, "an .h5ad file"):
            dense = np.asarray(adata.X)
            starts = range(0, len(dense), _ROWS_AT_ONCE)
            blocks = [sp.csr_matrix(as_counts(dense[start : start + _ROWS_AT_ONCE])) for start in starts]
            adata.X = stacked(blocks, dense.shape[1])
    return adata
