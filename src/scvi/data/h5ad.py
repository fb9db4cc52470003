"""AnnData files, with counts by cell."""

from __future__ import annotations

import os

import anndata
import h5py
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_flag
from scvi._links import refuse_links
from scvi.cells.storage import as_rows, refuse_damaged_matrix
from scvi.data.files import Unreadable, as_counts, check_stored, existing, readable_as, stacked, unique_names
from scvi.data.heaps import refuse_endless_heaps

_ROWS_AT_ONCE = 1024


def read_h5ad(path: str | os.PathLike[str], *, allow_links: bool = False) -> AnnData:
    """Reads an .h5ad file; the counts in `X` become CSR if they are dense or stored by gene.

    Parameters
    ----------
    allow_links
        Follow links to other files, which are refused otherwise: the maker of a file could name any that you may read.

    Raises
    ------
    ValueError
        If the file is damaged, no .h5ad, has no counts, or names of cells repeat.
    """
    path = existing(path)
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file, so it is no .h5ad")
    with readable_as(path, "an .h5ad file"):
        refuse_endless_heaps(path)
        with h5py.File(path) as file:
            refuse_links(file, check_flag("allow_links", allow_links))
            for name in ("obs", "var"):
                if name not in file:
                    raise ValueError(f"it has no {name}")
            if "X" in file:
                _check_claims(file)
        adata = anndata.read_h5ad(path)
    if adata.X is None:
        raise Unreadable(f"{path} has no counts in X")
    unique_names(adata.obs_names, "names of cells", path)
    with readable_as(path, "an .h5ad file"):
        for name, matrix in {**adata.layers, **adata.obsm, **({"raw": adata.raw.X} if adata.raw else {})}.items():
            if sp.issparse(matrix):
                refuse_damaged_matrix(name, matrix)
        if sp.issparse(adata.X):
            adata.X = as_rows(adata.X, "X")
        else:
            dense = np.asarray(adata.X)
            parts = (dense[start : start + _ROWS_AT_ONCE] for start in range(0, len(dense), _ROWS_AT_ONCE))
            adata.X = stacked([sp.csr_matrix(as_counts(part)) for part in parts], dense.shape[1])
    return adata


def _check_claims(file: h5py.File) -> None:
    """Compares what the counts say of themselves with the names of cells and genes, before memory is asked for."""
    stored = file["X"]
    for dataset in [stored] if isinstance(stored, h5py.Dataset) else stored.values():
        check_stored(dataset)
    shape = stored.shape if isinstance(stored, h5py.Dataset) else stored.attrs.get("shape")
    lengths = [_length(file["obs"]), _length(file["var"])]
    if shape is not None and len(shape) and list(shape) != lengths:
        raise ValueError(f"X is {' x '.join(map(str, shape))} for {lengths[0]} cells and {lengths[1]} genes")


def _length(frame: h5py.Group | h5py.Dataset) -> int:
    """Rows of a table: a list of records until AnnData 0.6, later a group with an index, which may be masked."""
    if isinstance(frame, h5py.Dataset):
        return len(frame)
    index = frame[frame.attrs["_index"]]
    return len(index["values"] if isinstance(index, h5py.Group) else index)
