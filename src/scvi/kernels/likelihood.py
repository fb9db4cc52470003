r"""Negative log-likelihood of count rows and all its gradients, in one pass over the genes (numba, CPU, float32).

For a row with decoder logits a, log library l, log inverse dispersion r and dropout logits pi:

    log mu = l + log softmax(a),  theta = exp(r),  L = log(1 + mu / theta),  v = theta / (mu + theta),  q = -theta L

    x = 0:  log NB = q                      log ZINB = softplus(q - pi) - softplus(-pi)
    x > 0:  log NB = q + x (log mu - log(mu + theta)) + log Gamma(x + theta) / (Gamma(theta) x!)
            log ZINB = log NB - softplus(pi)

Most entries are zeros, so a row is computed as if it were all zeros, with means of 0 where it has counts, which adds
nothing; its counts, which come as sparse rows, are computed apart (`entries.py`) and put in their places.

All loops are free of branches and calls, so that they become vector instructions, except for those that sort, gather
and scatter; and short: one loop over all of the formulas for zeros takes nearly twice as long as three, since a
processor cannot look far enough ahead to begin the next entries while it waits for the first. Their numbers stay in the
first cache from loop to loop.

Gradients are written over the logits they belong to: at 10,000 genes memory traffic costs as much as arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import CALLED_ONCE, OPTIONS, PART
from scvi.kernels.elementary import (
    FOUR,
    HALF,
    ONE,
    TWO,
    ZERO,
    F,
    clamp,
    exp,
    largest,
    log,
    log1p,
    stirling,
    total,
    twice_atanh,
)
from scvi.kernels.entries import (
    MAX_MEAN,
    add_not_dropped,
    gather_entries,
    nb_entries,
    scatter_entries,
    small_entries,
    sort_entries,
)

MIN_LOG_THETA, MAX_LOG_THETA = F(-18.0), F(18.0)
_BLOCK = 512  # genes whose numbers stay in the first cache between loops
_HALF_LOG_2PI = F(0.91893853)


def _aligned(n_rows: int, n_columns: int) -> np.ndarray:
    """Memory for float32 rows of at least `n_columns`; each begins at a multiple of the 64 bytes of a cache line."""
    stride = (n_columns + 15) // 16 * 16
    memory = np.empty(n_rows * stride + 16, np.float32)
    first = -memory.ctypes.data // 4 % 16
    return memory[first : first + n_rows * stride].reshape(n_rows, stride)


def scratch(n_genes: int, n_entries: int) -> tuple[np.ndarray, ...]:
    """Memory in which one call of the kernels works; `n_entries` is how many counts a cell has at most.

    Returns
    -------
    Rows of genes, rows of a block of them, and the tables of :mod:`scvi.kernels.entries`, as they are and as integers.
    """
    of_block, tables = _aligned(5, _BLOCK), _aligned(20, n_entries + 1).reshape(2, 10, -1)
    return _aligned(6, n_genes), of_block, tables, tables.view(np.int32)


@njit(**CALLED_ONCE)
def _exponentials(logits, bias, biased, out):
    """Writes logits + bias, and exp of them minus their maximum.

    Returns the maximum and the sum of what was written to `out`: softmax is `out` / sum.
    """
    n = logits.shape[0]
    for j in range(n):
        biased[j] = logits[j] + bias[j]
    top = largest(biased[:n])
    for j in range(n):
        out[j] = exp(biased[j] - top)
    return top, np.float32(total(out[:n]))


@njit(**CALLED_ONCE)
def _dispersions(log_theta, theta, inverse):
    """Writes theta and 1 / theta."""
    for j in range(log_theta.shape[0]):
        r = clamp(log_theta[j], MIN_LOG_THETA, MAX_LOG_THETA)
        theta[j] = exp(r)
        inverse[j] = exp(-r)


@njit(**CALLED_ONCE)
def _nb_zeros(share, scale, theta, inverse, ll, slope):
    """Log-likelihood of zeros and its slope in -log mu; mu is `share` times `scale`."""
    for j in range(ll.shape[0]):
        mu = share[j] * scale
        mu = MAX_MEAN if mu > MAX_MEAN else mu
        ratio = mu * inverse[j]
        v = ONE / (ONE + ratio)
        ll[j] = -theta[j] * log1p(ratio, v)
        slope[j] = v * mu


@njit(**CALLED_ONCE)
def _nb_slopes(weight, ll, slope, d_mu, d_theta):
    """Writes slopes in log mu; subtracts `weight` times those in log theta from `d_theta`."""
    for j in range(ll.shape[0]):
        d_mu[j] = -slope[j]
        d_theta[j] -= weight * (ll[j] + slope[j])


@njit(**CALLED_ONCE)
def _odds(dropout, bias, q, pi, a, b):
    """Writes pi, exp(-abs(q - pi)) and exp(-abs(pi))."""
    for j in range(dropout.shape[0]):
        pi[j] = dropout[j] + bias[j]
        a[j] = exp(-abs(q[j] - pi[j]))
    for j in range(dropout.shape[0]):
        b[j] = exp(-abs(pi[j]))


@njit(**CALLED_ONCE)
def _zinb_slopes(weight, slope, pi, a, b, ll, d_mu, d_theta, d_dropout, sums):
    """As :func:`_nb_slopes`; those in pi times `-weight` are written and added up in `sums`.

    `ll` is that of the negative binomial, and becomes that with zero inflation.
    """
    for j in range(ll.shape[0]):
        q, p = ll[j], pi[j]
        t = q - p
        a1, b1 = ONE + a[j], ONE + b[j]
        c = a1 + b1
        product = a1 * b1
        inverse = ONE / (product * c)
        both = inverse * c  # 1 / (a1 b1)
        s = (ONE if t > ZERO else a[j]) * (b1 * both)  # sigmoid(q - pi)
        not_dropped = (b[j] if p > ZERO else ONE) * (a1 * both)  # sigmoid(-pi)
        z = (a[j] - b[j]) * (product * inverse)
        ll[j] = (q if t > ZERO else p) - (p if p > ZERO else ZERO) + twice_atanh(z)  # log(a1 / b1)
        d_mu[j] = -s * slope[j]
        d_theta[j] -= weight * (s * (q + slope[j]))
        d_dropout[j] = weight * (s - not_dropped)
        sums[j] += d_dropout[j]


@njit(**CALLED_ONCE)
def _finish(weight, share, share_sum, whole, d_mu, sums):
    """From slopes of the log-likelihood in log mu to gradients of the loss in the logits; adds them up in `sums`."""
    factor = np.float32(whole) / share_sum
    for j in range(d_mu.shape[0]):
        d_mu[j] = (share[j] * factor - d_mu[j]) * weight
        sums[j] += d_mu[j]


@njit(**PART)
def within_bounds(log_theta, slope):
    """A clamped dispersion has no slope."""
    return ZERO if log_theta < MIN_LOG_THETA or log_theta > MAX_LOG_THETA else slope


@njit(**CALLED_ONCE)
def _bound(log_theta, d_theta):
    for j in range(d_theta.shape[0]):
        d_theta[j] = within_bounds(log_theta[j], d_theta[j])


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
    memory,
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
        (2, g) to be added to `logits` and to `dropout`; (1, g) where there is no zero inflation.
    logits, dropout
        (m, g); `dropout` with no columns stands for no zero inflation. With `gradients` they are written over by the
        gradients of the same row.
    log_library, weight, nll, d_library
        (m,).
    log_theta, d_theta
        (1, g) for all rows, or (m, g); gradients are added to `d_theta`.
    memory
        For this call alone, see :func:`scratch`.
    gradients
        Whether they are wanted.
    sums
        (2, g): sums over the rows of this call of the gradients in the logits and in the dropout logits are added.
    """
    n_cells, n_genes = starts.shape[0] - 1, logits.shape[1]
    shared = log_theta.shape[0] == 1
    inflated = dropout.shape[1] > 0
    of_genes, block, tables, integers = memory
    biased, share, theta, inverse = of_genes[0], of_genes[1], of_genes[2], of_genes[3]
    ll, slope, pi, u, v = block[0], block[1], block[2], block[3], block[4]
    bias, bias_of_dropout, sums_of_dropout = biases[0], biases[-1], sums[1]
    for i in range(rows[0], rows[1]):
        r = 0 if shared else i
        if i == rows[0] or not shared:
            _dispersions(log_theta[r], theta, inverse)
        top, share_sum = _exponentials(logits[i], bias, biased, share)
        log_scale = log_library[i] - top - log(share_sum)
        scale = exp(log_library[i]) / share_sum
        cell = i % n_cells
        first, last = starts[cell], starts[cell + 1]
        entries = sort_entries(x[first:last], at[first:last], tables, integers)
        d_mu, d_pi = (logits[i], dropout[i]) if gradients else (of_genes[4][:n_genes], of_genes[5][: dropout.shape[1]])
        d_r = d_theta[r if gradients else 0]
        for k in range(2):
            g, where, n = tables[k], integers[k, 1], entries[k]
            gather_entries(g, where, n, log_scale, scale, biased, share, theta, dropout[i], bias_of_dropout)
        whole_ll = whole = 0.0
        # A row as if it were all zeros; each loop is short enough for a processor to work on several rounds at once.
        for a in range(0, n_genes, _BLOCK):
            b = min(a + _BLOCK, n_genes)
            q, d = ll[: b - a], d_mu[a:b]
            _nb_zeros(share[a:b], scale, theta[a:b], inverse[a:b], q, slope)
            if inflated:
                _odds(dropout[i][a:b], bias_of_dropout[a:b], q, pi, u, v)
                _zinb_slopes(weight[i], slope, pi, u, v, q, d, d_r[a:b], d_pi[a:b], sums_of_dropout[a:b])
            else:
                _nb_slopes(weight[i], q, slope, d, d_r[a:b])
            whole_ll += total(q)
            whole += total(d)
        small_entries(tables[0], entries[0])
        nb_entries(tables[1], entries[1])
        for k in range(2):
            g, where, n = tables[k], integers[k, 1], entries[k]
            if inflated:
                add_not_dropped(g, n)
            scatter_entries(g, where, n, weight[i], share, d_mu, d_r, d_pi, sums_of_dropout)
            whole_ll += total(g[6, :n])
            whole += total(g[7, :n])
        nll[i] = -whole_ll
        if not gradients:
            continue
        d_library[i] = -np.float32(whole) * weight[i]
        _finish(weight[i], share, share_sum, whole, d_mu, sums[0])
        if not shared or i == rows[1] - 1:
            _bound(log_theta[r], d_r)


@njit(**PART)
def _log_factorial(c):
    rise = (c + ONE) * (c + TWO) * (c + F(3)) * (c + FOUR)
    c5 = c + F(5)
    return (c5 - HALF) * log(c5) - c5 + _HALF_LOG_2PI + stirling(ONE / c5) - log(rise)


@njit(**OPTIONS)
def poisson_rows(starts, at, x, biases, logits, log_library, weight, rows, memory, gradients, nll, d_library, sums):
    """As :func:`negative_binomial_rows`, for Poisson counts."""
    n_cells, n_genes = starts.shape[0] - 1, logits.shape[1]
    biased, share, bias = memory[0][0], memory[0][1], biases[0]
    for i in range(rows[0], rows[1]):
        row = logits[i]
        top, share_sum = _exponentials(row, bias, biased, share)
        log_scale = log_library[i] - top - log(share_sum)
        cell = i % n_cells
        scale = exp(log_library[i])
        ll, whole = -np.float64(scale), 0.0
        for e in range(starts[cell], starts[cell + 1]):
            c = x[e]
            if c > ZERO:
                whole += c
                ll += c * (biased[at[e]] + log_scale) - (_log_factorial(c) if c != ONE else ZERO)
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
