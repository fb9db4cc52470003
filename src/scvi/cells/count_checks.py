"""Checks of counts: raw ones or estimates, none of them negative or not finite, and cells that have some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells.checks import Names, counts_name, named, stored_counts
from scvi.cells.estimates import Fractions, NonInteger, place_of, rounded
from scvi.cells.on_disk import OnDisk
from scvi.cells.storage import Rows, as_rows, blocks, read_weights, row_sums
from scvi.kernels import CountsLook, find_bad_count, look_at_counts, row_digests, rows_to_sparse


class BadCounts(ValueError):
    """Values that are no counts, or not those that they were."""


class EstimatedCounts(UserWarning):
    """Counts that are no integers are modelled as they are."""


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
    estimates: str | None = None  # what there is to warn of, see :func:`warn_of_estimates`


def counts_of(adata: AnnData, layer: str | None, *, look_at_all: bool = True) -> Rows | OnDisk:
    """The counts of all stored genes, in a layout that is read by rows; see :func:`scvi.cells.storage.as_rows`."""
    return as_rows(stored_counts(adata, layer), counts_name(layer), look_at_all=look_at_all)


def counted(
    adata: AnnData,
    layer: str | None,
    counts: Rows | OnDisk,
    columns: np.ndarray | None = None,
    n_genes: int | None = None,
    non_integer: NonInteger = "warn",
) -> Counted:
    """Looks at every stored value once.

    Parameters
    ----------
    columns, n_genes
        As in :class:`scvi.cells.cell_data.CellData`; None: all stored genes are read.
    non_integer
        What is done with counts that are estimates.

    Raises
    ------
    BadCounts
        As :func:`checked_counts`.
    """
    called = Called(counts_name(layer), adata.obs_names, adata.var_names, list(adata.layers))
    n_genes = counts.shape[1] if n_genes is None else n_genes
    look = CountsCheck(called, non_integer)
    totals, digests, read = np.empty(adata.n_obs), np.empty(adata.n_obs, np.uint64), read_weights(columns)
    for cells, block in _good_blocks(counts, look):
        totals[cells] = row_sums(block, read)
        digests[cells] = row_digests(rows_to_sparse(block, np.arange(block.shape[0]), columns, n_genes))
    return Counted(totals, digests, look.estimates())


def checked_counts(
    counts: Rows | OnDisk, called: Called, non_integer: NonInteger = "warn"
) -> tuple[np.ndarray, str | None]:
    """Looks at every stored value once; the cells' totals, (n,) float64, and what :func:`warn_of_estimates` is to say.

    Raises
    ------
    BadCounts
        If a value is negative or not finite, or belongs to a gene that is not there; if values that are no integers do
        not look like estimates of counts, or are to be refused.
    """
    look, totals = CountsCheck(called, non_integer), np.empty(counts.shape[0])
    for cells, block in _good_blocks(counts, look):
        totals[cells] = row_sums(block)
    return totals, look.estimates()


class CountsCheck:
    """Looks at counts as they come by, and says at the end what is to be thought of those that are no integers."""

    def __init__(self, called: Called, non_integer: NonInteger = "warn") -> None:
        self.called, self.non_integer, self._fractions = called, non_integer, Fractions()

    def look(self, rows: Rows, cells: np.ndarray) -> None:
        """Refuses rows of the cells at these positions that hold a value that can be no count."""
        values = rows.reshape(-1) if isinstance(rows, np.ndarray) else rows.data
        if self.non_integer == "refuse":
            bad = find_bad_count(values)
            if bad is not None:
                self._refuse(rows, cells, *bad)
            return
        found = look_at_counts(values)
        if isinstance(found, CountsLook):
            self._fractions.add(rows, cells, found)
        else:
            self._refuse(rows, cells, *found)

    def estimates(self) -> str | None:
        """What there is to warn of in counts that are estimates; None if there are none, or they are to be rounded.

        Raises
        ------
        BadCounts
            If the values that are no integers do not look like estimates of counts.
        """
        found = self._fractions
        if found.example is None:
            return None
        why = found.why_no_counts()
        if why is not None:
            raise BadCounts(self._message("non-integer", *found.example, f". Its values {why}"))
        if self.non_integer == "round":
            return None
        return (
            f"{self.called.name} holds values that are no integers: {found.share} of those that are not 0, as "
            f"{self._place(*found.example)}"
        )

    def _refuse(self, rows: Rows, cells: np.ndarray, position: int, reason: str) -> NoReturn:
        row, column, value = place_of(rows, position)
        more = " (for estimated counts, set up with non_integer='warn' or 'round')" if reason == "non-integer" else ""
        raise BadCounts(self._message(reason, int(cells[row]), column, value) + more)

    def _message(self, reason: str, cell: int, column: int, value: float, why: str = "") -> str:
        return (
            f"{self.called.name} holds a {reason} value: {self._place(cell, column, value)}{why}. The model needs raw "
            "counts (non-negative integers, or estimates of counts), not normalised, log-transformed or scaled "
            f"values: {_where_counts_may_be(self.called)}"
        )

    def _place(self, cell: int, column: int, value: float) -> str:
        called = self.called
        return f"{value} in cell {str(called.cells[cell])!r}, {called.feature} {str(called.genes[column])!r}"


def warn_of_estimates(*findings: str | None) -> None:
    """One warning of all counts that are estimates; nothing where there are none."""
    said = [finding for finding in findings if finding is not None]
    if said:
        warn(
            f"{'; '.join(said)}. They look like estimates of counts, as ambient correction and pseudo-alignment leave "
            "them, and are modelled as they are; if they are none, pass the raw counts. At set-up, non_integer='round' "
            "has the nearest integers read, and non_integer='refuse' refuses them",
            EstimatedCounts,
        )


def _good_blocks(counts: Rows | OnDisk, look: CountsCheck) -> Iterator[tuple[slice, Rows]]:
    """Block after block as it is to be read, and which cells it holds."""
    for start, block in blocks(counts):
        stop = start + block.shape[0]
        look.look(block, np.arange(start, stop))
        yield slice(start, stop), rounded(block) if look.non_integer == "round" else block


def warn_of_empty_cells(totals: np.ndarray, cells: Names) -> None:
    """One warning that counts the cells without any count and names some."""
    empty = np.flatnonzero(totals == 0)
    if len(empty):
        warn(
            f"{len(empty)} of {len(totals)} cells have no count in the genes that the model reads "
            f"({named(np.asarray(cells)[empty])}); they are kept, but nothing can be learnt about them: consider "
            "dropping them"
        )


def _where_counts_may_be(called: Called) -> str:
    if called.layers is None:
        return "pass the raw counts"
    others = [layer for layer in called.layers if f"[{layer!r}]" not in called.name]
    if others:
        return f"if a layer holds them, pass layer='...' (there are {named(others)})"
    return "keep them in adata.layers['counts'] before normalising, and pass layer='counts'"
