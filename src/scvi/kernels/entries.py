r"""Counts that are not zero, gathered in rows of a table, for the likelihoods (numba, CPU, float32).

Rows 0 to 9 of a table are the counts, their genes (as int32), log mu, mu, theta, dropout logits, log-likelihoods, their
slopes in log mu and in log theta, and shares of the mean.

Counts of 1, 2 and 3, most of them, need no log-gamma function:

    Gamma(x + theta) / (Gamma(theta) theta^x) = 1 (1 + 1 / theta) (1 + 2 / theta)

For the others, the difference of log-gammas is Stirling's series from theta + 4 on, which is exact to float32 and never
subtracts two large numbers. Divisions take longest, so there are few.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import CALLED_ONCE
from scvi.kernels.elementary import FOUR, HALF, ONE, TWO, ZERO, F, digamma_series, exp, log, log1p, stirling

MAX_MEAN, MAX_LOG_MEAN = F(1e15), F(34.538776)
_THREE, _FIVE, _SIX, _18, _22 = F(3), F(5), F(6), F(18), F(22)
_HALF_OF_9, _FIFTH = F(4.5), F(0.2)
_SERIES_AT_5 = F(1 / 60 - 1 / 45000 + 1 / 3937500)  # stirling(1 / 5)
_ONE_24TH, _ONE_6TH = F(1 / 24), F(1 / 6)


@njit(**CALLED_ONCE)
def sort_entries(x, at, tables, integers):
    """Counts of 1, 2 and 3 and their genes to the first two rows of the first table, others to those of the second.

    What is not positive is left out. Returns both numbers of entries.
    """
    few, many, few_at, many_at = tables[0, 0], tables[1, 0], integers[0, 1], integers[1, 1]
    n_few, n_many = np.uintp(0), np.uintp(0)  # unsigned: a signed index is looked at for being negative, every time
    for e in range(x.shape[0]):
        c, j = x[e], at[e]
        small = (c == ONE) | (c == TWO) | (c == _THREE)
        few[n_few] = c
        few_at[n_few] = j
        n_few += np.uintp(small)
        many[n_many] = c
        many_at[n_many] = j
        n_many += np.uintp(c > ZERO and not small)
    return np.intp(n_few), np.intp(n_many)


@njit(**CALLED_ONCE)
def gather_entries(g, where, n, log_scale, scale, logits, share, theta, dropout, bias):
    """Fills rows 2 to 5 of sorted entries with log mu, mu, theta and the dropout logit.

    Moves their shares to row 9: a gene without a share is a zero that is certain, whose terms and slopes are all 0.
    """
    inflated = dropout.shape[0] > 0
    for k in range(n):
        j = np.uintp(where[k])
        log_mu = logits[j] + log_scale
        mu = share[j] * scale
        g[2, k] = MAX_LOG_MEAN if log_mu > MAX_LOG_MEAN else log_mu  # as the mean itself: no density above 1
        g[3, k] = MAX_MEAN if mu > MAX_MEAN else mu
        g[4, k] = theta[j]
        if inflated:
            g[5, k] = dropout[j] + bias[j]
        g[9, k] = share[j]
        share[j] = ZERO


@njit(**CALLED_ONCE)
def small_entries(g, n):
    """Log-likelihood and its slopes in log mu and log theta where the count is 1, 2 or 3."""
    x, log_mu, mean, theta, ll, d_mu, d_theta = g[0], g[2], g[3], g[4], g[6], g[7], g[8]
    for k in range(n):
        c, m, t = x[k], mean[k], theta[k]
        i = ONE / t
        ratio = m * i
        above_1, above_2 = c > ONE, c > TWO
        one = ONE + i if above_1 else ONE
        two = ONE + TWO * i if above_2 else ONE
        rise, u = one * two, ONE + ratio
        both = ONE / (rise * u)
        v = both * rise
        log_u = log1p(ratio, v)
        q = -t * log_u
        choose = _ONE_6TH if above_2 else (HALF if above_1 else ONE)
        ll[k] = q + c * (log_mu[k] - log_u) + log(rise * choose)
        digamma = ONE + ((two if above_1 else ZERO) + (one if above_2 else ZERO)) * (both * u)  # times theta
        d_mu[k] = v * (c - m)
        d_theta[k] = q + v * m - c * v + digamma


@njit(**CALLED_ONCE)
def nb_entries(g, n):
    """As :func:`small_entries` for any positive count."""
    x, log_mu, mean, theta, ll, d_mu, d_theta = g[0], g[2], g[3], g[4], g[6], g[7], g[8]
    for k in range(n):
        c, m, t = x[k], mean[k], theta[k]
        t4, c5, z, z4 = t + FOUR, c + _FIVE, c + t, c + t + FOUR
        of_both = ONE / (t * (m + t))
        of_t, of_mean = of_both * (m + t), of_both * t  # 1 / t and 1 / (m + t)
        of_t4, of_c5, of_z4 = ONE / t4, ONE / c5, ONE / z4  # not one of all: the terms of a count of 0 cancel exactly
        v = t * of_mean
        q = -t * log1p(m * of_t, v)
        rise_t = t * (t + ONE) * (t + TWO) * (t + _THREE)
        rise_z = z * (z + ONE) * (z + TWO) * (z + _THREE)
        rise_c = (c + ONE) * (c + TWO) * (c + _THREE) * (c + FOUR)
        grow = log1p(c * of_t4, t4 * of_z4)
        choose = log((rise_t / rise_z) * (rise_c * _ONE_24TH))
        choose += (t4 - HALF) * grow - _HALF_OF_9 * log1p(c * _FIFTH, _FIVE * of_c5)
        choose += stirling(of_z4) - stirling(of_t4) - stirling(of_c5) + _SERIES_AT_5
        ll[k] = q + c * (log_mu[k] + log(z4 * of_mean * of_c5)) + choose
        slope_t = (((FOUR * t + _18) * t + _22) * t + _SIX) / rise_t
        slope_z = (((FOUR * z + _18) * z + _22) * z + _SIX) / rise_z
        digamma = slope_t - slope_z + grow + (digamma_series(of_z4) - digamma_series(of_t4))
        d_mu[k] = v * (c - m)
        d_theta[k] = q + v * m - c * v + t * digamma


@njit(**CALLED_ONCE)
def add_not_dropped(g, n):
    """An observed count was not dropped: adds log sigmoid(-pi), and writes its slope over the gathered pi."""
    dropout, ll = g[5], g[6]
    for k in range(n):
        pi = dropout[k]
        b = exp(-abs(pi))
        b1 = ONE + b
        softplus = (pi if pi > ZERO else ZERO) + log(b1)
        ll[k] = ll[k] - softplus  # an augmented assignment would not become vector instructions here
        dropout[k] = -(ONE if pi > ZERO else b) / b1


@njit(**CALLED_ONCE)
def scatter_entries(g, where, n, weight, share, d_mu, d_theta, d_dropout, sums):
    """Puts what was computed of gathered entries in their places, and adds it up, as the zeros' slopes were."""
    inflated = d_dropout.shape[0] > 0
    for k in range(n):
        j = np.uintp(where[k])
        share[j] = g[9, k]
        d_mu[j] = g[7, k]
        d_theta[j] -= weight * g[8, k]
        if inflated:
            d_dropout[j] = -weight * g[5, k]
            sums[j] += d_dropout[j]
