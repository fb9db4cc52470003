"""Counts as they are stored: read as rows, told apart by digests, and looked at for what is no count (on the CPU)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scvi.kernels.parallel import row_blocks, run_blocks
from scvi.kernels.rows import SparseRows, arrays, starts_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix


def rows_to_sparse(
    counts: csr_matrix | csr_array | np.ndarray, rows: np.ndarray, columns: np.ndarray | None, n_genes: int
) -> SparseRows:
    """Rows of a count matrix as float32.

    Parameters
    ----------
    counts
        (n, stored genes) of any integer or float type; column indices need not be sorted, duplicates add up.
    rows
        Positions, in the order wanted.
    columns
        int32; position of each stored gene in the result, -1 leaves it out. None: as stored.
    n_genes
        Columns of the result.
    """
    from scvi.kernels import sparse

    rows = np.ascontiguousarray(rows, dtype=np.int64)
    columns = np.empty(0, np.int32) if columns is None else np.ascontiguousarray(columns, dtype=np.int32)
    n_stored = counts.shape[1]
    if columns.size == 0 and n_stored > n_genes:
        raise ValueError(f"counts of {n_stored} genes were taken for counts of {n_genes}")
    blocks = row_blocks(len(rows), min_rows=32)
    if isinstance(counts, np.ndarray):
        lengths = np.empty(len(rows), np.int64)
        run_blocks(lambda _, *block: sparse.count_nonzero(counts, rows, block, lengths), blocks)
    else:
        lengths = counts.indptr[rows + 1] - counts.indptr[rows]
    starts = starts_of(lengths)
    genes, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    kept, totals = np.empty(len(rows), np.int64), np.empty((len(rows), 1), np.float32)
    results = (starts, genes, values, kept, totals)
    if isinstance(counts, np.ndarray):
        run_blocks(lambda _, *block: sparse.dense_rows(counts, rows, block, columns, *results), blocks)
    else:
        stored, whole = (
            (counts.data, counts.indices, counts.indptr, n_stored),
            np.zeros((len(blocks), n_genes), np.float32),
        )
        run_blocks(lambda i, *block: sparse.csr_rows(*stored, rows, block, columns, whole[i], *results), blocks)
    if (kept < 0).any():
        raise ValueError(
            f"row {rows[kept.argmin()]} of the counts names a gene that is not among the {n_stored} there are"
        )
    if kept.sum() < starts[-1]:  # zeros were stored, or genes left out
        is_kept = np.arange(starts[-1]) < np.repeat(starts[:-1] + kept, lengths)
        starts, genes, values = starts_of(kept), genes[is_kept], values[is_kept]
    tensor = torch.from_numpy
    return SparseRows(tensor(starts), tensor(genes), tensor(values), n_genes, tensor(totals))


def row_digests(rows: SparseRows) -> np.ndarray:
    """(n,) uint64 that tell the counts of each row from others; the order of its entries does not matter."""
    from scvi.kernels import sparse

    starts, genes, values = arrays(rows.starts, rows.genes, rows.values)
    out = np.empty(len(rows), np.uint64)
    entries = starts, genes, values.view(np.uint32)
    run_blocks(lambda _, *block: sparse.digests(*entries, block, out), row_blocks(len(rows), min_rows=256))
    return out


def find_bad_count(values: np.ndarray) -> tuple[int, str] | None:
    """Flat position and kind of the first value that is no count: 'non-finite', 'negative' or 'non-integer'."""
    if values.dtype.kind == "u" or values.dtype.kind == "b":
        return None
    from scvi.kernels import sparse

    flat = np.ascontiguousarray(values).reshape(-1)
    position = int(sparse.first_bad_count(flat))
    return None if position < 0 else (position, _reason(flat[position]))


class CountsLook(NamedTuple):
    """What one look at values that are not negative says of them."""

    n_values: int  # that are not 0
    n_fractions: int  # that are no integers
    first_fraction: int  # flat position, -1: there is none


def look_at_counts(values: np.ndarray) -> CountsLook | tuple[int, str]:
    """What may be said of counts that may be estimates, or flat position and kind of the first that is none.

    The kind is 'non-finite' or 'negative'.
    """
    if values.dtype.kind == "u" or values.dtype.kind == "b":
        return CountsLook(int(np.count_nonzero(values)), 0, -1)
    from scvi.kernels import sparse

    flat = np.ascontiguousarray(values).reshape(-1)
    bad, *found = map(int, sparse.look_at_values(flat))
    return CountsLook(*found) if bad < 0 else (bad, _reason(flat[bad]))


def _reason(value: np.number) -> str:
    """Why a value is no count."""
    return "non-finite" if not np.isfinite(value) else "negative" if value < 0 else "non-integer"
