r"""Negative log-likelihood of mixtures of two negative binomials and all its gradients (numba, CPU, float32).

Counts of proteins (Gayoso et al. 2021): few, dense, and either background or foreground, with one inverse dispersion:

    log p(y) = logsumexp(log NB(y; exp(b), theta), log NB(y; exp(b + f), theta) - pi) - softplus(-pi)

with the log background rate b, the log factor f of the foreground, and the logits pi of belonging to the background.
With the posterior probability s of the background, and slopes d1, d2 of the two log-likelihoods in their log means:

    d/db = s d1 + (1 - s) d2,  d/df = (1 - s) d2,  d/dpi = s - sigmoid(pi)
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS, PART
from scvi.kernels.elementary import ONE, ZERO, F, clamp, exp, log, total
from scvi.kernels.entries import MAX_LOG_MEAN, nb_entries
from scvi.kernels.likelihood import MAX_LOG_THETA, MIN_LOG_THETA, within_bounds

_MIN_LOG_MEAN = F(-80.0)


@njit(**PART)
def _fill(g, y, log_mean, factor, log_theta):
    """Rows of `nb_entries`: counts, log mu, mu and theta."""
    for j in range(y.shape[0]):
        m = clamp(log_mean[j] + factor[j], _MIN_LOG_MEAN, MAX_LOG_MEAN)
        r = clamp(log_theta[j], MIN_LOG_THETA, MAX_LOG_THETA)
        g[0, j], g[2, j], g[3, j], g[4, j] = y[j], m, exp(m), exp(r)


@njit(**CALLED_ONCE)
def _mix(one, two, mixing, measured, weight, nll, d_back, d_factor, d_mixing, d_theta):
    """From the two log-likelihoods and their slopes in log mu and log theta (rows 6 to 8) to those of the mixture."""
    for j in range(mixing.shape[0]):
        pi = mixing[j]
        difference = one[6, j] - two[6, j] + pi
        a, b = exp(-abs(difference)), exp(-abs(pi))
        back = (ONE if difference > ZERO else a) / (ONE + a)  # posterior probability of the background
        fore = (a if difference > ZERO else ONE) / (ONE + a)
        prior = (ONE if pi > ZERO else b) / (ONE + b)
        highest = one[6, j] if difference > ZERO else two[6, j] - pi
        softplus = (ZERO if pi > ZERO else -pi) + log(ONE + b)
        w = -measured[j]
        nll[j] = w * (highest + log(ONE + a) - softplus)
        w *= weight
        slope = fore * two[7, j]
        d_factor[j] = w * slope
        d_back[j] = w * (back * one[7, j] + slope)
        d_theta[j] = w * (back * one[8, j] + fore * two[8, j])
        d_mixing[j] = w * (back - prior)


@njit(**OPTIONS)
def mixture_rows(
    y, log_back, factor, mixing, log_theta, measured, weight, rows, nll, d_back, d_factor, d_mixing, d_theta
):
    """Rows ``rows[0]:rows[1]`` of the negative log-likelihood, and of its gradients times ``weight[row]``.

    Parameters
    ----------
    y, measured
        (n, p) counts, and 1 where they were measured, 0 elsewhere; row i of the others reads cell i modulo n.
    log_back, factor, mixing, d_back, d_factor, d_mixing
        (m, p).
    log_theta, d_theta
        (1, p) or (m, p), and (m, p).
    weight, nll
        (m,).
    """
    n_cells, p = y.shape
    one, two = np.empty((9, p), np.float32), np.empty((9, p), np.float32)
    no_factor, losses = np.zeros(p, np.float32), np.empty(p, np.float32)
    for i in range(rows[0], rows[1]):
        cell = i % n_cells
        r = log_theta[i if log_theta.shape[0] > 1 else 0]
        _fill(one, y[cell], log_back[i], no_factor, r)
        _fill(two, y[cell], log_back[i], factor[i], r)
        nb_entries(one, p)
        nb_entries(two, p)
        _mix(one, two, mixing[i], measured[cell], weight[i], losses, d_back[i], d_factor[i], d_mixing[i], d_theta[i])
        nll[i] = total(losses)
        for j in range(p):
            d_theta[i, j] = within_bounds(r[j], d_theta[i, j])
