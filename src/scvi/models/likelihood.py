"""The two string options of a count model as objects: its likelihood and its dispersion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Poisson

from scvi import kernels
from scvi.kernels.affine import Affine, as_tensor
from scvi.models.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from scvi.models.utils import check_choice

__all__ = [
    "DISPERSIONS",
    "LIKELIHOODS",
    "Decoded",
    "DecodedProteins",
    "Dispersion",
    "Likelihood",
    "make_dispersion",
    "make_likelihood",
]


@dataclass(frozen=True)
class Decoded:
    """What a decoder says of n cells (leading draw axes allowed).

    Attributes
    ----------
    logits
        (..., n, g), perhaps not computed yet; the expected frequencies are their softmax.
    log_library
        (..., n, 1) log library size.
    log_theta
        (g,) or (..., n, g) log inverse dispersion.
    dropout
        (..., n, g) logits of the dropout probability; None where the likelihood has none.
    """

    logits: Tensor | Affine
    log_library: Tensor
    log_theta: Tensor
    dropout: Tensor | Affine | None

    @property
    def scale(self) -> Tensor:
        """Expected frequencies; sum to one over genes."""
        return torch.softmax(as_tensor(self.logits), dim=-1)

    @property
    def dropout_logits(self) -> Tensor | None:
        """(..., n, g) what `dropout` stands for."""
        return None if self.dropout is None else as_tensor(self.dropout)

    @property
    def rate(self) -> Tensor:
        """Expected counts before dropout."""
        return self.log_library.exp() * self.scale

    @property
    def theta(self) -> Tensor:
        """Inverse dispersion."""
        return self.log_theta.exp()


@dataclass(frozen=True)
class DecodedProteins:
    """What a decoder says of the proteins of n cells (leading draw axes allowed), each count background or foreground.

    Attributes
    ----------
    log_background
        Posterior of the log mean count of the background, (..., n, p).
    log_factor
        (..., n, p) log of how many times more the foreground has.
    mixing
        (..., n, p) logits of the probability that a count is background.
    log_theta
        (p,) or (..., n, p) log inverse dispersion.
    measured
        (n, p) whether the batch that the cells are decoded in measured a protein; None: all.
    """

    log_background: Normal
    log_factor: Tensor
    mixing: Tensor
    log_theta: Tensor
    measured: Tensor | None = None

    @property
    def foreground_probability(self) -> Tensor:
        """(..., n, p)."""
        return torch.sigmoid(-self.mixing)

    @property
    def theta(self) -> Tensor:
        """Inverse dispersion."""
        return self.log_theta.exp()

    def nll(self, y: Tensor, log_background: Tensor, weight: float = 1.0) -> Tensor:
        """(..., n) negative log-likelihood at a draw of the log background, summed over the measured proteins."""
        given = (log_background, self.log_factor, self.mixing, self.log_theta)
        return kernels.nll_nb_mixture(y, *given, self.measured, weight)


class Likelihood(ABC):
    """p(x | decoded)."""

    has_dropout = False

    @abstractmethod
    def nll(self, x: kernels.Counts, decoded: Decoded, weight: float | Tensor = 1.0) -> Tensor:
        """(..., n) negative log-likelihood summed over genes; `weight` as in :func:`scvi.kernels.nll_zinb`."""

    @abstractmethod
    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        """The same density as a distribution object, from expected counts."""


class ZINB(Likelihood):
    """Zero-inflated negative binomial."""

    has_dropout = True

    def nll(self, x: kernels.Counts, decoded: Decoded, weight: float | Tensor = 1.0) -> Tensor:
        logits, dropout = decoded.logits, decoded.dropout
        return kernels.nll_zinb(x, logits, decoded.log_library, decoded.log_theta, dropout, weight)  # type: ignore[arg-type]

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        return ZeroInflatedNegativeBinomial(mu=rate, theta=theta, zi_logits=dropout, validate_args=False)


class NB(Likelihood):
    """Negative binomial."""

    def nll(self, x: kernels.Counts, decoded: Decoded, weight: float | Tensor = 1.0) -> Tensor:
        return kernels.nll_nb(x, decoded.logits, decoded.log_library, decoded.log_theta, weight)

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        return NegativeBinomial(mu=rate, theta=theta, validate_args=False)


class PoissonCounts(Likelihood):
    """Poisson."""

    def nll(self, x: kernels.Counts, decoded: Decoded, weight: float | Tensor = 1.0) -> Tensor:
        return kernels.nll_poisson(x, decoded.logits, decoded.log_library, weight)

    def distribution(self, rate: Tensor, theta: Tensor, dropout: Tensor | None) -> Distribution:
        # a frequency may underflow to 0, under which a count that was seen would be impossible
        return Poisson(rate.clamp(min=torch.finfo(rate.dtype).tiny), validate_args=False)


LIKELIHOODS: dict[str, Likelihood] = {"zinb": ZINB(), "nb": NB(), "poisson": PoissonCounts()}


def make_likelihood(name: str) -> Likelihood:
    """The likelihood called `name`; ValueError for an unknown one."""
    check_choice("reconstruction_loss", name, list(LIKELIHOODS))
    return LIKELIHOODS[name]


class Dispersion:
    """'gene': one log inverse dispersion a gene, (g,)."""

    per_cell = False

    def shape(self, n_genes: int, n_batch: int, n_labels: int) -> tuple[int, ...] | None:
        """Shape of the parameter `px_r`; None where the decoder gives the dispersion."""
        return (n_genes,)

    def log_theta(self, px_r: Tensor, decoded_r: Tensor | None, batch: Tensor | None, labels: Tensor | None) -> Tensor:
        """(g,) or (..., n, g)."""
        return px_r


class BatchDispersion(Dispersion):
    """'gene-batch': one a gene and batch, `px_r` (g, k)."""

    def shape(self, n_genes: int, n_batch: int, n_labels: int) -> tuple[int, ...]:
        if n_batch < 1:
            raise ValueError(f"dispersion='gene-batch' needs n_batch >= 1, got n_batch={n_batch}")
        return n_genes, n_batch

    def log_theta(self, px_r: Tensor, decoded_r: Tensor | None, batch: Tensor | None, labels: Tensor | None) -> Tensor:
        return _columns(px_r, batch, "batch_index")


class LabelDispersion(Dispersion):
    """'gene-label': one a gene and label, `px_r` (g, c)."""

    def shape(self, n_genes: int, n_batch: int, n_labels: int) -> tuple[int, ...]:
        if n_labels < 1:
            raise ValueError(f"dispersion='gene-label' needs n_labels >= 1, got n_labels={n_labels}")
        return n_genes, n_labels

    def log_theta(self, px_r: Tensor, decoded_r: Tensor | None, batch: Tensor | None, labels: Tensor | None) -> Tensor:
        return _columns(px_r, labels, "y")


class CellDispersion(Dispersion):
    """'gene-cell': the decoder gives one for every entry."""

    per_cell = True

    def shape(self, n_genes: int, n_batch: int, n_labels: int) -> None:
        return None

    def log_theta(self, px_r: Tensor, decoded_r: Tensor | None, batch: Tensor | None, labels: Tensor | None) -> Tensor:
        return decoded_r  # type: ignore[return-value]


def _columns(px_r: Tensor, codes: Tensor | None, name: str) -> Tensor:
    """(g, k) and codes (n, 1), or one-hot rows or weights (..., n, k) -> (..., n, g)."""
    n_cat = px_r.shape[1]
    if codes is None:
        if n_cat > 1:
            raise ValueError(f"the dispersion differs between {n_cat} categories: {name} is needed, None came")
        return px_r[:, 0]
    if codes.shape[-1] == n_cat and n_cat > 1:
        return codes.float() @ px_r.T
    return px_r.T[codes[:, 0].long()]


DISPERSIONS: dict[str, Dispersion] = {
    "gene": Dispersion(),
    "gene-batch": BatchDispersion(),
    "gene-label": LabelDispersion(),
    "gene-cell": CellDispersion(),
}


def make_dispersion(name: str) -> Dispersion:
    """The dispersion called `name`; ValueError for an unknown one."""
    check_choice("dispersion", name, list(DISPERSIONS))
    return DISPERSIONS[name]
