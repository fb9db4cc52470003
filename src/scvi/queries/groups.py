"""Who is compared with whom, and what was counted in each group of cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from scvi.minibatch import Minibatch

Pools = tuple[int, ...]
"""Numbers of pools of cells."""

_LEAST_TOTAL = 1e-30  # of a cell without counts, whose shares are 0


@dataclass(frozen=True)
class Comparison:
    """One group of cells against another, each one pool or several; the two may share some."""

    group1: str
    group2: str
    pools1: Pools
    pools2: Pools

    @property
    def name(self) -> str:
        return f"{self.group1} vs {self.group2}"


@dataclass(frozen=True, eq=False)
class Groups:
    """Cells in disjoint pools, of which all compared groups are made up: a pool is looked at once for all of them.

    Attributes
    ----------
    codes
        (n,) number of the pool that each cell is in; -1: in none.
    comparisons
        What is asked, in the order of the answers.
    """

    codes: np.ndarray
    comparisons: tuple[Comparison, ...]

    @property
    def n_pools(self) -> int:
        return int(self.codes.max(initial=-1)) + 1

    @property
    def sizes(self) -> np.ndarray:
        """(k,) cells of each pool."""
        return np.bincount(self.codes[self.codes >= 0], minlength=self.n_pools)

    @property
    def members(self) -> np.ndarray:
        """Positions of the cells that are in a pool."""
        return np.flatnonzero(self.codes >= 0)

    def cells(self, pools: Pools) -> np.ndarray:
        """Positions of the cells of these pools."""
        return np.flatnonzero(np.isin(self.codes, pools))

    @classmethod
    def of_masks(cls, pairs: Sequence[tuple[str, np.ndarray, str, np.ndarray]]) -> Groups:
        """Groups that are given by masks of all cells (n,): names and masks of the two sides of each comparison."""
        masks = np.stack([mask for _, first, _, second in pairs for mask in (first, second)])
        kinds, codes = np.unique(masks, axis=1, return_inverse=True)  # cells that are in the same groups
        is_compared = kinds.any(axis=0)
        number = np.where(is_compared, np.cumsum(is_compared) - 1, -1)
        pools = [tuple(number[row].tolist()) for row in kinds]
        sides = list(zip(pools[::2], pools[1::2], strict=True))
        comparisons = [Comparison(a, b, *side) for (a, _, b, _), side in zip(pairs, sides, strict=True)]
        return cls(number[codes.reshape(-1)], tuple(comparisons))


@dataclass(frozen=True, eq=False)
class GroupCounts:
    """What was counted in each of k pools of cells, of f features.

    Attributes
    ----------
    n_cells
        (k, f) cells in which the feature was measured.
    sums, nonzeros, shares
        (k, f) sums over these cells of the counts, of whether they are not zero, and of their shares among all counts
        of the cell, of proteins among those of proteins.
    n_genes
        So many of the features are genes, which come first.
    """

    n_cells: np.ndarray
    sums: np.ndarray
    nonzeros: np.ndarray
    shares: np.ndarray
    n_genes: int

    def summary(self, comparison: Comparison, total: float = 1e4) -> dict[str, np.ndarray]:
        """(f,) of both: mean counts, shares of counts that are not zero, mean counts of cells scaled to `total`."""
        found = {}
        for name, sums, times in (
            ("raw_mean", self.sums, 1.0),
            ("non_zeros_proportion", self.nonzeros, 1.0),
            ("raw_normalized_mean", self.shares, total),
        ):
            for side, pools in enumerate((comparison.pools1, comparison.pools2), start=1):
                n_cells = self.n_cells[list(pools)].sum(axis=0)
                means = times * sums[list(pools)].sum(axis=0) / np.maximum(n_cells, 1)
                found[f"{name}{side}"] = np.where(n_cells > 0, means, np.nan)
        return found

    def is_seen(self, comparison: Comparison) -> np.ndarray:
        """(f,) whether a feature has a count in either group."""
        return self.nonzeros[list(comparison.pools1 + comparison.pools2)].sum(axis=0) > 0


def group_counts(minibatches: Iterable[Minibatch], groups: Groups) -> GroupCounts:
    """What was counted in each pool, genes first and proteins after them, in one pass over its cells."""
    totals: list[np.ndarray] | None = None
    n_genes = 0
    for mb in minibatches:
        n_genes = mb.counts.shape[1]
        codes = groups.codes[mb.indices.cpu().numpy()]  # type: ignore[union-attr]  # they are of a data set
        kinds = zip(_of_genes(mb, codes, groups.n_pools), _of_proteins(mb, codes, groups.n_pools), strict=True)
        parts = [np.concatenate(pair, axis=1) for pair in kinds]
        totals = parts if totals is None else [total + part for total, part in zip(totals, parts, strict=True)]
    if totals is None:
        raise ValueError("no cell is compared")
    n_cells, sums, nonzeros, shares = totals
    return GroupCounts(n_cells, sums, nonzeros, shares, n_genes)


def _of_genes(mb: Minibatch, codes: np.ndarray, n_pools: int) -> list[np.ndarray]:
    """The four sums of :class:`GroupCounts`, (k, g) each, of cells in the pools of these codes; -1 is none."""
    cells, genes, values = entries(mb)
    totals = np.maximum(np.bincount(cells, values, minlength=len(mb)), _LEAST_TOTAL)
    shape = (n_pools + 1, mb.counts.shape[1])  # the last is that of cells in no pool
    place = np.where(codes < 0, n_pools, codes)[cells] * shape[1] + genes

    def summed(weights: np.ndarray | None) -> np.ndarray:
        return np.bincount(place, weights, minlength=shape[0] * shape[1]).reshape(shape)[:-1]

    n_cells = np.bincount(codes[codes >= 0], minlength=n_pools)[:, None]
    return [np.broadcast_to(n_cells, (n_pools, shape[1])), summed(values), summed(None), summed(values / totals[cells])]


def entries(mb: Minibatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells, genes and values of the counts that are not zero."""
    counts = mb.counts
    if isinstance(counts, Tensor):
        dense = counts.cpu().numpy()
        cells, genes = dense.nonzero()
        return cells, genes, dense[cells, genes]
    cells, genes, values = (part.cpu().numpy() for part in (counts.cells, counts.genes, counts.values))
    return cells, genes, values


def _of_proteins(mb: Minibatch, codes: np.ndarray, n_pools: int) -> list[np.ndarray]:
    """The same of proteins, (k, p) each; p is 0 where there are none."""
    if mb.proteins is None:
        return [np.empty((n_pools, 0))] * 4
    y = mb.proteins.cpu().numpy().astype(np.float64)
    measured = np.ones_like(y) if mb.measured is None else mb.measured.cpu().numpy().astype(np.float64)
    y = y * measured
    shares = y / np.maximum(y.sum(axis=1, keepdims=True), _LEAST_TOTAL)
    is_in = (codes == np.arange(n_pools)[:, None]).astype(np.float64)  # (k, n)
    return [is_in @ values for values in (measured, y, y > 0, shares)]
