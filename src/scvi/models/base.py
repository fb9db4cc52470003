"""What every model has in common: a loss made of named terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi.minibatch import Minibatch
from scvi.models.gaussian import draw
from scvi.models.utils import check_draws

__all__ = ["Elbo", "Model"]

_DRAWS_AT_ONCE = 256


@dataclass(frozen=True)
class Elbo:
    """The terms of a negative evidence lower bound; each tensor is (n,), in nats per cell.

    Attributes
    ----------
    reconstruction
        Negative expected log-likelihoods, by modality.
    kl
        Kullback-Leibler divergences of the cells' latent variables, by variable.
    annealed
        The keys of `kl` that are multiplied by the warm-up weight in training.
    global_kl
        Divergence of variables that all cells share, in nats for the whole data set.
    """

    reconstruction: dict[str, Tensor]
    kl: dict[str, Tensor]
    annealed: tuple[str, ...] = ("z",)
    global_kl: Tensor | float = 0.0

    def fixed(self) -> Tensor:
        """(n,) the terms that are never annealed."""
        others = [value for name, value in self.kl.items() if name not in self.annealed]
        return _total([*self.reconstruction.values(), *others])

    def warmed(self) -> Tensor:
        """(n,) the terms that are annealed."""
        return _total([self.kl[name] for name in self.annealed])

    def per_cell(self) -> Tensor:
        """(n,) negative ELBO with full weights, without the global term."""
        return self.fixed() + self.warmed()

    def objective(self, kl_weight: float = 1.0) -> Tensor:
        """The mean over cells that training minimises, without the global term."""
        return (self.fixed() + kl_weight * self.warmed()).mean()


def _total(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class Model(nn.Module, ABC):
    """A probabilistic model of counts: networks and densities, no data access."""

    latent_distribution = "normal"
    n_batch = 0

    @abstractmethod
    def variational(self, mb: Minibatch) -> Any:
        """The approximate posterior of the cells' latent variables."""

    @abstractmethod
    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO of a minibatch, one posterior draw for each cell."""

    def transformed(self, z: Tensor) -> Tensor:
        """What the decoder sees of the Gaussian z: itself or, for 'ln', its softmax."""
        return torch.softmax(z, dim=-1) if self.latent_distribution == "ln" else z

    def latent_mean(self, qz: Normal, n_samples: int = 5000, generator: torch.Generator | None = None) -> Tensor:
        """(n, d) E[z]; for 'ln' the mean of softmax(z) over `n_samples` draws."""
        check_draws("n_samples", n_samples)
        if self.latent_distribution == "normal":
            return qz.loc
        total = torch.zeros_like(qz.loc)
        for start in range(0, n_samples, _DRAWS_AT_ONCE):
            draws = draw(qz, min(_DRAWS_AT_ONCE, n_samples - start), generator)
            total += self.transformed(draws).sum(0)
        return total / n_samples

    def check_fits(self, n_genes: int, n_batches: int, n_labels: int) -> None:
        """Refuses data of other sizes than the model was made for; a model with nothing to compare accepts all."""

    def shared_posterior(self) -> list[nn.Parameter]:
        """Parameters of the posterior, and of a learned prior, of variables that all cells share.

        Their place is decided by evidence and prior; a penalty on weights is not for them.
        """
        return []

    @abstractmethod
    def importance_log_weights(
        self, mb: Minibatch, q: Any, n_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """(s, n) log of joint density over posterior density, at draws from the posterior `q`."""
