"""Draws of pools of cells, which of them are compared with one another, and what a function says of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scvi.queries.decoded_draws import Draws, drawn_cells
from scvi.queries.groups import Comparison, Groups

Batches = Sequence[int] | None
OfPairs = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""What is said of pairs of values, twice (p, f): (f,) by name."""

_FEATURES_AT_ONCE = 256

Key = tuple[int, tuple[int, ...] | None, bool]
"""A pool, the batches that it is decoded in, and whether it is on the other side of the same comparison as well."""


@dataclass(frozen=True, eq=False)
class PoolDraws:
    """Draws of each pool, once for each list of batches that it is decoded in, one after the other.

    Draw number i of a pool is decoded in batch i of the list, over and over: draws of two pools that have the same
    number are of the same batch. A pool that is on both sides of a comparison is drawn twice.
    """

    draws: Draws
    batches: tuple[Batches, Batches]
    first: dict[Key, int]  # where the draws of a pool begin
    sizes: np.ndarray  # (k,) cells of each pool
    n: int  # draws of a pool

    @classmethod
    def of(cls, groups: Groups, n: int, batches: tuple[Batches, Batches], rng: np.random.Generator) -> PoolDraws:
        wanted = dict.fromkeys(
            key for comparison in groups.comparisons for side in _keys(comparison, batches) for key in side
        )
        parts = []
        for pool, codes, _ in wanted:
            cells = drawn_cells(groups.cells((pool,)), n, rng)
            parts.append(Draws(cells, None if codes is None else np.resize(np.array(codes, dtype=np.int64), n)))
        first = {key: n * number for number, key in enumerate(wanted)}
        return cls(Draws.joined(parts), batches, first, groups.sizes, n)

    def sides(self, comparison: Comparison, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(n,) places of the draws of both groups."""
        first, second = (self._rows(keys, rng) for keys in _keys(comparison, self.batches))
        return first, second

    @property
    def n_together(self) -> int:
        """Batches of which draws are compared within each; 1 where draws are compared whatever their batch."""
        first, second = self.batches
        return len(first) if first is not None and second is not None and list(first) == list(second) else 1

    @property
    def strata(self) -> np.ndarray:
        """(m,) number of the stratum of each draw: its pool, and its batch where only draws of one are compared."""
        pools = np.repeat(np.arange(len(self.first)), self.n)
        return (pools * self.n_together + np.tile(np.arange(self.n), len(self.first)) % self.n_together).astype(
            np.int32
        )

    def weights(self, comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
        """(c, p, s) shares of the strata in both sides, for each comparison and each of `n_together` batches."""
        shape = (len(comparisons), self.n_together, len(self.first) * self.n_together)
        found = np.zeros(shape), np.zeros(shape)
        for c, comparison in enumerate(comparisons):
            for weights, keys in zip(found, _keys(comparison, self.batches), strict=True):
                for key in keys:
                    start = self.first[key] // self.n * self.n_together
                    for batch in range(self.n_together):
                        weights[c, batch, start + batch] = self.sizes[key[0]]
        return found

    def means(self, values: np.ndarray, comparisons: Sequence[Comparison]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(f,) means of both groups of each comparison over their draws (m, f), without NaN."""
        by_pool = torch.from_numpy(values).view(len(self.first), self.n, values.shape[1])
        means = by_pool.mean(dim=1).double().numpy()
        known = np.ones(means.shape)
        has_nan = np.isnan(means).any(axis=0)
        if has_nan.any():
            some = by_pool[..., torch.from_numpy(has_nan)].numpy()
            known[:, has_nan] = (~np.isnan(some)).mean(axis=1)
            means[:, has_nan] = np.nansum(some, axis=1) / self.n / np.maximum(known[:, has_nan], 1e-30)
        answers = []
        for comparison in comparisons:
            sides = []
            for keys in _keys(comparison, self.batches):
                pools = [self.first[key] // self.n for key in keys]
                shares = known[pools] * self.sizes[[pool for pool, *_ in keys], None]
                total = shares.sum(axis=0)
                mean = (shares * means[pools]).sum(axis=0) / np.maximum(total, 1e-30)
                sides.append(np.where(total > 0, mean, np.nan))
            answers.append((sides[0], sides[1]))
        return answers

    def _rows(self, keys: Sequence[Key], rng: np.random.Generator) -> np.ndarray:
        """(n,) places of draws, of each pool as many as its share of the cells says."""
        ends = np.cumsum(self.sizes[[pool for pool, *_ in keys]])
        shares = np.round(self.n * ends / ends[-1]).astype(np.int64)
        number = rng.permutation(np.repeat(np.arange(len(keys)), np.diff(shares, prepend=0)))
        return np.array([self.first[key] for key in keys])[number] + np.arange(self.n)


def _keys(comparison: Comparison, batches: tuple[Batches, Batches]) -> tuple[list[Key], list[Key]]:
    """The pools of both sides, and how they are decoded."""
    first, second = (None if codes is None else tuple(codes) for codes in batches)
    shared = set(comparison.pools1)
    return [(pool, first, False) for pool in comparison.pools1], [
        (pool, second, pool in shared) for pool in comparison.pools2
    ]


def pair_rows(
    first: np.ndarray, second: np.ndarray, n_pairs: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides, pair by pair: as they are, as many as both have, or `n_pairs` drawn with replacement."""
    if n_pairs is None:
        n = min(len(first), len(second))
        return first[:n], second[:n]
    return rng.choice(first, n_pairs), rng.choice(second, n_pairs)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Values (m, f) of draws, and which of them are compared: row ``first[i]`` with row ``second[i]``."""

    values: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def each(self, function: OfPairs) -> dict[str, np.ndarray]:
        """What a function says of pairs of values, joined over features, of which some are looked at at a time."""
        n = self.values.shape[1]
        blocks = [self.values[:, start : start + _FEATURES_AT_ONCE] for start in range(0, n, _FEATURES_AT_ONCE)]
        found = [_where_measured(function, block[self.first], block[self.second]) for block in blocks]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _where_measured(function: OfPairs, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """What a function says of the pairs; of a feature with NaN, of what is left of both sides, paired anew."""
    found = function(a, b)
    for j in np.flatnonzero(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0)):
        left, right = (side[~np.isnan(side[:, j]), j, None] for side in (a, b))
        n = min(len(left), len(right))
        of_feature = function(left[:n], right[:n]) if n else dict.fromkeys(found, np.array([np.nan]))
        for name, values in of_feature.items():
            found[name][j] = values[0]
    return found
