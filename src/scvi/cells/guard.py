"""Counts are held against what they were at set-up when they are read: nobody has to read all of them to be sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_matrix

from scvi.cells.checks import named
from scvi.cells.count_checks import BadCounts, Called, CountsCheck
from scvi.cells.estimates import NonInteger
from scvi.kernels import SparseRows, row_digests

Report: TypeAlias = Callable[[np.ndarray, np.ndarray, str | None], None]


class Guard:
    """Looks at the counts of each cell the first time that they are read.

    Parameters
    ----------
    called
        What a user calls the counts, all cells (n,) and the genes that are read.
    digests
        (n,) what the counts of each cell were, see :func:`scvi.kernels.row_digests`. None: that is not known, and the
        values are checked to be counts.
    report
        Is given the total counts of the cells that were checked, their positions, and what there is to say of counts
        that are estimates, when a question has read them.
    non_integer
        What is done with counts that are estimates.
    """

    def __init__(
        self,
        called: Called,
        digests: np.ndarray | None = None,
        report: Report | None = None,
        non_integer: NonInteger = "warn",
    ) -> None:
        self.called, self.digests, self.report, self.non_integer = called, digests, report, non_integer
        self._check = CountsCheck(called, non_integer)
        self._unread = np.ones(len(called.cells), dtype=bool)
        self._checked: list[tuple[np.ndarray, np.ndarray]] = []  # positions and total counts

    def asks_for(self, rows: np.ndarray) -> bool:
        """Whether one of the cells at `rows` was not looked at yet."""
        return bool(self._unread[rows].any())

    def look(self, rows: np.ndarray, counts: SparseRows) -> None:
        """Holds the counts that are stored of the cells at `rows` against what is known of them.

        Raises
        ------
        BadCounts
            If they were others before; if nothing is known of them, and they are no counts.
        """
        if not self.asks_for(rows):
            return
        read = counts.rounded() if self.non_integer == "round" else counts
        if self.digests is None:
            entries = counts.values.numpy(), counts.genes.numpy(), counts.starts.numpy()
            self._check.look(csr_matrix(entries, shape=counts.shape), rows)
            self._checked.append((rows, read.sums().numpy().ravel()))
        else:
            self._refuse_changed(rows[row_digests(read) != self.digests[rows]])
        self._unread[rows] = False

    def finish(self) -> None:
        """Says what there is to say of cells of which nothing was known before.

        Raises
        ------
        BadCounts
            If values that are no integers do not look like estimates of counts.
        """
        estimates = self._check.estimates()
        if self._checked and self.report is not None:
            rows, totals = (np.concatenate(parts) for parts in zip(*self._checked, strict=True))
            rows, first = np.unique(rows, return_index=True)
            self.report(totals[first], rows, estimates)
        self._checked.clear()
        self._check = CountsCheck(self.called, self.non_integer)

    def take(self, rows: np.ndarray) -> Guard:
        """The guard of some cells alone, of which none was looked at."""
        digests = None if self.digests is None else self.digests[rows]
        report = self.report
        of_all = None if report is None else lambda totals, some, said: report(totals, rows[some], said)
        return Guard(self._of(rows), digests, of_all, self.non_integer)

    def _of(self, rows: np.ndarray) -> Called:
        """The same counts, of some cells."""
        return replace(self.called, cells=np.asarray(self.called.cells)[rows])

    def _refuse_changed(self, rows: np.ndarray) -> None:
        if len(rows):
            raise BadCounts(
                f"{self.called.name} has changed since the model was made, or given these cells: the counts of "
                f"{named(self._of(rows).cells)} are others ({len(rows)} of the cells that were read just now). Was it "
                "normalised, or changed in place? Put the raw counts back, pass other cells as adata, or say "
                "model.adata = adata (of a GIMVI model.adata_seq or model.adata_spatial) if the counts are meant to be "
                "these"
            )
