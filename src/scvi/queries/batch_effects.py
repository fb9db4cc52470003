"""Effects of batches as random effects of each gene: estimates of a group effect that take them into account.

    y_sk = beta + delta t_k + b_s + error,   b_s ~ Normal(0, tau^2),   error ~ Normal(0, v_sk)

of the log rates y of a gene in batch (or sample) s and group k, where t is 1 in the first group and 0 in the second.
With tau = 0 batches are pooled, with a large tau they are strata. How large batch effects are is learnt from all genes:
tau is one of a few values, whose shares are estimated by maximum likelihood of what the estimate of delta leaves over,
as in adaptive shrinkage (Stephens 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAUS = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
"""Standard deviations of batch effects, in natural logs."""

_SHARED = 0.05  # of the prior of tau is spread evenly: a gene may have effects of a size that few others have
_N_STEPS = 100

_SPREADS = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])  # of fold changes of genes that differ, in natural logs
_LARGEST_ERROR = 0.5  # of a gene that says where most are
_FEWEST = 10  # such genes
_N_CENTRE_STEPS = 30


@dataclass(frozen=True, eq=False)
class Contrast:
    """The best linear unbiased estimate of delta: the sum of `c` times y.

    Attributes
    ----------
    c
        (u, 2, f).
    log_likelihood
        (f,) restricted to what is left when beta and delta are estimated: it says nothing of delta.
    """

    c: np.ndarray
    log_likelihood: np.ndarray

    def of(self, y: np.ndarray) -> np.ndarray:
        """(f,) the estimate from y, (u, 2, f)."""
        return (self.c * y).sum((0, 1))

    @property
    def batch_effects(self) -> np.ndarray:
        """(f,) sum of squares of what batch effects are multiplied with in the estimate."""
        return (self.c.sum(1) ** 2).sum(0)


def contrast(y: np.ndarray, v: np.ndarray, tau: float | np.ndarray) -> Contrast:
    """The estimate with a known tau, of a number or (f,); y and v are (u, 2, f).

    An entry without cells has a very large v.
    """
    precision = 1 / v
    shared = tau**2 / (1 + tau**2 * precision.sum(1, keepdims=True))  # (u, 1, f)

    def weighted(a: np.ndarray) -> np.ndarray:
        """The inverse of the covariance times a."""
        return precision * (a - shared * (a * precision).sum(1, keepdims=True))

    group = np.zeros_like(y)
    group[:, 0] = 1
    of_one, of_group = weighted(np.ones_like(y)), weighted(group)
    a11, a1t, att = of_one.sum((0, 1)), of_group.sum((0, 1)), of_group[:, 0].sum(0)
    det = np.maximum(a11 * att - a1t**2, 1e-300)
    c = (a11 * of_group - a1t * of_one) / det
    left = y - ((att * of_one - a1t * of_group) / det * y).sum((0, 1)) - group * (c * y).sum((0, 1))
    log_det = np.log(v).sum((0, 1)) + np.log1p(tau**2 * precision.sum(1)).sum(0) + np.log(det)
    return Contrast(c, -0.5 * (log_det + (left * weighted(left)).sum((0, 1))))


def shares(log_likelihoods: np.ndarray) -> np.ndarray:
    """(t, f) posterior of tau of each gene, of its log likelihood at each of t values, (t, f); prior: all genes."""
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max(axis=0))
    n_taus = len(likelihoods)
    prior = np.full((n_taus, 1), 1 / n_taus)
    for _ in range(_N_STEPS):
        posterior = prior * likelihoods
        posterior /= posterior.sum(axis=0)
        prior = (1 - _SHARED) * posterior.mean(axis=1, keepdims=True) + _SHARED / n_taus
    return posterior


def usual(values: np.ndarray, errors: np.ndarray) -> float:
    """Where the values of most genes are, of estimates (f,) with standard errors (f,): the mode of what they estimate.

    They are Normal(mode, error^2 + s^2), s one of a few values, by maximum likelihood. Where most genes do not differ,
    they say so, however many others go up. 0 where fewer than ten genes are known well enough.
    """
    known = np.isfinite(values) & (errors > 0) & (errors < _LARGEST_ERROR)
    if known.sum() < _FEWEST:
        return 0.0
    values, errors = values[known], errors[known]
    variances = errors**2 + _SPREADS[:, None] ** 2
    prior, centre = (np.full((len(_SPREADS), 1), 1 / len(_SPREADS)), float(np.median(values)))
    for _ in range(_N_CENTRE_STEPS):
        log_density = -0.5 * ((values - centre) ** 2 / variances + np.log(variances))
        share = prior * np.exp(log_density - log_density.max(axis=0))
        share /= share.sum(axis=0)
        prior = share.mean(axis=1, keepdims=True) + 1e-6
        weights = share / variances
        centre = float((weights * values).sum() / weights.sum())
    return centre
