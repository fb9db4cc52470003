"""Differential expression as the model sees it: what it decodes at draws of cells of two groups, draw against draw.

Cells are drawn first, and only those are decoded. Every pool of cells is decoded once for all comparisons that it is
part of, so that a one-vs-rest of k groups costs k pools of draws (Lopez et al. 2018; Boyeau et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scvi.kernels import pair_changes
from scvi.models.base import Model
from scvi.queries.decoded_draws import Read, Values, decoded
from scvi.queries.evidence import bayes_factor, described
from scvi.queries.groups import Comparison, GroupCounts, Groups
from scvi.queries.pool_draws import Batches, OfPairs, Pairs, PoolDraws

Mode = Literal["change", "vanilla"]

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
    means = draws.means(scales)
    answers = []
    for comparison in groups.comparisons:
        sides = draws.side_means(comparison, means)
        compared = Compared(comparison, Pairs(scales, *draws.sides(comparison, rng)), sides, counts)
        answers.append(_ordered(compared) if wish.mode == "vanilla" else _changed(compared, wish))
    return answers


# ---- what is said of a comparison ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Compared:
    """Draws of two groups.

    Attributes
    ----------
    means
        (f,) means of each group over all draws of its cells, NaN where one is.
    counts
        What was counted, if that is known.
    """

    comparison: Comparison
    pairs: Pairs
    means: tuple[np.ndarray, np.ndarray]
    counts: GroupCounts | None

    @property
    def is_seen(self) -> np.ndarray | None:
        """(f,) whether a feature has a count in either group; None: not known."""
        return None if self.counts is None else self.counts.is_seen(self.comparison)

    def patched(self, found: dict[str, np.ndarray], function: OfPairs) -> dict[str, np.ndarray]:
        """The same, of features with NaN what a function says of the draws that have no NaN."""
        has_nan = np.isnan(self.means[0] + self.means[1])
        if has_nan.any():
            of_some = self.pairs.of(has_nan).each(function)
            for name, values in found.items():
                values[has_nan] = of_some[name]
        return found

    def scales(self) -> dict[str, np.ndarray]:
        """Means of both groups."""
        found = {"scale1": self.means[0].copy(), "scale2": self.means[1].copy()}
        return self.patched(found, lambda a, b: {"scale1": a.mean(axis=0), "scale2": b.mean(axis=0)})

    def changes(self, pseudocounts: float, delta: float) -> dict[str, np.ndarray]:
        """How log2 fold changes are spread, and the share of those of at least `delta`."""

        def slowly(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
            change = log_fold(a, b, pseudocounts)
            return {**described(change), "large": share(np.abs(change) >= delta, a)}

        found = pair_changes(self.pairs.values, self.pairs.first, self.pairs.second, pseudocounts, delta)
        return self.patched(found._asdict(), slowly)

    def intervals(self, pseudocounts: float, levels: tuple[float, ...]) -> dict[str, np.ndarray]:
        """Ends of credible intervals of log2 fold changes."""
        if not levels:
            return {}
        found = self.pairs.each(lambda a, b: described(log_fold(a, b, pseudocounts), levels))
        return {f"lfc_{name}": values for name, values in found.items() if name.startswith("confidence")}


def _ordered(compared: Compared) -> dict[str, np.ndarray]:
    """Mode 'vanilla': is the first larger?"""
    proba, is_seen = compared.pairs.each(lambda a, b: {"m1": share(a > b, a)})["m1"], compared.is_seen
    if is_seen is not None:
        proba = np.where(is_seen, proba, 0.5)
    return {"proba_m1": proba, "proba_m2": 1 - proba, "bayes_factor": bayes_factor(proba), **compared.scales()}


def _changed(compared: Compared, wish: Wish) -> dict[str, np.ndarray]:
    """Mode 'change': is the fold change large?"""
    scales, is_seen = compared.scales(), compared.is_seen
    pseudocounts, delta = wish.pseudocounts, wish.delta
    if pseudocounts is None:
        pseudocounts = estimated_pseudocounts(scales["scale1"], scales["scale2"], compared.counts, compared.comparison)
    changes = compared.changes(pseudocounts, delta or 0.0)
    if delta is None:
        delta = estimated_delta(changes["mean"], is_seen)
        changes = compared.changes(pseudocounts, delta)
    proba = changes.pop("large")
    if is_seen is not None:
        proba = np.where(is_seen, proba, 0.0)
    return {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": bayes_factor(proba),
        **scales,
        "pseudocounts": np.full(len(proba), pseudocounts),
        "delta": np.full(len(proba), delta),
        **{f"lfc_{name}": values for name, values in changes.items()},
        **compared.intervals(pseudocounts, wish.levels),
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
