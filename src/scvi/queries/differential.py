"""Differential expression as the model sees it: what it decodes at draws of cells of two groups, all against all.

Cells are drawn first, and only those are decoded. Every pool of cells is decoded once for all comparisons that it is
part of, so that a one-vs-rest of k groups costs k pools of draws (Lopez et al. 2018; Boyeau et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from scvi.kernels import LogRatios, log_ratios
from scvi.models.base import Model
from scvi.queries.decoded_draws import Read, Values, decoded
from scvi.queries.evidence import bayes_factor, described
from scvi.queries.groups import Comparison, GroupCounts, Groups
from scvi.queries.pool_draws import Batches, Pairs, PoolDraws

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
    n_weighed
        Draws of a cell that are weighed by importance, as of :func:`scvi.queries.decoded_draws.decoded`.
    """

    mode: Mode = "change"
    delta: float | None = 0.25
    pseudocounts: float | None = None
    n_draws: int = 5000
    levels: tuple[float, ...] = ()
    n_weighed: int | None = None


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
    scales = decoded(model, read, draws.draws, values, rng, wish.n_weighed)
    means = draws.means(scales, groups.comparisons)
    estimates = [
        estimated_pseudocounts(*sides, counts, one) for sides, one in zip(means, groups.comparisons, strict=True)
    ]
    pseudocounts = np.array(estimates if wish.pseudocounts is None else [wish.pseudocounts] * len(means))
    is_seen = [None if counts is None else counts.is_seen(comparison) for comparison in groups.comparisons]
    if wish.mode == "vanilla":
        pseudocounts[:] = 0.0
    spread = partial(log_ratios, scales, draws.strata, draws.weights(groups.comparisons), pseudocounts)
    delta = np.full(len(means), wish.delta or 0.0)
    ratios = spread(delta)
    if wish.delta is None:
        delta = np.array([estimated_delta(*pair) for pair in zip(ratios.mean, is_seen, strict=True)])
        ratios = spread(delta)
    answers = []
    for c, comparison in enumerate(groups.comparisons):
        scale = {"scale1": means[c][0], "scale2": means[c][1]}
        of_c = LogRatios(*(part[c] for part in ratios))
        if wish.mode == "vanilla":
            answers.append(_ordered(of_c, scale, is_seen[c]))
        else:
            pairs = Pairs(scales, *draws.sides(comparison, rng)) if wish.levels else None
            intervals = {} if pairs is None else _intervals(pairs, pseudocounts[c], wish.levels)
            answers.append(_changed(of_c, scale, is_seen[c], pseudocounts[c], delta[c]) | intervals)
    return answers


# ---- what is said of a comparison ------------------------------------------------------------------------------------


def _ordered(ratios: LogRatios, scale: dict[str, np.ndarray], is_seen: np.ndarray | None) -> dict[str, np.ndarray]:
    """Mode 'vanilla': is the first larger?"""
    proba = ratios.above if is_seen is None else np.where(is_seen, ratios.above, 0.5)
    return {"proba_m1": proba, "proba_m2": 1 - proba, "bayes_factor": bayes_factor(proba), **scale}


def _changed(
    ratios: LogRatios, scale: dict[str, np.ndarray], is_seen: np.ndarray | None, pseudocounts: float, delta: float
) -> dict[str, np.ndarray]:
    """Mode 'change': is the fold change large?"""
    proba = np.clip(ratios.large if is_seen is None else np.where(is_seen, ratios.large, 0.0), 0.0, 1.0)
    return {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": bayes_factor(proba),
        **scale,
        "pseudocounts": np.full(len(proba), pseudocounts),
        "delta": np.full(len(proba), delta),
        **{f"lfc_{name}": getattr(ratios, name) for name in ("mean", "median", "std", "min", "max")},
    }


def _intervals(pairs: Pairs, pseudocounts: float, levels: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Ends of credible intervals of log2 fold changes."""
    found = pairs.each(lambda a, b: described(log_fold(a, b, pseudocounts), levels))
    return {f"lfc_{name}": values for name, values in found.items() if name.startswith("confidence")}


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
