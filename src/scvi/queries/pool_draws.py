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

    def means(self, values: np.ndarray) -> np.ndarray:
        """(k, f) means over the draws of each pool, of values (m, f) of the draws."""
        by_pool = torch.from_numpy(values).view(len(self.first), self.n, values.shape[1])
        return by_pool.mean(dim=1).double().numpy()

    def side_means(self, comparison: Comparison, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(f,) means of both groups, from those of the pools."""
        first, second = (
            np.average(
                means[[self.first[key] // self.n for key in keys]],
                axis=0,
                weights=self.sizes[[pool for pool, *_ in keys]],
            )
            for keys in _keys(comparison, self.batches)
        )
        return first, second

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

    def of(self, features: np.ndarray) -> Pairs:
        """Pairs of the values of some features alone, which a mask (f,) chooses."""
        return Pairs(self.values[:, features], self.first, self.second)

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
