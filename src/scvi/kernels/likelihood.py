r"""Negative log-likelihood of count rows and all its gradients, in one pass over the genes (numba, CPU, float32).

For a row with decoder logits a, log library l, log inverse dispersion r and dropout logits pi:

    log mu = l + log softmax(a),  theta = exp(r),  v = theta / (mu + theta),  q = -theta log(1 + mu / theta)

    x = 0:  log NB = q                      log ZINB = softplus(q - pi) - softplus(-pi)
    x > 0:  log NB = q + x (log mu - log(mu + theta)) + log Gamma(x + theta) / (Gamma(theta) x!)
            log ZINB = log NB - softplus(pi)

Most entries are zeros, so zeros are computed for the whole row and non-zeros are gathered, computed and put back.
Both loops are free of branches and calls, so that they become vector instructions. The difference of log-gammas is
Stirling's series from theta + 4 on, which is exact to float32 and never subtracts two large numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["negative_binomial_rows", "poisson_rows"]

_F = np.float32
_ZERO, _HALF, _ONE, _TWO, _FOUR, _FIVE = _F(0), _F(0.5), _F(1), _F(2), _F(4), _F(5)
_LOG2E, _LN2_HIGH, _LN2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
_ROUND = _F(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds a float32 to an integer
_EXP_MIN, _EXP_MAX = _F(-87.0), _F(88.0)
_SQRT2 = _F(1.41421356)
_MAX_MEAN, _MAX_LOG_MEAN = _F(1e15), _F(34.538776)
_MIN_LOG_THETA, _MAX_LOG_THETA = _F(-18.0), _F(18.0)
_EXP_POLY = tuple(_F(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1))
_LOG_POLY = tuple(
    _F(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
# Coefficients of Stirling's series of log Gamma and of its derivative.
_S1, _S3, _S5 = _F(1 / 12), _F(-1 / 360), _F(1 / 1260)
_D1, _D2, _D4, _D6 = _F(-1 / 2), _F(-1 / 12), _F(1 / 120), _F(-1 / 252)
_SERIES_AT_5 = _F(1 / 60 - 1 / 45000 + 1 / 3937500)  # _stirling(5)
_ONE_24TH = _F(1 / 24)

# No reassociation: log1p and the rounding trick rely on the order of operations. Sums have a function of their own.
_options = {"nogil": True, "cache": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}


@njit(inline="always", **_options)
def _exp(x):
    """Cephes expf; relative error 1e-7, arguments clamped to the float32 range."""
    x = _EXP_MIN if x < _EXP_MIN else x
    x = _EXP_MAX if x > _EXP_MAX else x
    n = (x * _LOG2E + _ROUND) - _ROUND
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = _EXP_POLY[0]
    p = p * r + _EXP_POLY[1]
    p = p * r + _EXP_POLY[2]
    p = p * r + _EXP_POLY[3]
    p = p * r + _EXP_POLY[4]
    p = p * r + _HALF
    p = p * r * r + r + _ONE
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(inline="always", **_options)
def _log(x):
    """Cephes logf; x is a positive normal number."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32(np.int32((bits >> np.int32(23)) - np.int32(127)))
    m = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    large = m > _SQRT2
    m = m * _HALF if large else m
    exponent = exponent + _ONE if large else exponent
    f = m - _ONE
    p = _LOG_POLY[0]
    p = p * f + _LOG_POLY[1]
    p = p * f + _LOG_POLY[2]
    p = p * f + _LOG_POLY[3]
    p = p * f + _LOG_POLY[4]
    p = p * f + _LOG_POLY[5]
    p = p * f + _LOG_POLY[6]
    p = p * f + _LOG_POLY[7]
    p = p * f + _LOG_POLY[8]
    z = f * f
    y = p * f * z + exponent * _LN2_LOW - _HALF * z
    return f + y + exponent * _LN2_HIGH


@njit(inline="always", **_options)
def _log1p(x):
    """log(1 + x) for x >= -0.5, to full relative accuracy near 0: the rounding of 1 + x is put back."""
    u = _ONE + x
    return _log(u) + (x - (u - _ONE)) / u


@njit(inline="always", **_options)
def _stirling(z):
    """log Gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), for z >= 4."""
    i = _ONE / z
    s = i * i
    return i * (_S1 + s * (_S3 + s * _S5))


@njit(inline="always", **_options)
def _digamma_series(z):
    """digamma(z) - log z, for z >= 4."""
    i = _ONE / z
    s = i * i
    return i * _D1 + s * (_D2 + s * (_D4 + s * _D6))


@njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
def _sum(values, n):
    total = 0.0
    for start in range(0, n, 1024):
        part = _ZERO
        for j in range(start, min(start + 1024, n)):
            part += values[j]
        total += part
    return total


@njit(nogil=True, cache=True, fastmath={"nsz", "reassoc", "contract"}, error_model="numpy")
def _max(values):
    largest = values[0]
    for j in range(values.shape[0]):
        largest = values[j] if values[j] > largest else largest
    return largest


@njit(**_options)
def _softmax(logits, prob):
    """Writes softmax(logits) to `prob`; returns log sum exp(logits)."""
    top = _max(logits)
    for j in range(logits.shape[0]):
        prob[j] = _exp(logits[j] - top)
    total = np.float32(_sum(prob, logits.shape[0]))
    inverse = _ONE / total
    for j in range(logits.shape[0]):
        prob[j] *= inverse
    return top + _log(total)


@njit(**_options)
def _theta(log_theta, theta):
    for j in range(log_theta.shape[0]):
        r = log_theta[j]
        r = _MIN_LOG_THETA if r < _MIN_LOG_THETA else r
        r = _MAX_LOG_THETA if r > _MAX_LOG_THETA else r
        theta[j] = _exp(r)


@njit(**_options)
def _nb_zeros(mu, theta, ll, d_mu, d_theta):
    for j in range(mu.shape[0]):
        q = -theta[j] * _log1p(mu[j] / theta[j])
        v_mu = theta[j] / (mu[j] + theta[j]) * mu[j]
        ll[j] = q
        d_mu[j] = -v_mu
        d_theta[j] = q + v_mu


@njit(**_options)
def _zinb_zeros(mu, theta, dropout, ll, d_mu, d_theta, d_dropout):
    for j in range(mu.shape[0]):
        pi = dropout[j]
        q = -theta[j] * _log1p(mu[j] / theta[j])
        v_mu = theta[j] / (mu[j] + theta[j]) * mu[j]
        t = q - pi
        a = _exp(-abs(t))
        b = _exp(-abs(pi))
        inv_a = _ONE / (_ONE + a)
        inv_b = _ONE / (_ONE + b)
        s = inv_a if t > _ZERO else a * inv_a  # sigmoid(q - pi)
        not_dropped = b * inv_b if pi > _ZERO else inv_b  # sigmoid(-pi)
        t_plus = t if t > _ZERO else _ZERO
        pi_minus = -pi if pi < _ZERO else _ZERO
        ll[j] = (t_plus - pi_minus) + _log1p((a - b) * inv_b)
        d_mu[j] = -s * v_mu
        d_theta[j] = s * (q + v_mu)
        d_dropout[j] = not_dropped - s


@njit(**_options)
def _nb_nonzeros(n, x, log_mu, mu, theta, ll, d_mu, d_theta):
    """Log-likelihood and its slopes in log mu and log theta, for the first n of the gathered entries."""
    for k in range(n):
        c, m, t = x[k], mu[k], theta[k]
        inverse = _ONE / (m + t)
        v = t * inverse
        q = -t * _log1p(m / t)
        t4, c5, z, z4 = t + _FOUR, c + _FIVE, c + t, c + t + _FOUR
        rise_t = t * (t + _ONE) * (t + _TWO) * (t + _F(3))
        rise_z = z * (z + _ONE) * (z + _TWO) * (z + _F(3))
        rise_c = (c + _ONE) * (c + _TWO) * (c + _F(3)) * (c + _FOUR)
        grow = _log1p(c / t4)
        choose = _log((rise_t / rise_z) * (rise_c * _ONE_24TH))
        choose += (t4 - _HALF) * grow - _F(4.5) * _log1p(c * _F(0.2))
        choose += _stirling(z4) - _stirling(t4) - _stirling(c5) + _SERIES_AT_5
        ll[k] = q + c * (log_mu[k] + _log(z4 * inverse / c5)) + choose
        slope_t = (((_FOUR * t + _F(18)) * t + _F(22)) * t + _F(6)) / rise_t
        slope_z = (((_FOUR * z + _F(18)) * z + _F(22)) * z + _F(6)) / rise_z
        digamma = slope_t - slope_z + grow + (_digamma_series(z4) - _digamma_series(t4))
        d_mu[k] = v * (c - m)
        d_theta[k] = q + v * m - c * v + t * digamma


@njit(**_options)
def _drop_nonzeros(n, dropout, ll, d_dropout):
    """An observed count was not dropped: adds log sigmoid(-pi)."""
    for k in range(n):
        pi = dropout[k]
        b = _exp(-abs(pi))
        inverse = _ONE / (_ONE + b)
        plus = pi if pi > _ZERO else _ZERO
        ll[k] -= plus + _log1p(b)
        d_dropout[k] = -(inverse if pi > _ZERO else b * inverse)


@njit(**_options)
def _find_nonzeros(x, where):
    n = 0
    for j in range(x.shape[0]):
        where[n] = j
        n += x[j] > _ZERO
    return n


@njit(**_options)
def _gather(values, where, n, out):
    for k in range(n):
        out[k] = values[where[k]]


@njit(**_options)
def _scatter(values, where, n, out):
    for k in range(n):
        out[where[k]] = values[k]


@njit(**_options)
def _stop_at_bounds(log_theta, d_theta):
    """A clamped dispersion has no slope."""
    for j in range(log_theta.shape[0]):
        r = log_theta[j]
        d_theta[j] = _ZERO if r < _MIN_LOG_THETA or r > _MAX_LOG_THETA else d_theta[j]


@njit(**_options)
def negative_binomial_rows(
    x, logits, log_library, log_theta, dropout, weight, rows, nll, d_logits, d_library, d_theta, d_dropout
):
    """Rows ``rows[0]:rows[1]`` of the negative log-likelihood and of its gradients times `weight[row]`.

    Parameters
    ----------
    x
        (n, g) counts; row i of the others reads row i modulo n, so that several draws share the counts.
    logits, dropout
        (m, g); `dropout` with no columns stands for no zero inflation.
    log_library, weight, nll, d_library
        (m,).
    log_theta, d_theta
        (1, g) for all rows, in which case `d_theta` is the sum over the rows of this call; otherwise (m, g).
    d_logits, d_dropout
        (m, g), or no rows where gradients are not wanted.
    """
    n_cells, g = x.shape
    shared = log_theta.shape[0] == 1
    inflated = dropout.shape[1] > 0
    gradients = d_logits.shape[0] > 0
    where = np.empty(g + 1, np.int32)
    scratch = np.empty((7, g), np.float32)
    theta, prob, mu, ll, d_mu, d_r, d_pi = (
        scratch[0],
        scratch[1],
        scratch[2],
        scratch[3],
        scratch[4],
        scratch[5],
        scratch[6],
    )
    gathered = np.empty((8, g), np.float32)
    c, c_log_mu, c_mu, c_theta = gathered[0], gathered[1], gathered[2], gathered[3]
    c_ll, c_d_mu, c_d_r, c_pi = gathered[4], gathered[5], gathered[6], gathered[7]
    if shared:
        _theta(log_theta[0], theta)
    for i in range(rows[0], rows[1]):
        if not shared:
            _theta(log_theta[i], theta)
        log_scale = log_library[i] - _softmax(logits[i], prob)
        scale = _exp(log_library[i])
        for j in range(g):
            m = prob[j] * scale
            mu[j] = _MAX_MEAN if m > _MAX_MEAN else m
        if inflated:
            _zinb_zeros(mu, theta, dropout[i], ll, d_mu, d_r, d_pi)
        else:
            _nb_zeros(mu, theta, ll, d_mu, d_r)
        counts = x[i % n_cells]
        n = _find_nonzeros(counts, where)
        _gather(counts, where, n, c)
        _gather(logits[i], where, n, c_log_mu)
        for k in range(n):
            m = c_log_mu[k] + log_scale
            c_log_mu[k] = _MAX_LOG_MEAN if m > _MAX_LOG_MEAN else m  # as the mean itself: the density stays below 1
        _gather(mu, where, n, c_mu)
        _gather(theta, where, n, c_theta)
        _nb_nonzeros(n, c, c_log_mu, c_mu, c_theta, c_ll, c_d_mu, c_d_r)
        if inflated:
            _gather(dropout[i], where, n, c_pi)
            _drop_nonzeros(n, c_pi, c_ll, c_mu)
            _scatter(c_mu, where, n, d_pi)
        _scatter(c_ll, where, n, ll)
        nll[i] = -_sum(ll, g)
        if not gradients:
            continue
        _scatter(c_d_mu, where, n, d_mu)
        _scatter(c_d_r, where, n, d_r)
        total = np.float32(_sum(d_mu, g))
        w = weight[i]
        d_library[i] = -total * w
        for j in range(g):
            d_logits[i, j] = (prob[j] * total - d_mu[j]) * w
        if inflated:
            for j in range(g):
                d_dropout[i, j] = -d_pi[j] * w
        if shared:
            for j in range(g):
                d_theta[0, j] -= d_r[j] * w
        else:
            for j in range(g):
                d_theta[i, j] = -d_r[j] * w
            _stop_at_bounds(log_theta[i], d_theta[i])
    if gradients and shared:
        _stop_at_bounds(log_theta[0], d_theta[0])


@njit(**_options)
def poisson_rows(x, logits, log_library, weight, rows, nll, d_logits, d_library):
    """As :func:`negative_binomial_rows`, for Poisson counts."""
    n_cells, g = x.shape
    prob = np.empty(g, np.float32)
    ll = np.empty(g, np.float32)
    for i in range(rows[0], rows[1]):
        log_scale = log_library[i] - _softmax(logits[i], prob)
        scale = _exp(log_library[i])
        counts = x[i % n_cells]
        for j in range(g):
            c = counts[j]
            rise = (c + _ONE) * (c + _TWO) * (c + _F(3)) * (c + _FOUR)
            c5 = c + _FIVE
            log_factorial = (c5 - _HALF) * _log(c5) - c5 + _F(0.91893853) + _stirling(c5) - _log(rise)
            log_factorial = log_factorial if c > _ONE else _ZERO
            # 0 log mu = 0, also where mu is 0
            power = c * (logits[i, j] + log_scale) if c > _ZERO else _ZERO
            ll[j] = power - prob[j] * scale - log_factorial
        nll[i] = -_sum(ll, g)
        if d_logits.shape[0] == 0:
            continue
        total = np.float32(_sum(counts, g)) - scale
        d_library[i] = -total * weight[i]
        for j in range(g):
            d_logits[i, j] = (prob[j] * (total + scale) - counts[j]) * weight[i]
