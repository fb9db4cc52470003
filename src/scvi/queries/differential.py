"""Differential expression as the model sees it: what it decodes at draws of cells of two groups, draw against draw.

Cells are drawn first, and only those are decoded. Every pool of cells is decoded once for all comparisons that it is
part of, so that a one-vs-rest of k groups costs k pools of draws (Lopez et al. 2018; Boyeau et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scvi.models.base import Model
from scvi.queries.decoded_draws import Draws, Read, Values, decoded, drawn_cells
from scvi.queries.evidence import bayes_factor, described
from scvi.queries.groups import Comparison, GroupCounts, Groups

Mode = Literal["change", "vanilla"]
Batches = Sequence[int] | None
OfPairs = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""What is said of pairs of values, twice (p, f): (f,) by name."""

_FEATURES_AT_ONCE = 256
_LEAST_SHARE = 1e-6  # of a gene that could be told from none, where counts do not say
_LEAST_DELTA, _MOST_DELTA = 0.1, 1.0


@dataclass(frozen=True)
class Wish:
    """How two groups are compared.

    Attributes
    ----------
    mode
        'change': is the absolute log2 fold change at least `delta`? 'vanilla': is the first larger?
    delta
        None: it is estimated.
    pseudocounts
        Added to expected frequencies before their logarithm is taken; None: they are estimated.
    n_draws
        Draws of each group.
    levels
        Of credible intervals of the fold change that are wanted, in (0, 1).
    """

    mode: Mode = "change"
    delta: float | None = 0.25
    pseudocounts: float | None = None
    n_draws: int = 5000
    levels: tuple[float, ...] = ()


def compare(
    model: Model,
    read: Read,
    values: Values,
    groups: Groups,
    wish: Wish,
    rng: np.random.Generator,
    batches: tuple[Batches, Batches] = (None, None),
    counts: GroupCounts | None = None,
) -> list[dict[str, np.ndarray]]:
    """What the model says of each comparison, an array (f,) by name for each column of the table.

    Parameters
    ----------
    read
        Gives the compared cells as minibatches.
    values
        What is compared: (n, f), genes first. NaN is a protein that was not measured: only draws of cells that have
        it are compared.
    batches
        Codes of the batches to decode each side in; None: each cell's own. Where they are the same, only draws that
        were decoded in the same batch are compared with one another.
    counts
        What was counted: genes of which neither group has a count are not told from one another. None: not known.
    """
    draws = PoolDraws.of(groups, wish.n_draws, batches, rng)
    scales = decoded(model, read, draws.draws, values, rng)
    answers = []
    for comparison in groups.comparisons:
        pairs = Pairs(scales, *draws.sides(comparison, rng))
        if wish.mode == "vanilla":
            answers.append(_ordered(pairs, None if counts is None else counts.is_seen(comparison)))
        else:
            answers.append(_changed(pairs, wish, counts, comparison))
    return answers


# ---- which draws are compared ----------------------------------------------------------------------------------------


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


# ---- what is said of them --------------------------------------------------------------------------------------------


def _ordered(pairs: Pairs, is_seen: np.ndarray | None) -> dict[str, np.ndarray]:
    """Mode 'vanilla': is the first larger?"""
    found = pairs.each(lambda a, b: {"proba_m1": share(a > b, a), "scale1": a.mean(axis=0), "scale2": b.mean(axis=0)})
    proba = found.pop("proba_m1")
    if is_seen is not None:
        proba = np.where(is_seen, proba, 0.5)
    return {"proba_m1": proba, "proba_m2": 1 - proba, "bayes_factor": bayes_factor(proba), **found}


def _changed(pairs: Pairs, wish: Wish, counts: GroupCounts | None, comparison: Comparison) -> dict[str, np.ndarray]:
    """Mode 'change': is the fold change large?"""
    is_seen = None if counts is None else counts.is_seen(comparison)
    scales = pairs.each(lambda a, b: {"scale1": a.mean(axis=0), "scale2": b.mean(axis=0)})
    pseudocounts = wish.pseudocounts
    if pseudocounts is None:
        pseudocounts = estimated_pseudocounts(scales["scale1"], scales["scale2"], counts, comparison)

    changes = pairs.each(
        lambda a, b: {f"lfc_{name}": x for name, x in described(log_fold(a, b, pseudocounts), wish.levels).items()}
    )
    delta = estimated_delta(changes["lfc_mean"], is_seen) if wish.delta is None else wish.delta
    proba = pairs.each(lambda a, b: {"proba": share(np.abs(log_fold(a, b, pseudocounts)) >= delta, a)})["proba"]
    if is_seen is not None:
        proba = np.where(is_seen, proba, 0.0)
    return {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": bayes_factor(proba),
        **scales,
        "pseudocounts": np.full(len(proba), pseudocounts),
        "delta": np.full(len(proba), delta),
        **changes,
    }


def log_fold(a: np.ndarray, b: np.ndarray, pseudocounts: float = 0.0) -> np.ndarray:
    """log2 of (a + pseudocounts) / (b + pseudocounts), float32; 0 counts as the least float32."""
    least = np.finfo(np.float32).tiny
    return np.log2(np.maximum(a + np.float32(pseudocounts), least)) - np.log2(
        np.maximum(b + np.float32(pseudocounts), least)
    )


def share(is_so: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(f,) of pairs (p, f) of which something is so; NaN where values are."""
    return np.where(np.isnan(values).any(axis=0), np.nan, is_so.mean(axis=0))


def estimated_pseudocounts(
    scale1: np.ndarray, scale2: np.ndarray, counts: GroupCounts | None, comparison: Comparison
) -> float:
    """The share of a gene that could not be told from none.

    It is one count among all of the group that has fewer; or what nine in ten genes without any count in either group
    are given by the model at most, if that is more. Where counts are not known it is one in a million.
    """
    if counts is None:
        return _LEAST_SHARE
    of_group = [counts.sums[list(pools), : counts.n_genes].sum() for pools in (comparison.pools1, comparison.pools2)]
    one_count = 1 / max(min(of_group), 1.0)
    is_unseen = ~counts.is_seen(comparison)[: counts.n_genes]
    unseen = np.maximum(scale1, scale2)[: counts.n_genes][is_unseen]
    return float(max(one_count, np.quantile(unseen, 0.9) if len(unseen) else 0.0))


def estimated_delta(changes: np.ndarray, is_seen: np.ndarray | None) -> float:
    """Twice the spread of fold changes of genes that do not differ, between 0.1 and 1.

    These are taken to be the half that moves least: the quartile of the absolute changes is where it is for a normal
    distribution of that spread.
    """
    from scipy.stats import norm

    known = np.abs(changes[np.isfinite(changes) if is_seen is None else is_seen & np.isfinite(changes)])
    if len(known) == 0:
        return _LEAST_DELTA
    return float(np.clip(2 * np.quantile(known, 0.25) / norm.ppf(0.625), _LEAST_DELTA, _MOST_DELTA))
