"""The two string options of a count model as objects: its likelihood and its dispersion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Poisson

from scvi import kernels
from scvi._checks import check_choice
from scvi.kernels import Counts
from scvi.models.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from scvi.models.one_hot import columns_of, table_shape

if TYPE_CHECKING:
    from scvi.models.decoded import GeneCounts


class Likelihood(ABC):
    """The density of counts, in two forms, and which parameters it has beside the expected count.

    Attributes
    ----------
    has_dispersion
        Counts are Poisson around a gamma of this mean and inverse dispersion; else around the mean.
    has_dropout
        Some of them are 0 all the same. By these two :mod:`scvi.queries.predictive` draws counts again.
    """

    has_dispersion = True
    has_dropout = False

    @abstractmethod
    def nll(self, x: Counts, genes: GeneCounts, weight: float | Tensor = 1.0) -> Tensor:
        """(..., n) negative log-likelihood summed over genes, as training has it; see :func:`scvi.kernels.nll_zinb`."""

    @abstractmethod
    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        """The textbook density of one count, from its expectation before dropout."""

    def textbook_nll(self, x: Tensor, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Tensor:
        """(..., n) negative log-likelihood summed over genes, by the textbook density.

        Evaluated in float64: for a large inverse dispersion its log-gamma functions cancel to nothing in float32.
        """
        density = self.distribution(rate.double(), theta.double(), None if dropout is None else dropout.double())
        return -density.log_prob(x.double()).sum(-1).to(rate.dtype)


class ZINB(Likelihood):
    """Zero-inflated negative binomial."""

    has_dropout = True

    def nll(self, x: Counts, genes: GeneCounts, weight: float | Tensor = 1.0) -> Tensor:
        return kernels.nll_zinb(x, genes.logits, genes.log_size, genes.log_theta, genes.dropout, weight)  # type: ignore[arg-type]

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        return ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=dropout, validate_args=False)


class NB(Likelihood):
    """Negative binomial."""

    def nll(self, x: Counts, genes: GeneCounts, weight: float | Tensor = 1.0) -> Tensor:
        return kernels.nll_nb(x, genes.logits, genes.log_size, genes.log_theta, weight)

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        return NegativeBinomial(mu=rate, theta=theta, validate_args=False)


class PoissonCounts(Likelihood):
    """Poisson."""

    has_dispersion = False

    def nll(self, x: Counts, genes: GeneCounts, weight: float | Tensor = 1.0) -> Tensor:
        return kernels.nll_poisson(x, genes.logits, genes.log_size, weight)

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        # a frequency may underflow to 0, under which a count that was seen would be impossible
        return Poisson(rate.clamp(min=torch.finfo(rate.dtype).tiny), validate_args=False)


LikelihoodName: TypeAlias = Literal["zinb", "nb", "poisson"]
LIKELIHOODS: dict[str, Likelihood] = {"zinb": ZINB(), "nb": NB(), "poisson": PoissonCounts()}
"""All likelihoods of counts, by the name that a user gives."""


def make_likelihood(name: str, option: str = "reconstruction_loss", needs_dispersion: bool = False) -> Likelihood:
    """The likelihood called `name`, which was given as `option`; ValueError for one that is unknown or will not do."""
    overdispersed = sorted(known for known, one in LIKELIHOODS.items() if one.has_dispersion)
    check_choice(option, name, overdispersed if needs_dispersion else list(LIKELIHOODS))
    return LIKELIHOODS[name]


@dataclass(frozen=True)
class Dispersion:
    """Where the log inverse dispersion of a count is from.

    Attributes
    ----------
    by
        'batch' or 'label': a table by gene and category; 'cell': the decoder gives one for every entry; '': a table by
        gene.
    shape
        Of the table, (g,) or (g, k).
    """

    by: str
    shape: tuple[int, ...]

    @property
    def per_cell(self) -> bool:
        """Whether the decoder gives it, and the model has no table."""
        return self.by == "cell"

    def table(self) -> nn.Parameter | None:
        """The model's table at random numbers; None where the decoder gives them."""
        return None if self.per_cell else nn.Parameter(torch.randn(self.shape))

    def log_theta(self, px_r: Tensor, decoded_r: Tensor | None, batch: Tensor | None, labels: Tensor | None) -> Tensor:
        """(g,) or (..., n, g), from the table of the model or what the decoder gives."""
        if self.by == "batch":
            return columns_of(px_r, batch, "batch_index")
        if self.by == "label":
            return columns_of(px_r, labels, "y")
        return px_r if decoded_r is None else decoded_r


def make_dispersion(
    name: str,
    n_genes: int,
    n_batch: int,
    n_labels: int,
    option: str = "dispersion",
    kind: str = "gene",
    per_cell: bool = True,
) -> Dispersion:
    """The dispersion called `name`, which was given as `option`; ValueError for one that is unknown or of nothing.

    Parameters
    ----------
    kind
        The first word of the names: 'gene' or 'protein'.
    per_cell
        Whether the decoder may give it.
    """
    check_choice(option, name, [kind, f"{kind}-batch", f"{kind}-label", *([f"{kind}-cell"] if per_cell else [])])
    shape = table_shape(option, name, n_genes, n_batch, n_labels)
    return Dispersion(name.removeprefix(kind).removeprefix("-"), shape)
