"""What differs between two groups of cells in the counts themselves, given their offsets and their batches.

The test of a gene is a score test of the group in a negative binomial model whose mean is in proportion to the offsets
(library sizes, or what a model expects of each cell), with batches as random effects as
:mod:`scvi.queries.batch_effects` has them. All of it is made of sums over cells (:mod:`scvi.queries.count_sums`).

* Offsets are made robust: a group in which a few genes take many counts has fewer left for all others, which is no
  difference. What most genes say differs between the groups, or between batches, is taken off.
* Variances are what is observed, in groups of few cells drawn towards those of the model.
* The score of a rare gene in a small group is skewed: tails are those of a gamma distribution with the same skewness
  (Pearson III), and those of a t distribution for the uncertainty of the variance. The skewness is at most such that
  a group without any count is no surprise by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from scvi.queries.batch_effects import TAUS, Contrast, contrast, shares, usual
from scvi.queries.count_sums import CountSums

_PRIOR_CELLS = 20  # as many degrees of freedom does the variance of the model count as
_LEAST_DISPERSION = 1e-2
_PRIOR_COUNTS = 1  # of a group, as if it did not differ: fold changes of rare genes are not read off one count
_ENOUGH = 2000  # features, the most counted of which say how large cells are
_SURE = 4  # standard deviations that the rest of an estimate may be off where a group has no count
_NO_VARIANCE = 1e12  # of log rates where there are no cells
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Tested:
    """What a test says of f features; NaN where nothing was counted in either group.

    Attributes
    ----------
    lfc
        log2 fold change of the first group over the second.
    p
        Two-sided.
    """

    lfc: np.ndarray
    p: np.ndarray

    @property
    def p_adjusted(self) -> np.ndarray:
        """Of the features that were tested, after Benjamini and Hochberg."""
        from scipy.stats import false_discovery_control

        adjusted = np.full_like(self.p, np.nan)
        is_tested = np.isfinite(self.p)
        if is_tested.any():
            adjusted[is_tested] = false_discovery_control(self.p[is_tested])
        return adjusted


def score_test(sums: CountSums) -> Tested:
    """The test of the first group against the second, units being batches."""
    is_counted = sums.is_counted
    found = np.full((2, len(is_counted)), np.nan)
    if is_counted.any():
        found[:, is_counted] = _tested(sums.chosen(is_counted))
    return Tested(*found)


def _tested(sums: CountSums) -> tuple[np.ndarray, np.ndarray]:
    sums = sums.scaled(robust_sizes(sums))
    w = Working.of(sums)
    fits = [contrast(w.y, w.v, tau) for tau in taus_of(sums)]
    weights = shares(np.stack([fit.log_likelihood for fit in fits]))
    found = [Estimate.of(w, fit.c, tau**2 * fit.batch_effects) for fit, tau in zip(fits, taus_of(sums), strict=True)]
    tails = np.stack([one.tails() for one in found])  # (t, 2, f)
    # the mixture is the distribution of the estimate given what is left over, so that its tails are uniform
    p = two_sided((weights[:, None] * tails).sum(0))
    return sum(weight * one.lfc for weight, one in zip(weights, found, strict=True)), p


def taus_of(sums: CountSums) -> np.ndarray:
    """Sizes of batch effects that are to be considered."""
    return TAUS if len(sums.x) > 1 else TAUS[:1]


def robust_sizes(sums: CountSums) -> np.ndarray:
    """(u, 2, 1) what offsets are to be multiplied with, so that most features do not differ."""
    sizes = np.ones((len(sums.x), 2, 1))
    sums = sums.chosen(_most_counted(sums))
    for _ in range(2):
        w = Working.of(sums.scaled(sizes))
        if len(sizes) > 1:
            sizes *= _usual_units(w)
            w = Working.of(sums.scaled(sizes))
        fits = [contrast(w.y, w.v, tau) for tau in taus_of(sums)]
        weights = shares(np.stack([fit.log_likelihood for fit in fits]))
        estimates = np.stack([fit.of(w.y) for fit in fits])
        variances = np.stack([_variance(fit, w, tau) for fit, tau in zip(fits, taus_of(sums), strict=True)])
        mean = (weights * estimates).sum(0)
        sizes[:, 0] *= np.exp(usual(mean, np.sqrt((weights * (variances + (estimates - mean) ** 2)).sum(0))))
    return sizes


def _most_counted(sums: CountSums) -> np.ndarray:
    """(f,) a mask of as many features as are enough to say what is usual."""
    counted = sums.x.sum((0, 1))
    rank = np.empty(len(counted), dtype=np.int64)
    rank[np.argsort(-counted, kind="stable")] = np.arange(len(counted))
    return rank < _ENOUGH


def _usual_units(w: Working) -> np.ndarray:
    """(u, 1, 1) how much more than over all units is counted of most features in each."""
    precision = (1 / w.v).sum(1)
    of_unit = (w.y / w.v).sum(1) / precision
    overall = (of_unit * precision).sum(0) / precision.sum(0)
    return np.exp([[[usual(a, 1 / np.sqrt(b))]] for a, b in zip(of_unit - overall, precision, strict=True)])


def _variance(fit: Contrast, w: Working, tau: float) -> np.ndarray:
    return (fit.c**2 * w.variance).sum((0, 1)) + tau**2 * fit.batch_effects


@dataclass(frozen=True, eq=False)
class Working:
    """Log rates of u units x 2 groups, linear in the counts around what they would be if groups did not differ.

    Attributes
    ----------
    y
        (u, 2, f) log rates.
    v
        Their variances in the model.
    variance, third, df
        Variances that were observed, third cumulants, and degrees of freedom behind the variances.
    log_rates
        Log rates with some counts added, not linear, for fold changes.
    """

    y: np.ndarray
    v: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    df: np.ndarray
    log_rates: np.ndarray

    @classmethod
    def of(cls, sums: CountSums) -> Working:
        x, o, n = sums.x, np.maximum(sums.o, _LEAST), np.maximum(sums.n, 1)
        overall = x.sum((0, 1)) / o.sum((0, 1))
        m = (x.sum(1, keepdims=True) + 1) / (o.sum(1, keepdims=True) + 1 / overall)  # (u, 1, f) rates without groups
        expected, phi = m * o, dispersions(sums)
        v = 1 / expected + phi * sums.oo / o**2

        df, df_unit = (_degrees(expected / n, n, phi), _degrees(m * _of_unit(o) / _of_unit(n), _of_unit(n), phi))
        squares = (
            np.maximum(sums.xx - 2 * m * sums.xo + m**2 * sums.oo, 0) * _of_unit(n) / np.maximum(_of_unit(n) - 1, 1)
        )
        ratio = _of_unit(squares) / np.maximum(_of_unit(v * expected**2), _LEAST)
        v = v * _mix(df_unit, ratio, 1.0)  # as the unit has it, whose groups need not differ
        variance = _mix(df, squares / expected**2, v)
        third = v * (v + np.maximum(v - 1 / expected, 0))  # of negative binomial counts with this variance

        has_cells = np.broadcast_to(sums.o > 0, x.shape)
        added = max(_PRIOR_COUNTS / len(x), 0.5)
        return cls(
            np.where(has_cells, np.log(m) + x / expected - 1, 0),
            np.where(has_cells, v, _NO_VARIANCE),
            np.where(has_cells, variance, 0),
            np.where(has_cells, third, 0),
            df + np.minimum(df_unit, _PRIOR_CELLS),
            np.where(has_cells, np.log((x + added) / (o + added / m)), 0),
        )


def dispersions(sums: CountSums) -> np.ndarray:
    """(f,) negative binomial dispersions by moments, within units and groups: the variance is mean + phi mean^2."""
    rate = sums.x / np.maximum(sums.o, _LEAST)
    squares = sums.xx - 2 * rate * sums.xo + rate**2 * sums.oo
    excess = (squares * sums.n / np.maximum(sums.n - 1, 1) - sums.x).sum((0, 1))
    return np.maximum(excess / np.maximum((rate**2 * sums.oo).sum((0, 1)), _LEAST), _LEAST_DISPERSION)


def _degrees(mean: np.ndarray, n: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Normal counts that would tell as much of their variance as n negative binomial ones with this mean."""
    return 2 * n / (2 + 6 * phi + 1 / (mean + phi * mean**2))


def _of_unit(values: np.ndarray) -> np.ndarray:
    """(u, 1, .) sums over both groups."""
    return values.sum(1, keepdims=True)


def _mix(df: np.ndarray, observed: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
    return (df * observed + _PRIOR_CELLS * prior) / (df + _PRIOR_CELLS)


@dataclass(frozen=True, eq=False)
class Estimate:
    """The estimate with one size of batch effects, or with given weights: all arrays (f,)."""

    value: np.ndarray
    variance: np.ndarray
    skewness: np.ndarray
    df: np.ndarray
    lfc: np.ndarray

    @classmethod
    def of(cls, w: Working, c: np.ndarray, of_batches: np.ndarray | float = 0.0) -> Estimate:
        """The sum of c, (u, 2, f), times log rates; `of_batches` is the variance that is not of cells."""
        parts = c**2 * w.variance
        variance = np.maximum(parts.sum((0, 1)) + of_batches, 1e-30)
        df = variance**2 / np.maximum((parts**2 / w.df).sum((0, 1)), 1e-30)
        skewness = (c**3 * w.third).sum((0, 1)) / variance**1.5
        of_others = variance - np.where(skewness > 0, *parts.sum(0))
        most = 2 * np.sqrt(variance) / (1 + _SURE * np.sqrt(np.maximum(of_others, 0)))
        skewness = np.clip(skewness, -most, most)  # of tails that reach as far as a group without any count
        return cls((c * w.y).sum((0, 1)), variance, skewness, df, (c * w.log_rates).sum((0, 1)) / np.log(2))

    def tails(self) -> np.ndarray:
        """(2, f) probabilities of an estimate as low, or as high."""
        return t_tails(skewed_tails(self.value / np.sqrt(self.variance), self.skewness), self.df)


def two_sided(tails: np.ndarray) -> np.ndarray:
    """(f,) p-values of tails (2, f)."""
    return np.minimum(2 * tails.min(axis=0), 1)


def skewed_tails(z: np.ndarray, skewness: np.ndarray) -> np.ndarray:
    """(2, f) lower and upper tails at z of the gamma distribution with mean 0, variance 1 and a skewness."""
    is_normal, is_left = np.abs(skewness) < 2e-3, skewness < 0
    shape = 4 / np.where(is_normal, 1, skewness) ** 2
    at = np.maximum(shape + np.where(is_left, -z, z) * np.sqrt(shape), 0)
    tails = np.stack([special.gammainc(shape, at), special.gammaincc(shape, at)])
    return np.where(is_normal, special.ndtr([z, -z]), np.where(is_left, tails[::-1], tails))


def t_tails(tails: np.ndarray, df: np.ndarray) -> np.ndarray:
    """(2, f) tails of a normal distribution -> those of a t distribution at the same quantile."""
    smaller = special.stdtr(df, special.ndtri(np.clip(tails.min(axis=0), 1e-300, 0.5)))
    return np.where(tails == tails.min(axis=0), smaller, 1 - smaller)
