"""The textbook densities of counts, given by mean and inverse dispersion: as functions, and as distributions."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, Poisson, constraints
from torch.distributions.utils import broadcast_all, lazy_property, logits_to_probs, probs_to_logits
from torch.nn.functional import softplus

__all__ = [
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "log_mixture_nb",
    "log_nb_positive",
    "log_zinb_positive",
]

_MAX_RATE = 1e8


def log_nb_positive(x: Tensor, mu: Tensor, theta: Tensor, eps: float = 1e-8) -> Tensor:
    """Elementwise log NB(x; mean mu, inverse dispersion theta); `eps` keeps the logarithms finite."""
    of_zero, of_rate, choose = _nb_terms(x, mu, theta, eps)
    return of_zero + of_rate + choose


def log_zinb_positive(x: Tensor, mu: Tensor, theta: Tensor, pi: Tensor, eps: float = 1e-8) -> Tensor:
    """Elementwise log ZINB; `pi` are the logits of the dropout probability."""
    of_zero, of_rate, choose = _nb_terms(x, mu, theta, eps)
    kept_zero = -pi + of_zero
    zero = softplus(kept_zero) - softplus(-pi)
    seen = -softplus(-pi) + kept_zero + of_rate + choose
    return torch.where(x < eps, zero, seen)


def _nb_terms(x: Tensor, mu: Tensor, theta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Summands of log NB: that of a count of 0, what x times the rate adds to it, and the binomial coefficient."""
    theta = theta.view(1, -1) if theta.dim() == 1 else theta
    log_total = torch.log(theta + mu + eps)
    choose = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return theta * (torch.log(theta + eps) - log_total), x * (torch.log(mu + eps) - log_total), choose


def log_mixture_nb(
    x: Tensor, mu_1: Tensor, mu_2: Tensor, theta_1: Tensor, theta_2: Tensor | None, pi: Tensor, eps: float = 1e-8
) -> Tensor:
    """Elementwise log of a mixture of two NB; `pi` are the logits of belonging to the first component.

    `theta_2` None: both components share `theta_1`.
    """
    theta_2 = theta_1 if theta_2 is None else theta_2
    second = log_nb_positive(x, mu_2, theta_2, eps) - pi
    return torch.logaddexp(log_nb_positive(x, mu_1, theta_1, eps), second) - softplus(-pi)


def _convert_mean_disp_to_counts_logits(mu: Tensor, theta: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    if (mu is None) != (theta is None):
        raise AssertionError("mu and theta go together: give both or neither")
    return theta, (mu + eps).log() - (theta + eps).log()


def _convert_counts_logits_to_mean_disp(total_count: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return logits.exp() * total_count, total_count


class NegativeBinomial(Distribution):
    """Counts with mean `mu` and variance ``mu + mu**2 / theta``.

    Parameters
    ----------
    total_count, probs, logits
        The textbook parameterisation: failures, and the probability of success or its logit (logits win).
    mu, theta
        Mean and inverse dispersion; exactly one of the two parameterisations is given.
    validate_args
        Check the parameters at construction and the support in :meth:`log_prob`.
    """

    arg_constraints = {"mu": constraints.greater_than_eq(0), "theta": constraints.greater_than_eq(0)}
    support = constraints.nonnegative_integer

    def __init__(
        self,
        total_count: Tensor | None = None,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        validate_args: bool = True,
    ):
        mu, theta = _mean_and_dispersion(total_count, probs, logits, mu, theta)
        self.mu, self.theta = broadcast_all(mu, theta)
        super().__init__(batch_shape=self.mu.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.mu

    @property
    def variance(self) -> Tensor:
        return self.mu + self.mu.square() / self.theta

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Counts of shape ``sample_shape + parameter shape``."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            gamma = Gamma(self.theta.expand(shape), (self.theta / self.mu).expand(shape), validate_args=False)
            return torch.poisson(gamma.sample().clamp(max=_MAX_RATE))

    def log_prob(self, value: Tensor) -> Tensor:
        """Elementwise log density; warns about values that are no counts."""
        if self._validate_args:
            self._warn_outside_support(value)
        return log_nb_positive(value, mu=self.mu, theta=self.theta, eps=1e-8)

    def _warn_outside_support(self, value: Tensor) -> None:
        if not bool(self.support.check(value).all()):
            warnings.warn("The value argument must be within the support of the distribution", stacklevel=3)


def _mean_and_dispersion(
    total_count: Tensor | None, probs: Tensor | None, logits: Tensor | None, mu: Tensor | None, theta: Tensor | None
) -> tuple[Tensor, Tensor]:
    if (mu is None) == (total_count is None):
        raise ValueError("give either mu and theta, or total_count with logits or probs; exactly one of the two pairs")
    if mu is not None:
        if theta is None:
            raise ValueError("mu needs theta, the inverse dispersion; None came")
        return mu, theta
    if logits is None:
        if probs is None:
            raise ValueError("total_count needs logits or probs; neither came")
        logits = probs_to_logits(probs, is_binary=True)
    return _convert_counts_logits_to_mean_disp(total_count, logits)  # type: ignore[arg-type]


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A negative binomial count that is replaced by 0 with probability ``sigmoid(zi_logits)``."""

    arg_constraints = {
        **NegativeBinomial.arg_constraints,
        "zi_logits": constraints.real,
        "zi_probs": constraints.half_open_interval(0.0, 1.0),
    }

    def __init__(
        self,
        total_count: Tensor | None = None,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        zi_logits: Tensor | None = None,
        validate_args: bool = True,
    ):
        if zi_logits is None:
            raise ValueError("zi_logits, the logits of the dropout probability, are needed; None came")
        mu, theta = _mean_and_dispersion(total_count, probs, logits, mu, theta)
        self._zi_logits, mu, theta = broadcast_all(zi_logits, mu, theta)
        super().__init__(mu=mu, theta=theta, validate_args=validate_args)

    @property
    def zi_logits(self) -> Tensor:
        """Logits of the dropout probability."""
        return self._zi_logits

    @lazy_property
    def zi_probs(self) -> Tensor:
        """Dropout probability."""
        return logits_to_probs(self._zi_logits, is_binary=True)

    @property
    def mean(self) -> Tensor:
        return (1 - self.zi_probs) * self.mu

    @property
    def variance(self) -> Tensor:
        keep = 1 - self.zi_probs
        return keep * (self.mu + self.mu.square() / self.theta) + keep * self.zi_probs * self.mu.square()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Counts of shape ``sample_shape + parameter shape``."""
        counts = super().sample(sample_shape)
        with torch.no_grad():
            dropped = torch.rand_like(self.zi_probs.expand(counts.shape)) <= self.zi_probs
            return counts.masked_fill(dropped, 0.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Elementwise log density; warns about values that are no counts."""
        self._warn_outside_support(value)
        return log_zinb_positive(value, self.mu, self.theta, self._zi_logits, eps=1e-8)
