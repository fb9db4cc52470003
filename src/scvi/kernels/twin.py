"""The densities of :mod:`scvi.kernels.likelihood` in torch operations: any device, any dtype, any draw axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softplus

_MAX_MEAN = 1e15
_MIN_LOG_THETA, _MAX_LOG_THETA = -18.0, 18.0


def _stirling(z: Tensor) -> Tensor:
    """log Gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), for z >= 8."""
    i = 1 / z
    s = i * i
    return i * (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s / 1680)))


def _rising(z: Tensor) -> Tensor:
    """log of z (z + 1) ... (z + 7)."""
    first = z * (z + 1) * (z + 2) * (z + 3)
    last = (z + 4) * (z + 5) * (z + 6) * (z + 7)
    return torch.log(first) + torch.log(last)


def log_gamma_ratio(theta: Tensor, x: Tensor) -> Tensor:
    """log Gamma(theta + x) - log Gamma(theta) for x >= 0, without subtracting two large numbers."""
    low = theta + 8
    high = low + x
    shift = _rising(theta) - _rising(theta + x)
    return shift + (low - 0.5) * torch.log1p(x / low) + x * torch.log(high) - x + _stirling(high) - _stirling(low)


def _log_mean(logits: Tensor, log_library: Tensor) -> Tensor:
    return log_library + log_softmax(logits, dim=-1)


def _nb(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> tuple[Tensor, Tensor]:
    """(log-likelihood of a zero, log-likelihood). Softplus keeps the digits of the gradients where mu >> theta."""
    log_theta = log_theta.clamp(_MIN_LOG_THETA, _MAX_LOG_THETA)
    theta = log_theta.exp()
    q = -theta * softplus(log_mu - log_theta)  # theta log(theta / (theta + mu))
    choose = log_gamma_ratio(theta, x) - log_gamma_ratio(torch.ones_like(x), x)
    seen = choose - x * softplus(log_theta - log_mu)  # x log(mu / (theta + mu))
    return q, q + torch.where(x > 0, seen, 0.0)


def log_nb(x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor) -> Tensor:
    """Elementwise log NB(x; exp(log_library) softmax(logits), exp(log_theta))."""
    return _nb(x, _log_mean(logits, log_library), log_theta)[1]


def log_zinb(x: Tensor, logits: Tensor, log_library: Tensor, log_theta: Tensor, dropout: Tensor) -> Tensor:
    """As :func:`log_nb`, with zeros inflated with probability sigmoid(dropout)."""
    q, nb = _nb(x, _log_mean(logits, log_library), log_theta)
    zero = softplus(q - dropout) - softplus(-dropout)
    return torch.where(x > 0, nb - softplus(dropout), zero)


def log_nb_mixture(y: Tensor, log_background: Tensor, log_factor: Tensor, mixing: Tensor, log_theta: Tensor) -> Tensor:
    """Elementwise log of a mixture of two NB with log means b and b + f, the first with probability sigmoid(mixing)."""
    first, second = (_nb(y, log_mu, log_theta)[1] for log_mu in (log_background, log_background + log_factor))
    return torch.logaddexp(first, second - mixing) - softplus(-mixing)


def log_poisson(x: Tensor, logits: Tensor, log_library: Tensor) -> Tensor:
    """Elementwise log Poisson(x; exp(log_library) softmax(logits))."""
    log_mu = _log_mean(logits, log_library)
    mu = log_mu.exp().clamp(max=_MAX_MEAN)
    power = torch.where(x > 0, x * log_mu, 0.0)
    is_trivial = (x == 0) | (x == 1)
    return power - mu - torch.where(is_trivial, 0.0, log_gamma_ratio(torch.ones_like(x), x))


def mixed_dropout(dropout: Tensor, delta: Tensor, floor: float) -> Tensor:
    """Logits of (1 - delta) p where p = floor + (1 - floor) sigmoid(dropout) has the odds (floor + u) / (1 - floor)."""
    least = torch.finfo(dropout.dtype).eps / 2
    log_weight = (1 - delta).clamp(min=least).log()
    log_p, log_not_p = logsigmoid(dropout), logsigmoid(-dropout) + math.log1p(-floor)
    if floor > 0:
        log_p = torch.logaddexp(log_p + math.log1p(-floor), torch.full_like(log_p, math.log(floor)))
    # 1 - (1 - delta) p is (1 - p) + delta p; a delta of 0 adds nothing
    return log_weight + log_p - torch.logaddexp(log_not_p, delta.clamp(min=least**4).log() + log_p)
