"""Sums over cells that tests of the counts are made of: one pass over the cells serves all comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse


@dataclass(frozen=True, eq=False)
class CountSums:
    """Sums over the cells of two groups, by unit: batches, or samples.

    A count x of a cell is compared with its offset o, what it would be in proportion to if nothing differed: the
    library size, or the expectation of a model.

    Attributes
    ----------
    x, xx, xo
        (u, 2, f) sums of counts, of their squares, and of counts times offsets.
    o, oo, n
        Sums of offsets, of their squares, and numbers of cells: (u, 2, f), or (u, 2, 1) if the same for all features.
    """

    x: np.ndarray
    xx: np.ndarray
    xo: np.ndarray
    o: np.ndarray
    oo: np.ndarray
    n: np.ndarray

    def scaled(self, sizes: np.ndarray) -> CountSums:
        """The sums with offsets times `sizes`, (u, 2, 1)."""
        return replace(self, xo=self.xo * sizes, o=self.o * sizes, oo=self.oo * sizes**2)

    def chosen(self, features: np.ndarray) -> CountSums:
        """Of some features; a mask (f,)."""
        parts = {name: getattr(self, name) for name in ("x", "xx", "xo", "o", "oo", "n")}
        return CountSums(**{name: part if part.shape[2] == 1 else part[..., features] for name, part in parts.items()})

    def by(self, units: np.ndarray) -> CountSums:
        """Of larger units; `units` (u,) are their codes."""
        into = np.zeros((int(units.max()) + 1, len(units)))
        into[units, np.arange(len(units))] = 1
        parts = {name: getattr(self, name) for name in ("x", "xx", "xo", "o", "oo", "n")}
        return CountSums(**{name: np.einsum("vu,ukf->vkf", into, part) for name, part in parts.items()})

    @property
    def is_counted(self) -> np.ndarray:
        """(f,) whether there is a count in either group, and an offset in both."""
        seen = self.x.sum((0, 1)) > 0
        return seen & np.broadcast_to((self.o.sum(0) > 0).all(axis=0), seen.shape)


class PoolSums:
    """Sums by unit and pool of cells, to which blocks of cells are added.

    Memory is that of three numbers for each feature and pair of a unit and a pool that has cells, and of three more if
    offsets differ between features.

    Parameters
    ----------
    pools
        (n,) the pool of each cell; -1: in none.
    units
        (n,) codes of units.
    """

    def __init__(self, pools: np.ndarray, units: np.ndarray) -> None:
        is_in = pools >= 0
        pairs, rows = np.unique(np.stack([units[is_in], pools[is_in]]), axis=1, return_inverse=True)
        self.units, self.pools = pairs
        self._row = np.full(len(pools), -1)
        self._row[is_in] = rows.reshape(-1)
        self._sums: list[np.ndarray] = []

    def add(
        self,
        cells: np.ndarray,
        x: np.ndarray | sparse.csr_matrix,
        offsets: np.ndarray,
        measured: np.ndarray | None = None,
    ) -> None:
        """A block of m cells.

        Parameters
        ----------
        cells
            (m,) their positions.
        x
            (m, f) counts.
        offsets
            (m, 1) or (m, f).
        measured
            (m, f) which counts there are; None: all.
        """
        row = self._row[cells]
        is_in = row >= 0
        x, offsets = sparse.csr_matrix(x[is_in], dtype=np.float64), offsets[is_in].astype(np.float64)
        ones = np.ones((len(offsets), 1))
        if measured is not None:
            ones = measured[is_in].astype(np.float64)
            x, offsets = x.multiply(ones).tocsr(), offsets * ones
        m = sparse.csr_matrix(
            (np.ones(len(offsets)), (row[is_in], np.arange(len(offsets)))), (len(self.units), x.shape[0])
        )
        parts = [m @ x, m @ x.multiply(x), m @ x.multiply(offsets).tocsr(), m @ offsets, m @ offsets**2, m @ ones]
        parts = [part.toarray() if sparse.issparse(part) else part for part in parts]
        if not self._sums:
            self._sums = parts
        else:
            for total, part in zip(self._sums, parts, strict=True):
                total += part

    def of(self, pools1: Sequence[int], pools2: Sequence[int]) -> tuple[CountSums, np.ndarray]:
        """The sums of two groups, each of some pools, and the codes of their units (u,).

        Cells of pools that are in both groups are left out.
        """
        if not self._sums:
            raise ValueError("no cell was added")
        sides = [np.isin(self.pools, list(set(a) - set(b))) for a, b in ((pools1, pools2), (pools2, pools1))]
        units, place = np.unique(self.units, return_inverse=True)
        into = np.zeros((2 * len(units), len(place)))
        for side, is_of_side in enumerate(sides):
            into[2 * place[is_of_side] + side, np.flatnonzero(is_of_side)] = 1
        has_cells = into.reshape(len(units), 2, -1).any(axis=(1, 2))
        parts = [(into @ total).reshape(len(units), 2, -1)[has_cells] for total in self._sums]
        return CountSums(*parts), units[has_cells]
