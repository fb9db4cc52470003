"""Textbook formulas in float64, which the tests argue with.

A density comes with its gradients and, for each of these numbers, the sum of the absolute values of the terms that it
is made of: float32 arithmetic can be asked to be accurate relative to that sum, not relative to a number that is what
two large terms leave over. Everything is a function of log mu, log theta and the dropout logits, so that no digit is
lost on the way in. `exact_nb` and `exact_zinb` say the same in arbitrary precision, one entry at a time; the tests hold
the fast versions against them.
"""

from __future__ import annotations

from dataclasses import dataclass

import mpmath
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, expit, gammaln, logsumexp

Array = NDArray[np.float64]


def softplus(a: ArrayLike) -> Array:
    """log(1 + exp(a))."""
    return np.logaddexp(0.0, a)


def log_softmax(logits: ArrayLike) -> Array:
    """Logarithm of the softmax over the last axis."""
    logits = np.asarray(logits, dtype=np.float64)
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def _stirling(t: Array) -> Array:
    """log Gamma(t) - ((t - 1/2) log t - t + log(2 pi) / 2) for large t."""
    s = 1.0 / (t * t)
    return (1 / 12 + s * (-1 / 360 + s * (1 / 1260 + s * (-1 / 1680 + s * (1 / 1188 - s * 691 / 360360))))) / t


def _digamma_tail(t: Array) -> Array:
    """digamma(t) - log t for large t."""
    s = 1.0 / (t * t)
    return -0.5 / t - s * (1 / 12 + s * (-1 / 120 + s * (1 / 252 + s * (-1 / 240 + s * (1 / 132 - s * 691 / 32760)))))


_LARGE = 25.0  # from here on the series above are exact to float64


def lgamma_rise(x: ArrayLike, theta: ArrayLike) -> Array:
    """log Gamma(x + theta) - log Gamma(theta), without subtracting two large numbers."""
    x, theta = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(theta, np.float64))
    small = gammaln(x + np.minimum(theta, _LARGE)) - gammaln(np.minimum(theta, _LARGE))
    t = np.maximum(theta, _LARGE)
    large = (t - 0.5) * np.log1p(x / t) + x * np.log(t + x) - x + _stirling(t + x) - _stirling(t)
    return np.where(theta < _LARGE, small, large)


def digamma_rise(x: ArrayLike, theta: ArrayLike) -> Array:
    """digamma(x + theta) - digamma(theta), without subtracting two nearly equal numbers."""
    x, theta = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(theta, np.float64))
    small = digamma(x + np.minimum(theta, _LARGE)) - digamma(np.minimum(theta, _LARGE))
    t = np.maximum(theta, _LARGE)
    large = np.log1p(x / t) + _digamma_tail(t + x) - _digamma_tail(t)
    return np.where(theta < _LARGE, small, large)


@dataclass(frozen=True)
class Sized:
    """A number and the sum of the absolute values of the terms it is made of."""

    value: Array
    size: Array

    def sum(self, axis: int | tuple[int, ...], keepdims: bool = False) -> Sized:
        return Sized(self.value.sum(axis=axis, keepdims=keepdims), self.size.sum(axis=axis, keepdims=keepdims))


def _sized(*terms: ArrayLike) -> Sized:
    broadcast = np.broadcast_arrays(*terms)
    return Sized(np.sum(broadcast, axis=0), np.sum(np.abs(broadcast), axis=0))


@dataclass(frozen=True)
class Density:
    """Log-density of counts and its derivatives, entry by entry."""

    log_prob: Sized
    d_log_mu: Sized
    d_log_theta: Sized | None = None
    d_dropout: Sized | None = None


def poisson(x: ArrayLike, log_mu: ArrayLike) -> Density:
    """Poisson with mean mu."""
    x, log_mu = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(log_mu, np.float64))
    power = np.where(x > 0, x * log_mu, 0.0)
    return Density(_sized(power, -np.exp(log_mu), -gammaln(x + 1)), _sized(x, -np.exp(log_mu)))


def negative_binomial(x: ArrayLike, log_mu: ArrayLike, log_theta: ArrayLike) -> Density:
    """Negative binomial with mean mu and variance mu + mu**2 / theta."""
    x, m, r = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (x, log_mu, log_theta)))
    theta = np.exp(r)
    w = expit(m - r)  # mu / (mu + theta)
    log_w = -softplus(r - m)
    q = -theta * softplus(m - r)
    power = np.where(x > 0, x * log_w, 0.0)
    return Density(
        log_prob=_sized(q, power, lgamma_rise(x, theta), -gammaln(x + 1)),
        d_log_mu=_sized(-theta * w, x * expit(r - m)),
        d_log_theta=_sized(q, theta * w, -x * expit(r - m), theta * digamma_rise(x, theta)),
    )


def zero_inflated_negative_binomial(
    x: ArrayLike, log_mu: ArrayLike, log_theta: ArrayLike, dropout: ArrayLike
) -> Density:
    """The same, or zero with probability sigmoid(dropout)."""
    x, m, r, pi = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (x, log_mu, log_theta, dropout)))
    theta = np.exp(r)
    w = expit(m - r)
    q = -theta * softplus(m - r)
    s = expit(q - pi)
    zero = Density(
        log_prob=_sized(softplus(q - pi), -softplus(-pi)),
        d_log_mu=_sized(-s * theta * w),
        d_log_theta=_sized(s * q, s * theta * w),
        d_dropout=_sized(expit(-pi), -s),
    )
    nb = negative_binomial(x, m, r)
    positive = Density(
        log_prob=Sized(nb.log_prob.value - pi - softplus(-pi), nb.log_prob.size + np.abs(pi) + softplus(-pi)),
        d_log_mu=nb.d_log_mu,
        d_log_theta=nb.d_log_theta,
        d_dropout=_sized(expit(-pi), np.full_like(pi, -1.0)),
    )

    def choose(name: str) -> Sized:
        a, b = getattr(zero, name), getattr(positive, name)
        return Sized(np.where(x > 0, b.value, a.value), np.where(x > 0, b.size, a.size))

    return Density(*(choose(name) for name in ("log_prob", "d_log_mu", "d_log_theta", "d_dropout")))


@dataclass(frozen=True)
class RowLoss:
    """Negative log-likelihood of rows of counts and its gradients, as the kernels return them.

    n rows, g genes, leading axes are draws: `nll` (..., n), `logits` (..., n, g), `log_library` (..., n, 1),
    `log_theta` in the shape in which it was given, `dropout` (..., n, g).
    """

    nll: Sized
    logits: Sized
    log_library: Sized
    log_theta: Sized | None
    dropout: Sized | None


def _negative(a: Sized, weight: Array) -> Sized:
    return Sized(-a.value * weight, a.size * np.abs(weight))


def row_loss(
    x: ArrayLike,
    logits: ArrayLike,
    log_library: ArrayLike,
    log_theta: ArrayLike | None = None,
    dropout: ArrayLike | None = None,
    weight: ArrayLike = 1.0,
) -> RowLoss:
    """Poisson, NB (with `log_theta`) or ZINB (with `dropout`) of rows; gradients of ``sum(weight * nll)``."""
    logits = np.asarray(logits, np.float64)
    log_rho = log_softmax(logits)
    log_mu = np.asarray(log_library, np.float64) + log_rho
    if log_theta is None:
        density = poisson(x, log_mu)
    elif dropout is None:
        density = negative_binomial(x, log_mu, log_theta)
    else:
        density = zero_inflated_negative_binomial(x, log_mu, log_theta, dropout)

    row_weight = np.broadcast_to(np.asarray(weight, np.float64), logits.shape[:-1])[..., None]
    d_log_mu = _negative(density.d_log_mu, row_weight)
    d_library = d_log_mu.sum(axis=-1, keepdims=True)
    rho = np.exp(log_rho)
    d_logits = Sized(d_log_mu.value - rho * d_library.value, d_log_mu.size + rho * d_library.size)
    d_theta = d_dropout = None
    if density.d_log_theta is not None:
        d_theta = _negative(density.d_log_theta, row_weight)
        if np.ndim(log_theta) == 1:
            d_theta = d_theta.sum(axis=tuple(range(logits.ndim - 1)))
    if density.d_dropout is not None:
        d_dropout = _negative(density.d_dropout, row_weight)
    nll = density.log_prob.sum(axis=-1)
    return RowLoss(Sized(-nll.value, nll.size), d_logits, d_library, d_theta, d_dropout)


def log_nb(x: ArrayLike, mu: ArrayLike, theta: ArrayLike, eps: float = 1e-8) -> Array:
    """The density of the 2020 function, which adds `eps` inside the logarithms."""
    x, mu, theta = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (x, mu, theta)))
    log_sum = np.log(theta + mu + eps)
    return (
        theta * (np.log(theta + eps) - log_sum)
        + x * (np.log(mu + eps) - log_sum)
        + lgamma_rise(x, theta)
        - gammaln(x + 1)
    )


def log_zinb(x: ArrayLike, mu: ArrayLike, theta: ArrayLike, dropout: ArrayLike, eps: float = 1e-8) -> Array:
    """The same with a share sigmoid(dropout) of additional zeros."""
    x, mu, theta, pi = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (x, mu, theta, dropout)))
    log_drop, log_keep = -softplus(-pi), -softplus(pi)
    observed = log_keep + log_nb(x, mu, theta, eps)
    return np.where(x > 0, observed, np.logaddexp(log_drop, observed))


def log_nb_mixture(
    x: ArrayLike, mu_1: ArrayLike, mu_2: ArrayLike, theta_1: ArrayLike, theta_2: ArrayLike, first: ArrayLike
) -> Array:
    """Two negative binomials, the first with probability sigmoid(first)."""
    first = np.asarray(first, np.float64)
    return np.logaddexp(
        -softplus(-first) + log_nb(x, mu_1, theta_1, eps=1e-8), -softplus(first) + log_nb(x, mu_2, theta_2, eps=1e-8)
    )


def mixture_loss(
    y: ArrayLike, log_back: ArrayLike, factor: ArrayLike, mixing: ArrayLike, log_theta: ArrayLike, weight: ArrayLike
) -> tuple[Sized, ...]:
    """Negative log-likelihood of rows of counts, background with probability sigmoid(mixing) or foreground.

    Returns
    -------
    The loss, and the gradients of ``sum(weight * loss)`` in the log mean of the background, in the log factor of the
    foreground, in `mixing` and in the log inverse dispersion.
    """
    back, factor, pi = (np.asarray(a, np.float64) for a in (log_back, factor, mixing))
    one, two = negative_binomial(y, back, log_theta), negative_binomial(y, back + factor, log_theta)
    s = expit(one.log_prob.value - two.log_prob.value + pi)  # of being background, given the count
    t = expit(two.log_prob.value - one.log_prob.value - pi)
    value = np.logaddexp(one.log_prob.value - softplus(-pi), two.log_prob.value - softplus(pi))
    size = np.maximum(one.log_prob.size, two.log_prob.size) + np.abs(pi) + softplus(-pi)
    w = np.broadcast_to(np.asarray(weight, np.float64), pi.shape[:-1])[..., None]
    # The rounding of the difference of the log-likelihoods moves the responsibilities.
    moved = s * t * (one.log_prob.size + two.log_prob.size + np.abs(pi))

    def mixed(a: Sized, b: Sized) -> Sized:
        return Sized(s * a.value + t * b.value, s * a.size + t * b.size + moved * (a.size + b.size))

    def gradient(a: Sized) -> Sized:
        return Sized(-w * a.value, np.abs(w) * a.size)

    d_two = Sized(t * two.d_log_mu.value, (t + moved) * two.d_log_mu.size)
    d_theta = gradient(mixed(one.d_log_theta, two.d_log_theta))  # type: ignore[arg-type]
    if np.ndim(log_theta) == 1:
        d_theta = d_theta.sum(axis=tuple(range(pi.ndim - 1)))
    return (
        Sized(-value.sum(-1), size.sum(-1)),
        gradient(mixed(one.d_log_mu, two.d_log_mu)),
        gradient(d_two),
        gradient(Sized(s - expit(pi), 1.0 + moved)),
        d_theta,
    )


def exact_nb(x: int, log_mu: float, log_theta: float) -> dict[str, mpmath.mpf]:
    """One entry of :func:`negative_binomial` with 60 digits."""
    with mpmath.workdps(60):
        mu, theta = mpmath.exp(mpmath.mpf(log_mu)), mpmath.exp(mpmath.mpf(log_theta))
        w = mu / (mu + theta)
        q = theta * mpmath.log(theta / (theta + mu))
        log_prob = q + x * mpmath.log(w) + mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        d_mu = -theta * w + x * (1 - w)
        d_theta = q / theta + w - x / (mu + theta) + mpmath.digamma(x + theta) - mpmath.digamma(theta)
        return {"log_prob": log_prob, "d_log_mu": d_mu, "d_log_theta": theta * d_theta}


def exact_zinb(x: int, log_mu: float, log_theta: float, dropout: float) -> dict[str, mpmath.mpf]:
    """One entry of :func:`zero_inflated_negative_binomial` with 60 digits."""
    nb = exact_nb(x, log_mu, log_theta)
    with mpmath.workdps(60):
        dropped = 1 / (1 + mpmath.exp(-mpmath.mpf(dropout)))
        kept = 1 - dropped
        if x > 0:
            return nb | {"log_prob": nb["log_prob"] + mpmath.log(kept), "d_dropout": -dropped}
        zero = mpmath.exp(nb["log_prob"])
        total = dropped + kept * zero
        share = kept * zero / total
        return {
            "log_prob": mpmath.log(total),
            "d_log_mu": share * nb["d_log_mu"],
            "d_log_theta": share * nb["d_log_theta"],
            "d_dropout": kept - share,
        }


def kl_normal(mean_q: ArrayLike, var_q: ArrayLike, mean_p: ArrayLike, var_p: ArrayLike) -> Array:
    """KL divergence of N(mean_q, var_q) from N(mean_p, var_p), entry by entry."""
    mean_q, var_q, mean_p, var_p = (np.asarray(a, np.float64) for a in (mean_q, var_q, mean_p, var_p))
    return 0.5 * (np.log(var_p / var_q) + (var_q + (mean_q - mean_p) ** 2) / var_p - 1.0)


def log_normal_pdf(x: ArrayLike, mean: ArrayLike, var: ArrayLike) -> Array:
    """Log density of N(mean, var)."""
    x, mean, var = (np.asarray(a, np.float64) for a in (x, mean, var))
    return -0.5 * (np.log(2 * np.pi * var) + (x - mean) ** 2 / var)


def integrate_over_normal(log_f: Array, points: Array, mean: float, var: float) -> float:
    """log of the integral of exp(log_f(z)) N(z; mean, var) over equally spaced `points`, by the trapezoid rule."""
    step = points[1] - points[0]
    ends = np.ones_like(points)
    ends[[0, -1]] = 0.5
    return float(logsumexp(log_f + log_normal_pdf(points, mean, var), b=ends * step))
