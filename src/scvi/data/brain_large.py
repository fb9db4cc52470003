"""1.3 million cells of the mouse brain (10x Genomics 2017), read a part at a time and reduced to few genes."""

from __future__ import annotations

import logging
import os

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_integer
from scvi.cells.storage import moments
from scvi.data.files import stacked, unique_names
from scvi.data.tenx import genes_and_others
from scvi.data.tenx_h5 import TenxH5, open_tenx_h5

__all__ = ["read_brain_large"]

logger = logging.getLogger(__name__)

_VALUES_AT_ONCE = 2**24


def read_brain_large(
    path: str | os.PathLike[str],
    *,
    n_genes: int = 720,
    n_cells_for_variance: int = 10_000,
    n_cells: int | None = None,
    n_cells_at_once: int = 100_000,
) -> AnnData:
    """Reads the most variable genes of a large HDF5 file of Cell Ranger; what is in memory is a part of the cells.

    Parameters
    ----------
    n_genes
        How many genes to keep, those of highest variance, in its decreasing order.
    n_cells_for_variance
        The variance is that of the first so many cells.
    n_cells
        Read the first so many cells; None reads all.
    n_cells_at_once
        Most cells of a part. A part has less where these have more than 16 million counts.

    Returns
    -------
    Counts as CSR, barcodes and genes.

    Raises
    ------
    ValueError
        If the file is damaged, or an argument is no positive integer.
    """
    for name, value in {"n_genes": n_genes, "n_cells_for_variance": n_cells_for_variance}.items():
        check_integer(name, value, 1)
    check_integer("n_cells_at_once", n_cells_at_once, 1)
    with open_tenx_h5(path) as file:
        n = file.shape[0] if n_cells is None else min(check_integer("n_cells", n_cells, 1), file.shape[0])
        first = min(n_cells_for_variance, file.shape[0])
        parts = (file.rows(*part) for part in _parts(file, first, n_cells_at_once))
        variance = moments(parts, first, file.shape[1])[1]
        features = file.features()
        candidates, _ = genes_and_others(features, None, path)  # antibodies vary more than any gene
        genes = candidates[np.argsort(-variance[candidates], kind="stable")[:n_genes]]
        blocks = []
        for start, stop in _parts(file, n, n_cells_at_once):
            blocks.append(file.rows(start, stop)[:, genes])
            logger.info("loaded %d of %d cells", stop, n)
        obs = pd.DataFrame(index=file.barcodes()[:n])
    var = features.iloc[genes]
    names = unique_names(var["gene_ids"].to_numpy(), "genes", path)
    return AnnData(stacked(blocks, len(genes)), obs=obs, var=var.set_index(names))


def _parts(file: TenxH5, n: int, most: int) -> list[tuple[int, int]]:
    """First cell and end of each part of the first `n` cells."""
    parts, start = [], 0
    while start < n:
        full = int(np.searchsorted(file.indptr, file.indptr[start] + _VALUES_AT_ONCE, side="right")) - 1
        stop = min(n, start + most, max(full, start + 1))
        parts.append((start, stop))
        start = stop
    return parts
