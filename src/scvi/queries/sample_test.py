"""The score test with the sample as the unit: cells of one sample are no replicates of a group of samples.

The estimate weighs samples as :mod:`scvi.queries.batch_effects` has it, by their cells and by how much samples of a
group differ in a gene. Its variance is that of what samples contribute to it, whatever the cells say (cluster-robust),
with the correction and the degrees of freedom of Bell and McCaffrey (2002) for few samples. Few samples may be alike by
chance, as all are that have no count of a gene: no gene is surer than if nothing but cells differed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scvi.queries.batch_effects import TAUS, contrast, shares
from scvi.queries.count_sums import CountSums
from scvi.queries.score_test import Estimate, Tested, Working, robust_sizes, two_sided

_LEAST_LEFT = 1e-6  # of the variance of a sample that the fit must leave for it to be seen


def sample_test(sums: CountSums, batches: np.ndarray | None = None) -> Tested:
    """The test of the first group against the second, units being samples.

    Parameters
    ----------
    batches
        (u,) codes of the batches of the samples, which are fixed effects if each has samples of both groups: otherwise
        a batch effect is part of what makes samples differ. None: there is one.

    Returns
    -------
    p is NaN where a group has fewer than two samples that measured the feature.
    """
    is_counted = sums.is_counted & _is_replicated(sums)
    found = np.full((2, len(is_counted)), np.nan)
    if is_counted.any():
        found[:, is_counted] = _tested(sums.chosen(is_counted), batches)
    return Tested(*found)


def _is_replicated(sums: CountSums) -> np.ndarray:
    """(1,) or (f,) whether both groups have cells of two samples."""
    n_samples = (sums.o > 0).sum(0)
    return np.broadcast_to((n_samples > 1).all(axis=0), (sums.x.shape[2],))


def _tested(sums: CountSums, batches: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import t

    w = Working.of(sums.scaled(robust_sizes(sums)))
    weights = shares(np.stack([contrast(w.y, w.v, tau).log_likelihood for tau in TAUS]))
    tau = np.sqrt((weights * TAUS[:, None] ** 2).sum(0))
    fit = Clustered.of(w.y, w.v, tau, design(sums, batches))
    of_cells = Estimate.of(w, fit.c)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * t.sf(np.abs(fit.estimate) / np.sqrt(fit.variance), fit.df)
    return of_cells.lfc, np.maximum(p, two_sided(of_cells.tails()))


def design(sums: CountSums, batches: np.ndarray | None) -> np.ndarray:
    """(u, 2, q) what a log rate is made up of: each batch, if all have samples of both groups; last, the group."""
    codes = np.zeros(len(sums.x), dtype=np.int64) if batches is None else np.unique(batches, return_inverse=True)[1]
    has_cells: np.ndarray = np.any(sums.n > 0, axis=2)
    if not all(has_cells[codes == code].any(axis=0).all() for code in np.unique(codes)):
        codes = np.zeros_like(codes)
    of_batch = np.eye(codes.max() + 1)[codes]
    group = np.broadcast_to([[[1.0], [0.0]]], (len(codes), 2, 1))
    return np.concatenate([np.repeat(of_batch[:, None], 2, axis=1), group], axis=2)


@dataclass(frozen=True, eq=False)
class Clustered:
    """A weighted least-squares estimate of the last coefficient, and its cluster-robust variance.

    Attributes
    ----------
    c
        (u, 2, f) what y is multiplied with in the estimate.
    estimate, variance, df
        (f,); the variance is NaN if the coefficients leave nothing of a sample to be seen.
    """

    c: np.ndarray
    estimate: np.ndarray
    variance: np.ndarray
    df: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, v: np.ndarray, tau: np.ndarray, x: np.ndarray) -> Clustered:
        """Of y with variances v, (u, 2, f), a spread tau (f,) of what both groups of a sample share, and a design."""
        precision = 1 / v
        shared = tau**2 / (1 + tau**2 * precision.sum(1))  # (u, f)
        of_x = np.einsum("ukq,ukf->uqf", x, precision)
        weighted = precision[:, :, None] * (x[..., None] - (shared[:, None] * of_x)[:, None])  # (u, 2, q, f)
        inverse = np.linalg.pinv(np.einsum("ukp,ukqf->fpq", x, weighted), hermitian=True)
        coefficients = np.einsum("fpq,ukqf,ukf->fp", inverse, weighted, y)
        c = np.einsum("fq,ukqf->ukf", inverse[:, -1], weighted)

        left = y - np.einsum("ukq,fq->ukf", x, coefficients)
        part = (c * left).sum(1)  # (u, f) of samples in the estimate
        of_sample = (c**2 * v).sum(1) + tau**2 * c.sum(1) ** 2  # their variances in the model,
        q = np.einsum("ukq,ukf->fuq", x, c)
        taken = np.einsum("fup,fpq,fuq->uf", q, inverse, q)  # and what the coefficients take of them
        is_in = of_sample > 1e-9 * of_sample.sum(0)
        is_seen = (of_sample - taken > _LEAST_LEFT * of_sample) | ~is_in
        ratio = np.where(is_in & is_seen, of_sample / np.where(is_seen & is_in, of_sample - taken, 1), 0)
        total = of_sample.sum(0)
        outer = np.einsum("uf,fup,fuq->fpq", ratio, q, q) @ inverse
        spread = (of_sample**2).sum(0) + np.einsum("fpq,fqp->f", outer, outer) - (ratio**2 * taken**2).sum(0)
        variance = np.where(is_seen.all(axis=0), (ratio * part**2).sum(0), np.nan)
        return cls(c, (c * y).sum((0, 1)), variance, total**2 / spread)
