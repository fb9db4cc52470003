"""Checks of counts: raw ones, none of them negative, fractional or not finite, and cells that have some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells.checks import counts_name, named, stored_counts
from scvi.cells.storage import Counts, Rows, as_rows, blocks, read_weights, row_sums
from scvi.kernels import find_bad_count


def counts_of(adata: AnnData, layer: str | None) -> Counts:
    """The counts of all stored genes, in a layout that is read by rows."""
    return as_rows(stored_counts(adata, layer), counts_name(layer))


def checked_totals(adata: AnnData, layer: str | None, counts: Counts, columns: np.ndarray | None = None) -> np.ndarray:
    """:func:`checked_counts` of an AnnData, whose `columns` are as in :class:`scvi.cells.cell_data.CellData`."""
    name, read = counts_name(layer), read_weights(columns)
    return checked_counts(counts, name, adata.obs_names, adata.var_names, read, list(adata.layers))


def checked_counts(
    counts: Counts,
    name: str,
    cells: pd.Index,
    genes: pd.Index | Sequence[str],
    read: np.ndarray | None,
    layers: Sequence[str] | None,
    feature: str = "gene",
) -> np.ndarray:
    """Looks at every stored value once and returns the cells' totals.

    Parameters
    ----------
    counts
        (n, stored genes).
    name, cells, genes, layers
        What the user calls the counts, the cells, the stored genes and the layers (None: there are none to choose
        from), for the message.
    read
        (stored genes,) 1 for genes that count towards the totals, 0 for others; None is all of them.
    feature
        What the columns are.

    Returns
    -------
    (n,) float64

    Raises
    ------
    ValueError
        If a value is negative, not finite or not an integer, or belongs to a gene that is not there.
    """
    totals = np.empty(counts.shape[0])
    for start, block in blocks(counts):
        values = block.reshape(-1) if isinstance(block, np.ndarray) else block.data
        bad = find_bad_count(values)
        if bad is not None:
            position, reason = bad
            row, column = _place(block, position)
            raise ValueError(
                f"{name} holds a {reason} value: {values[position]} in cell {str(cells[start + row])!r}, {feature} "
                f"{str(genes[column])!r}. The model needs raw counts (non-negative integers), not normalised, "
                f"log-transformed or scaled values: {_where_counts_may_be(name, layers)}"
            )
        totals[start : start + block.shape[0]] = row_sums(block, read)
    return totals


def warn_of_empty_cells(totals: np.ndarray, cells: pd.Index) -> None:
    """One warning that counts the cells without any count and names some."""
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        warn(
            f"{len(empty)} of {len(totals)} cells have no count in the genes that the model reads "
            f"({named(cells[empty])}); they are kept, but nothing can be learnt about them: consider dropping them"
        )


def _place(rows: Rows, position: int) -> tuple[int, int]:
    """Row and column of a stored value."""
    if isinstance(rows, np.ndarray):
        return divmod(position, rows.shape[1])
    return int(np.searchsorted(rows.indptr, position, side="right")) - 1, int(rows.indices[position])


def _where_counts_may_be(name: str, layers: Sequence[str] | None) -> str:
    if layers is None:
        return "pass the raw counts"
    others = [layer for layer in layers if f"[{layer!r}]" not in name]
    if others:
        return f"if a layer holds them, pass layer='...' (there are {named(others)})"
    return "keep them in adata.layers['counts'] before normalising, and pass layer='counts'"
