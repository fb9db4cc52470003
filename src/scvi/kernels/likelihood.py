r"""Negative log-likelihood of count rows and all its gradients, in one pass over the genes (numba, CPU, float32).

For a row with decoder logits a, log library l, log inverse dispersion r and dropout logits pi:

    log mu = l + log softmax(a),  theta = exp(r),  L = log(1 + mu / theta),  v = theta / (mu + theta),  q = -theta L

    x = 0:  log NB = q                      log ZINB = softplus(q - pi) - softplus(-pi)
    x > 0:  log NB = q + x (log mu - log(mu + theta)) + log Gamma(x + theta) / (Gamma(theta) x!)
            log ZINB = log NB - softplus(pi)

Most entries are zeros, so a row is computed as if it were all zeros, and its counts, which come as sparse rows, are
gathered, computed and put in their places. Counts of 1, 2 and 3, most of the rest, need no log-gamma function:

    Gamma(x + theta) / (Gamma(theta) theta^x) = 1 (1 + 1 / theta) (1 + 2 / theta)

For the others, the difference of log-gammas is Stirling's series from theta + 4 on, which is exact to float32 and never
subtracts two large numbers. All loops are free of branches and calls, so that they become vector instructions, except
for the two that gather and scatter.

Gradients are written over the logits they belong to: at 10,000 genes memory traffic costs as much as arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.elementary import (
    FOUR,
    HALF,
    ONE,
    OPTIONS,
    TWO,
    ZERO,
    F,
    clamp,
    digamma_series,
    exp,
    largest,
    log,
    log1p,
    log1p_and_inverse,
    stirling,
    total,
)

_THREE, _FIVE = F(3), F(5)
_MAX_MEAN, MAX_LOG_MEAN = F(1e15), F(34.538776)
MIN_LOG_THETA, MAX_LOG_THETA = F(-18.0), F(18.0)
_SERIES_AT_5 = F(1 / 60 - 1 / 45000 + 1 / 3937500)  # stirling(5)
_ONE_24TH, _ONE_6TH = F(1 / 24), F(1 / 6)
_HALF_LOG_2PI = F(0.91893853)


@njit(forceinline=True, **OPTIONS)
def _add(bias, row):
    for j in range(row.shape[0]):
        row[j] += bias[j]


@njit(forceinline=True, **OPTIONS)
def _exponentials(logits, out):
    """Writes exp(logits - max); returns the maximum and the sum of what was written, softmax is `out` / sum."""
    top = largest(logits)
    for j in range(logits.shape[0]):
        out[j] = exp(logits[j] - top)
    return top, np.float32(total(out))


@njit(forceinline=True, **OPTIONS)
def _dispersions(log_theta, theta, inverse):
    """Writes theta and 1 / theta."""
    for j in range(log_theta.shape[0]):
        r = clamp(log_theta[j], MIN_LOG_THETA, MAX_LOG_THETA)
        theta[j] = exp(r)
        inverse[j] = exp(-r)


@njit(inline="always", **OPTIONS)
def _nb_zero(share, scale, theta, inverse):
    """Log-likelihood of a zero and its slope in -log mu; mu is `share` times `scale`."""
    mu = share * scale
    mu = _MAX_MEAN if mu > _MAX_MEAN else mu
    log_u, v = log1p_and_inverse(mu * inverse)
    return -theta * log_u, v * mu


@njit(forceinline=True, **OPTIONS)
def _nb_zeros(share, scale, theta, inverse, ll, d_mu, d_theta):
    """Log-likelihood of zeros and its slopes in log mu and log theta."""
    for j in range(share.shape[0]):
        q, slope = _nb_zero(share[j], scale, theta[j], inverse[j])
        ll[j] = q
        d_mu[j] = -slope
        d_theta[j] = q + slope


@njit(forceinline=True, **OPTIONS)
def _zinb_zeros(share, scale, theta, inverse, dropout, ll, d_mu, d_theta):
    """As :func:`_nb_zeros`; the slope in the dropout logits is written over them."""
    for j in range(share.shape[0]):
        q, slope = _nb_zero(share[j], scale, theta[j], inverse[j])
        pi = dropout[j]
        t = q - pi
        a = exp(-abs(t))
        b = exp(-abs(pi))
        a1, b1 = ONE + a, ONE + b
        both = ONE / (a1 * b1)
        s = (ONE if t > ZERO else a) * (b1 * both)  # sigmoid(q - pi)
        not_dropped = (b if pi > ZERO else ONE) * (a1 * both)  # sigmoid(-pi)
        w = (a - b) * (a1 * both)  # log(a1 / b1) is log1p(w), the rounding of 1 + w put back
        u = ONE + w
        log_ratio = log(u) + (w - (u - ONE)) * (b1 * (b1 * both))
        ll[j] = (q if t > ZERO else pi) - (pi if pi > ZERO else ZERO) + log_ratio
        d_mu[j] = -s * slope
        d_theta[j] = s * (q + slope)
        dropout[j] = not_dropped - s


@njit(forceinline=True, **OPTIONS)
def _sort(x, at, few, many):
    """Counts of 1, 2 and 3 and their genes to the first two rows of `few`, larger ones and fractions to `many`.

    What is not positive is left out. Returns the numbers of entries in each.
    """
    few_at, many_at = few[1].view(np.int32), many[1].view(np.int32)
    n_few, n_many = np.uintp(0), np.uintp(0)  # unsigned: a signed index is looked at for being negative, every time
    for e in range(x.shape[0]):
        c, j = x[e], at[e]
        small = (c == ONE) | (c == TWO) | (c == _THREE)
        few[0, n_few] = c
        few_at[n_few] = j
        n_few += np.uintp(small)
        many[0, n_many] = c
        many_at[n_many] = j
        n_many += np.uintp(c > ZERO and not small)
    return np.intp(n_few), np.intp(n_many)


@njit(forceinline=True, **OPTIONS)
def _gather(g, n, log_scale, scale, logits, share, theta, dropout):
    """Fills rows 2 to 5 of sorted entries with log mu, mu, theta and the dropout logit."""
    where = g[1].view(np.int32)
    inflated = dropout.shape[0] > 0
    for k in range(n):
        j = np.uintp(where[k])
        log_mu = logits[j] + log_scale
        mu = share[j] * scale
        g[2, k] = MAX_LOG_MEAN if log_mu > MAX_LOG_MEAN else log_mu  # as the mean itself: no density above 1
        g[3, k] = _MAX_MEAN if mu > _MAX_MEAN else mu
        g[4, k] = theta[j]
        if inflated:
            g[5, k] = dropout[j]


@njit(forceinline=True, **OPTIONS)
def _few(g, n, ll, d_mu, d_theta):
    """Log-likelihood and its slopes in log mu and log theta where the count is 1, 2 or 3."""
    x, log_mu, mean, theta = g[0], g[2], g[3], g[4]
    for k in range(n):
        c, m, i = x[k], mean[k], ONE / theta[k]
        log_u, v = log1p_and_inverse(m * i)
        q = -theta[k] * log_u
        above_1, above_2 = c > ONE, c > TWO
        one = ONE + i if above_1 else ONE
        two = ONE + TWO * i if above_2 else ONE
        rise = one * two
        choose = _ONE_6TH if above_2 else (HALF if above_1 else ONE)
        ll[k] = q + c * (log_mu[k] - log_u) + log(rise * choose)
        digamma = ONE + ((two if above_1 else ZERO) + (one if above_2 else ZERO)) / rise  # times theta
        d_mu[k] = v * (c - m)
        d_theta[k] = q + v * m - c * v + digamma


@njit(forceinline=True, **OPTIONS)
def nb_entries(g, n, ll, d_mu, d_theta):
    """As :func:`_few` for any positive count."""
    x, log_mu, mean, theta = g[0], g[2], g[3], g[4]
    for k in range(n):
        c, m, t = x[k], mean[k], theta[k]
        inverse = ONE / (m + t)
        v = t * inverse
        q = -t * log1p(m / t)
        t4, c5, z, z4 = t + FOUR, c + _FIVE, c + t, c + t + FOUR
        rise_t = t * (t + ONE) * (t + TWO) * (t + _THREE)
        rise_z = z * (z + ONE) * (z + TWO) * (z + _THREE)
        rise_c = (c + ONE) * (c + TWO) * (c + _THREE) * (c + FOUR)
        grow = log1p(c / t4)
        choose = log((rise_t / rise_z) * (rise_c * _ONE_24TH))
        choose += (t4 - HALF) * grow - F(4.5) * log1p(c * F(0.2))
        choose += stirling(z4) - stirling(t4) - stirling(c5) + _SERIES_AT_5
        ll[k] = q + c * (log_mu[k] + log(z4 * inverse / c5)) + choose
        slope_t = (((FOUR * t + F(18)) * t + F(22)) * t + F(6)) / rise_t
        slope_z = (((FOUR * z + F(18)) * z + F(22)) * z + F(6)) / rise_z
        digamma = slope_t - slope_z + grow + (digamma_series(z4) - digamma_series(t4))
        d_mu[k] = v * (c - m)
        d_theta[k] = q + v * m - c * v + t * digamma


@njit(forceinline=True, **OPTIONS)
def _not_dropped(g, n, ll):
    """An observed count was not dropped: adds log sigmoid(-pi), and writes its slope over the gathered pi."""
    dropout = g[5]
    for k in range(n):
        pi = dropout[k]
        b = exp(-abs(pi))
        b1 = ONE + b
        softplus = (pi if pi > ZERO else ZERO) + log(b1)
        ll[k] = ll[k] - softplus  # an augmented assignment would not become vector instructions here
        dropout[k] = -(ONE if pi > ZERO else b) / b1


@njit(forceinline=True, **OPTIONS)
def _scatter(g, n, ll, d_mu, d_theta, d_dropout):
    """Puts what was computed of gathered entries in their places."""
    where = g[1].view(np.int32)
    inflated = d_dropout.shape[0] > 0
    if inflated:
        _not_dropped(g, n, g[6])
    for k in range(n):
        j = np.uintp(where[k])
        ll[j] = g[6, k]
        d_mu[j] = g[7, k]
        d_theta[j] = g[8, k]
        if inflated:
            d_dropout[j] = g[5, k]


@njit(forceinline=True, **OPTIONS)
def _finish(weight, share, share_sum, whole, d_mu, sums):
    """From slopes of the log-likelihood in log mu to gradients of the loss in the logits; adds them up in `sums`."""
    factor = np.float32(whole) / share_sum
    for j in range(share.shape[0]):
        d_mu[j] = (share[j] * factor - d_mu[j]) * weight
        sums[j] += d_mu[j]


@njit(forceinline=True, **OPTIONS)
def _finish_dropout(weight, d_dropout, sums):
    for j in range(d_dropout.shape[0]):
        d_dropout[j] *= -weight
        sums[j] += d_dropout[j]


@njit(inline="always", **OPTIONS)
def within_bounds(log_theta, slope):
    """A clamped dispersion has no slope."""
    return ZERO if log_theta < MIN_LOG_THETA or log_theta > MAX_LOG_THETA else slope


@njit(forceinline=True, **OPTIONS)
def _finish_theta(weight, log_theta, d_theta, sums):
    for j in range(d_theta.shape[0]):
        sums[j] = within_bounds(log_theta[j], sums[j] - d_theta[j] * weight)


@njit(**OPTIONS)
def negative_binomial_rows(
    starts,
    at,
    x,
    biases,
    logits,
    log_library,
    log_theta,
    dropout,
    weight,
    rows,
    gradients,
    nll,
    d_library,
    d_theta,
    sums,
):
    """Rows ``rows[0]:rows[1]`` of the negative log-likelihood and of its gradients times ``weight[row]``.

    Parameters
    ----------
    starts, at, x
        (n + 1,), (entries,) and (entries,): cell i has the counts ``x[starts[i]:starts[i + 1]]`` in the genes `at`.
        Row i of the others reads cell i modulo n, so that several draws share the counts.
    biases
        (2, g) to be added to `logits` and to `dropout`, (1, g) where there is no zero inflation; no rows: none.
    logits, dropout
        (m, g); `dropout` with no columns stands for no zero inflation. With `gradients` they are written over by the
        gradients of the same row.
    log_library, weight, nll, d_library
        (m,).
    log_theta, d_theta
        (1, g) for all rows, or (m, g); gradients are added to `d_theta`.
    gradients
        Whether they are wanted.
    sums
        (2, g): sums over the rows of this call of the gradients in the logits and in the dropout logits are added.
    """
    n_cells, n_genes = starts.shape[0] - 1, logits.shape[1]
    shared = log_theta.shape[0] == 1
    inflated = dropout.shape[1] > 0
    scratch = np.empty((7, n_genes), np.float32)
    share, theta, inverse, ll, d_r = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    most = 0
    for i in range(n_cells):
        most = max(most, starts[i + 1] - starts[i])
    few, many = np.empty((9, most + 1), np.float32), np.empty((9, most + 1), np.float32)
    for i in range(rows[0], rows[1]):
        r = 0 if shared else i
        if i == rows[0] or not shared:
            _dispersions(log_theta[r], theta, inverse)
        if biases.shape[0] > 0:
            _add(biases[0], logits[i])
        if biases.shape[0] > 1:
            _add(biases[1], dropout[i])
        top, share_sum = _exponentials(logits[i], share)
        log_scale = log_library[i] - top - log(share_sum)
        scale = exp(log_library[i]) / share_sum
        cell = i % n_cells
        first, last = starts[cell], starts[cell + 1]
        n_few, n_many = _sort(x[first:last], at[first:last], few, many)
        d_mu, pi = (logits[i], dropout[i]) if gradients else (scratch[5], scratch[6][: dropout.shape[1]])
        if not gradients:
            pi[:] = dropout[i]
        _gather(few, n_few, log_scale, scale, logits[i], share, theta, pi)
        _gather(many, n_many, log_scale, scale, logits[i], share, theta, pi)
        if inflated:
            _zinb_zeros(share, scale, theta, inverse, pi, ll, d_mu, d_r)
        else:
            _nb_zeros(share, scale, theta, inverse, ll, d_mu, d_r)
        _few(few, n_few, few[6], few[7], few[8])
        nb_entries(many, n_many, many[6], many[7], many[8])
        _scatter(few, n_few, ll, d_mu, d_r, pi)
        _scatter(many, n_many, ll, d_mu, d_r, pi)
        nll[i] = -total(ll)
        if not gradients:
            continue
        whole = total(d_mu)
        d_library[i] = -np.float32(whole) * weight[i]
        _finish(weight[i], share, share_sum, whole, d_mu, sums[0])
        _finish_dropout(weight[i], pi, sums[1])
        _finish_theta(weight[i], log_theta[r], d_r, d_theta[r])


@njit(forceinline=True, **OPTIONS)
def _log_factorial(c):
    rise = (c + ONE) * (c + TWO) * (c + _THREE) * (c + FOUR)
    c5 = c + _FIVE
    return (c5 - HALF) * log(c5) - c5 + _HALF_LOG_2PI + stirling(c5) - log(rise)


@njit(**OPTIONS)
def poisson_rows(starts, at, x, biases, logits, log_library, weight, rows, gradients, nll, d_library, sums):
    """As :func:`negative_binomial_rows`, for Poisson counts."""
    n_cells, n_genes = starts.shape[0] - 1, logits.shape[1]
    share = np.empty(n_genes, np.float32)
    for i in range(rows[0], rows[1]):
        row = logits[i]
        if biases.shape[0] > 0:
            _add(biases[0], row)
        top, share_sum = _exponentials(row, share)
        log_scale = log_library[i] - top - log(share_sum)
        cell = i % n_cells
        scale = exp(log_library[i])
        ll, whole = -np.float64(scale), 0.0
        for e in range(starts[cell], starts[cell + 1]):
            c = x[e]
            if c > ZERO:
                whole += c
                ll += c * (row[at[e]] + log_scale) - (_log_factorial(c) if c != ONE else ZERO)
        nll[i] = -ll
        if not gradients:
            continue
        d_library[i] = (scale - np.float32(whole)) * weight[i]
        factor = np.float32(whole) / share_sum * weight[i]
        for j in range(n_genes):
            row[j] = share[j] * factor
        for e in range(starts[cell], starts[cell + 1]):
            if x[e] > ZERO:
                row[at[e]] -= x[e] * weight[i]
        for j in range(n_genes):
            sums[0, j] += row[j]
