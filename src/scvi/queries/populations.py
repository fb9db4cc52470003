"""Where the cells of a sample lie, as the mixture of their posteriors, and where it has more of them than another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, StudentT

_AT_ONCE = 2**22  # numbers of one block of pairs


def aggregated_posterior(means: np.ndarray, variances: np.ndarray, dof: float | None) -> MixtureSameFamily:
    """The mixture, with equal weights, of the posteriors (n, d) of some cells.

    `dof` gives each component the tails of Student's t with so many degrees of freedom; None: it is Gaussian.
    """
    loc, scale = torch.from_numpy(means), torch.from_numpy(variances).sqrt()
    parts: Distribution = Normal(loc, scale) if dof is None else StudentT(dof, loc, scale)
    return MixtureSameFamily(Categorical(logits=torch.zeros(len(means))), Independent(parts, 1))


def sample_densities(
    means: np.ndarray,
    variances: np.ndarray,
    members: Mapping[str, np.ndarray],
    dof: float | None = None,
) -> np.ndarray:
    """Log density of each cell's state under the aggregated posterior of each sample, (n, samples).

    A cell's own posterior is left out of the mixture of its sample: its density at its own mean would make every cell
    look typical of its sample. NaN where a sample has no other cell.

    Parameters
    ----------
    means, variances
        (n, d) posteriors of all cells.
    members
        (m,) positions of the cells of each sample.
    dof
        As of :func:`aggregated_posterior`.
    """
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    columns = [_mixture_density(means, variances, cells, dof) for cells in members.values()]
    return np.column_stack(columns)


def _mixture_density(means: np.ndarray, variances: np.ndarray, cells: np.ndarray, dof: float | None) -> np.ndarray:
    """(n,) log densities under the mixture of the posteriors of `cells`, each without its own."""
    n, m = len(means), len(cells)
    place = np.full(n, -1)
    place[cells] = np.arange(m)
    result = np.empty(n)
    step = max(1, _AT_ONCE // (m * (1 if dof is None else means.shape[1])))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        density = _component_densities(means[rows], means[cells], variances[cells], dof)  # (b, m)
        own = place[rows]
        density[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        others = m - (own >= 0)
        alone = others == 0
        result[rows] = np.where(alone, np.nan, logsumexp(density, axis=1, b=1 / np.maximum(others, 1)[:, None]))
    return result


def _component_densities(z: np.ndarray, means: np.ndarray, variances: np.ndarray, dof: float | None) -> np.ndarray:
    """(b, m) log densities of points (b, d) under components (m, d)."""
    d = z.shape[1]
    if dof is None:
        squares = z**2 @ (1 / variances).T - 2 * z @ (means / variances).T + (means**2 / variances).sum(1)
        return -0.5 * (squares + np.log(variances).sum(1) + d * math.log(2 * math.pi))
    constant = gammaln((dof + 1) / 2) - gammaln(dof / 2) - 0.5 * math.log(dof * math.pi)
    distances = (z[:, None] - means) ** 2 / (dof * variances)  # (b, m, d)
    return d * constant - 0.5 * np.log(variances).sum(1) - (dof + 1) / 2 * np.log1p(distances).sum(-1)
