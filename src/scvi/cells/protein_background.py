"""What the background of each protein looks like in each batch, by a mixture of two Gaussians."""

from __future__ import annotations

import numpy as np

_STEPS_OF_EM = 60
_CELLS_OF_EM = 5000  # of each batch
_LEAST_SD = 0.1  # of log(1 + count)
_LEAST_MEAN = 0.1  # counts


def background_moments(
    proteins: np.ndarray, batch: np.ndarray, measured: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the lower of two Gaussians, fitted to log(1 + count) of a batch and protein, says of the background.

    Parameters
    ----------
    proteins, batch
        (n, p) counts and (n,) codes.
    measured
        (k, p). What a batch did not measure gets the mean of the batches that did.

    Returns
    -------
    Mean and log standard deviation of the log background, (p, k); log of the foreground over the background, (p,).
    """
    k, p = measured.shape
    found = np.full((3, k, p), np.nan)
    for code in range(k):
        cells = np.flatnonzero(batch == code)
        values = np.log1p(proteins[cells[:: max(1, len(cells) // _CELLS_OF_EM)]])
        if len(values):
            found[:, code] = np.where(measured[code], _two_gaussians(values), np.nan)
    known = ~np.isnan(found)
    mean = np.where(known, found, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    low, sd, high = np.where(known, found, mean[:, None])
    background = np.log(np.maximum(np.expm1(low), _LEAST_MEAN))
    foreground = np.log(np.maximum(np.expm1(high), _LEAST_MEAN))
    return background.T, np.log(np.maximum(sd, _LEAST_SD)).T, np.maximum(foreground - background, 0.0).mean(axis=0)


def _two_gaussians(values: np.ndarray) -> np.ndarray:
    """(3, p) lower mean, its standard deviation, higher mean: maximum likelihood by EM, column by column of (n, p)."""
    means = np.quantile(values, [0.25, 0.95], axis=0)  # (2, p)
    sds = np.maximum(np.tile(values.std(axis=0), (2, 1)) / 2, _LEAST_SD)
    shares = np.full_like(means, 0.5)
    for _ in range(_STEPS_OF_EM):
        log_density = np.log(shares) - np.log(sds) - 0.5 * ((values[:, None] - means) / sds) ** 2  # (n, 2, p)
        first = 1 / (1 + np.exp(np.clip(log_density[:, 1] - log_density[:, 0], -50, 50)))
        weights = np.stack([first, 1 - first], axis=1)
        totals = weights.sum(axis=0) + 1e-6
        shares = totals / totals.sum(axis=0)
        means = (weights * values[:, None]).sum(axis=0) / totals
        deviations = (weights * (values[:, None] - means) ** 2).sum(axis=0) / totals
        sds = np.maximum(np.sqrt(deviations), _LEAST_SD)
    lower = means.argmin(axis=0)
    pick = lambda table, row: np.take_along_axis(table, row[None], axis=0)[0]  # noqa: E731
    return np.stack([pick(means, lower), pick(sds, lower), pick(means, 1 - lower)])
