"""Count matrices as they are stored, in memory or in an open file: read by rows, never densified whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset

from scvi.cells.on_disk import OnDisk, opened, refuse_damaged

logger = logging.getLogger(__name__)

Rows: TypeAlias = sp.csr_matrix | sp.csr_array | np.ndarray
"""Some cells in memory."""


@dataclass(frozen=True, eq=False)
class Reordered:
    """Cells in another order than that in which they are stored; nothing is copied."""

    counts: Rows | OnDisk
    order: np.ndarray  # (n,) where each of these cells is stored

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.order), self.counts.shape[1]


Counts: TypeAlias = Rows | OnDisk | Reordered
"""All cells, in memory or on disk."""

BUFFER_CELLS = 16_384
"""Cells of a file that are in memory together; two such buffers are held, one of them being read."""
BUFFER_BYTES = 2**27
"""Limit of a buffer: where `BUFFER_CELLS` cells take more memory, it has fewer."""

_BLOCK_VALUES = 2**24  # cells x genes of a block: at most 64 MiB where a file holds dense float32


def as_rows(counts: Any, name: str, *, look_at_all: bool = True) -> Rows | OnDisk:
    """The same counts in a layout that is read by rows.

    Nothing is copied unless the layout forces it: counts stored by gene (CSC) become CSR, once, in memory.

    Parameters
    ----------
    counts
        (n, g) numpy array, scipy sparse matrix or array, or what anndata gives for an open .h5ad or zarr store.
    name
        What the user calls them, for messages.
    look_at_all
        Look for damage at every place that a matrix by cell names. Not needed where only :func:`rows_to_sparse` reads
        it, which looks at those that it reads.

    Raises
    ------
    TypeError
        For anything else, and for values that are not numbers.
    ValueError
        If it has not two dimensions, or is a sparse matrix that is damaged.
    """
    if isinstance(counts, CSCDataset):
        logger.info(
            "%s is stored by gene (CSC): reading it into memory, by cell. Write it as CSR to leave it on disk", name
        )
        counts = counts.to_memory()
    if len(getattr(counts, "shape", (0, 0))) != 2:
        raise ValueError(f"{name} has {len(counts.shape)} dimensions; counts have two, cells x genes")
    counts = opened(counts) or counts
    if not (sp.issparse(counts) or isinstance(counts, (np.ndarray, OnDisk))):
        kind = f"{type(counts).__module__}.{type(counts).__qualname__}"
        raise TypeError(
            f"{name} is a {kind}; pass a numpy array, a scipy sparse matrix, or an AnnData opened with backed='r' "
            "(a lazy array is read into memory with .compute(), an AnnData with .to_memory())"
        )
    if counts.dtype.kind not in "biuf":
        raise TypeError(f"{name} holds {counts.dtype} values; pass counts as integers or floats")
    if isinstance(counts, OnDisk):
        return counts
    if sp.issparse(counts):
        refuse_damaged_matrix(name, counts, look_at_all or counts.format != "csr")
    return _plain(counts)


def refuse_damaged_matrix(name: str, matrix: Any, look_at_all: bool = True) -> None:
    """Refuses a sparse matrix, by cell or by gene, whose values are not within its shape."""
    if matrix.format in ("csr", "csc"):
        n, kind = (matrix.shape[1], "gene") if matrix.format == "csr" else (matrix.shape[0], "cell")
        indices = np.asarray(matrix.indices)
        n_stored = min(len(matrix.data), len(indices))
        refuse_damaged(name, np.asarray(matrix.indptr), n_stored, indices if look_at_all else indices[:0], n, kind)


def blocks(counts: Rows | OnDisk) -> Iterator[tuple[int, Rows]]:
    """Pairs of the first row and the rows of a block, from the first cell to the last."""
    n, g = counts.shape
    step = max(1, _BLOCK_VALUES // max(g, 1))
    for start in range(0, n, step):
        stop = min(start + step, n)
        yield start, _plain(counts.read(np.arange(start, stop)) if isinstance(counts, OnDisk) else counts[start:stop])


def take(counts: Counts, rows: np.ndarray) -> Rows:
    """The given rows in the given order; rows may repeat.

    A file is read in the order of the file and put into the order wanted afterwards.
    """
    if isinstance(counts, Reordered):
        return take(counts.counts, counts.order[rows])
    if not isinstance(counts, OnDisk):
        return counts[rows]
    wanted, order = np.unique(rows, return_inverse=True)
    read = _plain(counts.read(wanted))
    return read if np.array_equal(wanted, rows) else read[order]


def buffer_cells(row_bytes: float) -> int:
    """Cells of a buffer, from the mean size of a cell's counts."""
    return int(min(max(BUFFER_BYTES / max(row_bytes, 1.0), 1), BUFFER_CELLS))


def as_dense(counts: Any) -> np.ndarray:
    """Few columns as an array in memory."""
    if isinstance(counts, OnDisk):
        return as_dense(take(counts, np.arange(counts.shape[0])))
    return counts.toarray() if sp.issparse(counts) else np.asarray(counts)


def read_weights(columns: np.ndarray | None) -> np.ndarray | None:
    """(s,) 1 for stored genes that are read, 0 for others; None where all are. `columns` are those of CellData."""
    return None if columns is None else (columns >= 0).astype(np.float64)


def row_sums(rows: Rows, read: np.ndarray | None = None) -> np.ndarray:
    """(n,) float64 totals; with `read` (stored genes,) of 0 and 1, over the genes that are read."""
    return np.asarray(rows @ (np.ones(rows.shape[1]) if read is None else read), dtype=np.float64)


def gene_sums(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of each stored gene, float64."""
    if isinstance(rows, np.ndarray):
        values = rows.astype(np.float64)
        return values.sum(axis=0), np.einsum("ng,ng->g", values, values)
    rows = without_repeats(rows)
    values, genes, g = rows.data.astype(np.float64), rows.indices.astype(np.intp), rows.shape[1]
    return np.bincount(genes, values, minlength=g), np.bincount(genes, values**2, minlength=g)


def chosen_blocks(counts: Rows | OnDisk, cells: np.ndarray | None = None) -> Iterator[Rows]:
    """The rows of block after block; with `cells`, an (n,) mask, those of the chosen cells."""
    for start, rows in blocks(counts):
        yield rows if cells is None else rows[cells[start : start + rows.shape[0]]]


def summed(
    parts: Iterable[Rows], n_genes: int, of_part: Callable[[Rows], tuple[np.ndarray, np.ndarray]] = gene_sums
) -> tuple[np.ndarray, np.ndarray]:
    """`of_part` added up over parts of the cells, (g,) each."""
    first, second = np.zeros(n_genes), np.zeros(n_genes)
    for rows in parts:
        sums, squares = of_part(rows)
        first += sums
        second += squares
    return first, second


def moments(parts: Iterable[Rows], n_cells: int, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """(g,) means and population variances of the counts of each gene, over parts of `n_cells` cells together."""
    n = max(n_cells, 1)
    sums, squares = summed(parts, n_genes)
    return sums / n, np.maximum(squares / n - (sums / n) ** 2, 0.0)


def _plain(counts: Any) -> Rows:
    """Base classes (not anndata's views) and number types that compiled code reads; shares memory where it can."""
    if not sp.issparse(counts):
        return _readable(np.asarray(counts))
    counts = counts.tocsr()
    kind = sp.csr_array if isinstance(counts, sp.sparray) else sp.csr_matrix
    data = _readable(np.asarray(counts.data))
    if type(counts) is kind and data is counts.data:
        return counts
    return kind((data, np.asarray(counts.indices), np.asarray(counts.indptr)), shape=counts.shape)


def _readable(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        return values.astype(np.float32 if values.dtype.itemsize == 2 else np.float64)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def without_repeats(rows: sp.csr_matrix | sp.csr_array) -> sp.csr_matrix | sp.csr_array:
    """The same rows with one entry for each place; the same object where there is nothing to add up."""
    if rows.has_canonical_format:
        return rows
    rows = rows.copy()  # the summing works in place, on arrays that may be the user's
    rows.sum_duplicates()
    return rows
