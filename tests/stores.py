"""The same cells in files: every store and layout whose counts can stay on disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

STORES = ["h5ad", "h5ad gzip", "h5ad dense", "zarr", "zarr dense"]


@contextmanager
def stored(adata: AnnData, store: str, folder: Path) -> Iterator[AnnData]:
    """`adata` written to a file and opened there."""
    kind, _, how = store.partition(" ")
    if how == "dense":
        adata = AnnData(adata.X.toarray(), obs=adata.obs, var=adata.var)
    path = folder / f"{store}.{kind}"
    if kind == "h5ad":
        adata.write_h5ad(path, compression=how if how == "gzip" else None)
        backed = anndata.read_h5ad(path, backed="r")
        yield backed
        backed.file.close()
        return
    zarr = pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces that it will write zarr version 3
        adata.write_zarr(path)
    group = zarr.open_group(path, mode="r")
    X = group["X"] if how == "dense" else sparse_dataset(group["X"])
    yield AnnData(X, obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def dense(rows: object) -> np.ndarray:
    """Rows of any kind as an array."""
    return rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)
