"""What a decoder says of the cells, modality by modality: each part knows its density, expectation and parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from scvi import kernels
from scvi.kernels import Affine
from scvi.kernels.affine import as_tensor
from scvi.minibatch import Minibatch
from scvi.models.gaussian import draw
from scvi.models.likelihood import Likelihood


class Modality(ABC):
    """What a decoder says of one kind of measurement in n cells; leading draw axes are allowed.

    Beside what is asked of all, each has ``expected``, with arguments of its own.
    """

    @abstractmethod
    def nll(self, mb: Minibatch, weight: float | Tensor = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """(..., n) negative log-likelihood of what was measured in the cells, at a draw of what else is latent.

        `weight` is the gradient with respect to it that is to come, see :func:`scvi.kernels.nll_zinb`.
        """

    @abstractmethod
    def parameters(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Parameters of the density of every measured value, (..., n, .) by name, at a draw of what else is latent."""


class Decoded(dict[str, Modality]):
    """What a decoder says of n cells, by modality: ``Decoded(genes=...)``, ``Decoded(genes=..., proteins=...)``."""

    def nll(
        self, mb: Minibatch, weight: float | Tensor = 1.0, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """:meth:`Modality.nll` of each."""
        return {name: part.nll(mb, weight, generator) for name, part in self.items()}

    def parameters(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """:meth:`Modality.parameters` of all."""
        return {name: value for part in self.values() for name, value in part.parameters(generator).items()}

    @property
    def genes(self) -> GeneCounts:
        return self["genes"]  # type: ignore[return-value]

    @property
    def proteins(self) -> ProteinCounts:
        return self["proteins"]  # type: ignore[return-value]


@dataclass(frozen=True)
class GeneCounts(Modality):
    """Counts of genes.

    Attributes
    ----------
    likelihood
        Their density.
    logits
        (..., n, g), perhaps not computed yet; the expected frequencies are their softmax.
    log_size
        (..., n, 1) log library size.
    log_theta
        (g,) or (..., n, g) log inverse dispersion.
    dropout
        (..., n, g) logits of the dropout probability; None where the likelihood has none.
    """

    likelihood: Likelihood
    logits: Tensor | Affine
    log_size: Tensor
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
        return self.log_size.exp() * self.scale

    @property
    def theta(self) -> Tensor:
        """Inverse dispersion."""
        return self.log_theta.exp()

    def nll(self, mb: Minibatch, weight: float | Tensor = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """(..., n) negative log-likelihood, summed over genes."""
        return self.likelihood.nll(mb.counts, self, weight)

    def expected(self, library_size: float | str = 1) -> Tensor:
        """(..., n, g) frequencies times a library size; 'latent' is each cell's own."""
        return self.rate if library_size == "latent" else self.scale * float(library_size)

    def parameters(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """'mean' before dropout, 'dispersions' (inverse) and 'dropout' (logits), if the density has them."""
        rate = self.rate
        found: dict[str, Tensor | None] = {
            "mean": rate,
            "dispersions": self.theta.expand_as(rate) if self.likelihood.has_dispersion else None,
            "dropout": self.dropout_logits,
        }
        return {name: value for name, value in found.items() if value is not None}


def of_any_sum(raw: Tensor | Affine, log_size: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and log library sizes of counts that are expected to be softplus(raw) times a size.

    The frequencies are these numbers over their sum, and the library size is their sum times the size.
    """
    values = as_tensor(raw)
    low = -15.0  # below, softplus is exp, which underflows before its logarithm is taken
    logits = torch.where(values < low, values, softplus(values.clamp(min=low)).log())
    return logits, log_size + logits.logsumexp(-1, keepdim=True)


@dataclass(frozen=True)
class ProteinValue:
    """Which expected count of a protein is meant.

    Attributes
    ----------
    include_background
        Add the background, weighed by its probability.
    sample_mixing
        Draw whether a count is background instead of weighing by the probability.
    scale
        Divide by the sum over all proteins.
    hide_missing
        NaN for what the batch that a cell is decoded in did not measure: nothing was learnt about it there.
    mean_background
        Take the mean of the background's posterior, not a draw from it.
    """

    include_background: bool = False
    sample_mixing: bool = False
    scale: bool = False
    hide_missing: bool = False
    mean_background: bool = False


@dataclass(frozen=True)
class ProteinCounts(Modality):
    """Counts of proteins, each background or foreground.

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
    def theta(self) -> Tensor:
        """Inverse dispersion."""
        return self.log_theta.exp()

    @property
    def foreground_probability(self) -> Tensor:
        """(..., n, p) that a count is no background."""
        return torch.sigmoid(-self.mixing)

    @property
    def log_mean_background(self) -> Tensor:
        """(..., n, p) log of the mean of the background's mean count."""
        return self.log_background.loc + self.log_background.variance / 2

    def draw_background(self, generator: torch.Generator | None = None) -> Tensor:
        """(..., n, p) a draw of the log mean count of the background."""
        return draw(self.log_background, generator=generator)

    def nll(self, mb: Minibatch, weight: float | Tensor = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """(..., n) negative log-likelihood at a draw of the background, summed over the measured proteins."""
        return self.nll_given(self.draw_background(generator), mb, weight)

    def nll_given(self, log_background: Tensor, mb: Minibatch, weight: float | Tensor = 1.0) -> Tensor:
        """The same at a log mean count of the background, (..., n, p)."""
        return kernels.nll_nb_mixture(
            protein_counts(mb),
            log_background,
            self.log_factor,
            self.mixing,
            self.log_theta,
            self.measured,
            weight,  # type: ignore[arg-type]
        )

    def expected(self, value: ProteinValue, generator: torch.Generator | None = None) -> Tensor:
        """(..., n, p) counts at a draw of the background, or at its mean."""
        log_background = self.log_mean_background if value.mean_background else self.draw_background(generator)
        fore = self.foreground_probability
        if value.sample_mixing:
            fore = torch.bernoulli(fore, generator=generator)
        counts = fore * (log_background + self.log_factor).exp()
        if value.include_background:
            counts = counts + (1 - fore) * log_background.exp()
        if value.hide_missing:
            counts = self.hide_missing(counts)
        return counts / counts.nansum(-1, keepdim=True).clamp(min=1e-12) if value.scale else counts

    def parameters(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """At a draw of the background: its rate and the foreground's, logits of the mixture, inverse dispersions."""
        log_background = self.draw_background(generator)
        return {
            "protein_background": log_background.exp(),
            "protein_foreground": (log_background + self.log_factor).exp(),
            "protein_mixing": self.mixing,
            "protein_dispersions": self.theta.expand_as(log_background),
        }

    def over_measured(self, values: Tensor) -> Tensor:
        """(..., n) sums over the proteins that were measured."""
        return (values if self.measured is None else values * self.measured).sum(-1)

    def hide_missing(self, values: Tensor) -> Tensor:
        """The same, NaN for proteins that were not measured."""
        return values if self.measured is None else torch.where(self.measured, values, torch.nan)


def protein_counts(mb: Minibatch) -> Tensor:
    """(n, p) of cells that are to have them."""
    if mb.proteins is None:
        raise ValueError("this minibatch has no proteins, which totalVI needs beside the genes")
    return mb.proteins
