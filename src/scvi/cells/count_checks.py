"""Checks of counts: raw ones, none of them negative, fractional or not finite, and cells that have some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells.checks import Names, counts_name, named, stored_counts
from scvi.cells.on_disk import OnDisk
from scvi.cells.storage import Rows, as_rows, blocks, read_weights, row_sums
from scvi.kernels import find_bad_count, row_digests, rows_to_sparse


class BadCounts(ValueError):
    """Values that are no counts, or not those that they were."""


@dataclass(frozen=True, eq=False)
class Called:
    """What a user calls counts, their cells and their genes, for messages."""

    name: str
    cells: Names  # (n,)
    genes: Names
    layers: Sequence[str] | None = None  # None: there are none to choose from
    feature: str = "gene"


@dataclass(frozen=True, eq=False)
class Counted:
    """What one pass over all counts says of n cells."""

    totals: np.ndarray  # (n,) float64, over the genes that are read
    digests: np.ndarray  # (n,) uint64, see :func:`scvi.kernels.row_digests`


def counts_of(adata: AnnData, layer: str | None, *, look_at_all: bool = True) -> Rows | OnDisk:
    """The counts of all stored genes, in a layout that is read by rows; see :func:`scvi.cells.storage.as_rows`."""
    return as_rows(stored_counts(adata, layer), counts_name(layer), look_at_all=look_at_all)


def counted(
    adata: AnnData,
    layer: str | None,
    counts: Rows | OnDisk,
    columns: np.ndarray | None = None,
    n_genes: int | None = None,
) -> Counted:
    """Looks at every stored value once.

    Parameters
    ----------
    columns, n_genes
        As in :class:`scvi.cells.cell_data.CellData`; None: all stored genes are read.

    Raises
    ------
    BadCounts
        As :func:`checked_counts`.
    """
    called = Called(counts_name(layer), adata.obs_names, adata.var_names, list(adata.layers))
    n_genes = counts.shape[1] if n_genes is None else n_genes
    totals, digests, read = np.empty(adata.n_obs), np.empty(adata.n_obs, np.uint64), read_weights(columns)
    for cells, block in _good_blocks(counts, called):
        totals[cells] = row_sums(block, read)
        digests[cells] = row_digests(rows_to_sparse(block, np.arange(block.shape[0]), columns, n_genes))
    return Counted(totals, digests)


def checked_counts(counts: Rows | OnDisk, called: Called) -> np.ndarray:
    """Looks at every stored value once and returns the cells' totals, (n,) float64.

    Raises
    ------
    BadCounts
        If a value is negative, not finite or not an integer, or belongs to a gene that is not there.
    """
    totals = np.empty(counts.shape[0])
    for cells, block in _good_blocks(counts, called):
        totals[cells] = row_sums(block)
    return totals


def refuse_bad_counts(rows: Rows, called: Called, first: int = 0) -> None:
    """Refuses rows that hold a value that is no count; `first` is the position of the first of these cells."""
    values = rows.reshape(-1) if isinstance(rows, np.ndarray) else rows.data
    bad = find_bad_count(values)
    if bad is not None:
        position, reason = bad
        row, column = _place(rows, position)
        raise BadCounts(
            f"{called.name} holds a {reason} value: {values[position]} in cell {str(called.cells[first + row])!r}, "
            f"{called.feature} {str(called.genes[column])!r}. The model needs raw counts (non-negative integers), not "
            f"normalised, log-transformed or scaled values: {_where_counts_may_be(called)}"
        )


def _good_blocks(counts: Rows | OnDisk, called: Called) -> Iterator[tuple[slice, Rows]]:
    """Block after block, and which cells it holds."""
    for start, block in blocks(counts):
        refuse_bad_counts(block, called, start)
        yield slice(start, start + block.shape[0]), block


def warn_of_empty_cells(totals: np.ndarray, cells: Names) -> None:
    """One warning that counts the cells without any count and names some."""
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        warn(
            f"{len(empty)} of {len(totals)} cells have no count in the genes that the model reads "
            f"({named(np.asarray(cells)[empty])}); they are kept, but nothing can be learnt about them: consider "
            "dropping them"
        )


def _place(rows: Rows, position: int) -> tuple[int, int]:
    """Row and column of a stored value."""
    if isinstance(rows, np.ndarray):
        return divmod(position, rows.shape[1])
    return int(np.searchsorted(rows.indptr, position, side="right")) - 1, int(rows.indices[position])


def _where_counts_may_be(called: Called) -> str:
    if called.layers is None:
        return "pass the raw counts"
    others = [layer for layer in called.layers if f"[{layer!r}]" not in called.name]
    if others:
        return f"if a layer holds them, pass layer='...' (there are {named(others)})"
    return "keep them in adata.layers['counts'] before normalising, and pass layer='counts'"
