"""A model's contract: what the house asks of each, and what all share of latent variables and of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scvi._checks import check_draws
from scvi.minibatch import Minibatch
from scvi.models.architecture import Architecture
from scvi.models.decoded import Decoded
from scvi.models.gaussian import draw, draw_with_kl

_LATENT_DRAWS_AT_ONCE = 256
_MAX_ELEMENTS = 2**21  # of one decoded block of draws, (s, n, g)


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
        return reduce(add, [*self.reconstruction.values(), *others])

    def warmed(self) -> Tensor:
        """(n,) the terms that are annealed."""
        return reduce(add, [self.kl[name] for name in self.annealed])

    def per_cell(self) -> Tensor:
        """(n,) negative ELBO with full weights, without the global term."""
        return self.fixed() + self.warmed()

    def objective(self, kl_weight: float = 1.0, n_cells: int | None = None) -> Tensor:
        """The mean over cells that training minimises, without the global term.

        `n_cells` is the number of all cells where these are but some of them; None: these are all.
        """
        return mean_of(self.fixed().add(self.warmed(), alpha=kl_weight), n_cells)


def mean_of(values: Tensor, n_cells: int | None = None) -> Tensor:
    """The mean over cells, (n,) -> (), or what these add to that over `n_cells` of which they are some."""
    return values.mean() if n_cells is None else values.sum() / n_cells


class Latent(NamedTuple):
    """q(z | x), before any transformation, and q(l | x) of the log library size; `l` is None where that is observed."""

    z: Normal
    l: Normal | None

    def summary(self, mb: Minibatch) -> dict[str, Tensor]:
        """All that questions about latent variables and expression need of these cells, (n, .) by name.

        Means and variances, and `log_library` where that is observed.
        """
        summary = {"qz_mean": self.z.loc, "qz_var": self.z.scale.square()}
        if self.l is None:
            return summary | {"log_library": observed_log_size(mb)}
        return summary | {"ql_mean": self.l.loc, "ql_var": self.l.scale.square()}

    @classmethod
    def of(cls, summary: Mapping[str, Tensor]) -> Latent:
        """The inverse of :meth:`summary`."""

        def normal(name: str) -> Normal:
            return Normal(summary[f"{name}_mean"], summary[f"{name}_var"].sqrt(), validate_args=False)

        return cls(normal("qz"), normal("ql") if "ql_mean" in summary else None)

    def draw_size(self, mb: Minibatch, n_draws: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draws of the log library size, (n, 1) or (s, n, 1); the observed one, (n, 1), where it is observed."""
        return observed_log_size(mb) if self.l is None else draw(self.l, n_draws, generator)

    @property
    def size_moments(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Mean and variance of the log library size, (n, 1) each; None, None where it is observed."""
        return (None, None) if self.l is None else (self.l.loc, self.l.scale.square())

    def mean_size(self, mb: Minibatch) -> Tensor:
        """(n, 1) posterior mean of the log library size, or the observed one."""
        return observed_log_size(mb) if self.l is None else self.l.loc

    def kl_of_size(self, mb: Minibatch) -> dict[str, Tensor]:
        """(n,) KL(q(l | x) || p(l)), under the name 'l'; no entry where the library size is observed."""
        return {} if self.l is None else {"l": kl_divergence(self.l, _library_prior(mb)).sum(-1)}

    def draw_with_kl(
        self, mb: Minibatch, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One draw of z (n, d) and of the log library size (n, 1), and KL divergences (n,), where z ~ N(0, I).

        The library size is drawn first: with the same seed another order would be another fit.
        """
        log_size = self.draw_size(mb, generator=generator)
        z, kl_z = draw_with_kl(self.z, generator)
        return z, log_size, {"z": kl_z, **self.kl_of_size(mb)}

    def weighted_draws(self, mb: Minibatch, n_draws: int, generator: torch.Generator | None = None) -> WeightedDraws:
        """Draws and log p(z, l) - log q(z, l | x) at them."""
        z = draw(self.z, n_draws, generator)
        prior = Normal(torch.zeros_like(self.z.loc), 1.0)
        log_weights = (prior.log_prob(z) - self.z.log_prob(z)).sum(-1)
        log_size, of_size = self.weighted_sizes(mb, n_draws, generator)
        return WeightedDraws(z, log_size, log_weights + of_size)

    def weighted_sizes(
        self, mb: Minibatch, n_draws: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """Draws of the log library size, and log p(l) - log q(l | x) at them, (s, n); 0 where it is observed."""
        log_size = self.draw_size(mb, n_draws, generator)
        if self.l is None:
            return log_size, 0.0
        return log_size, (_library_prior(mb).log_prob(log_size) - self.l.log_prob(log_size)).sum(-1)


class WeightedDraws(NamedTuple):
    """Draws from a posterior: z (s, n, d), the log library size, (s, n, 1) or if observed (n, 1), weights (s, n)."""

    z: Tensor
    log_size: Tensor
    log_weights: Tensor


def observed_log_size(mb: Minibatch) -> Tensor:
    """(n, 1) log of the given size factor or of the cell's total, which is taken as 1 for an empty cell."""
    return mb.totals.clamp(min=1).log() if mb.log_size is None else mb.log_size


def _library_prior(mb: Minibatch) -> Normal:
    """p(l): Normal(mean, var) of the cell's batch, each (n, 1)."""
    if mb.l_mean is None or mb.l_var is None:
        raise ValueError("a latent library size needs its prior, l_mean and l_var; this minibatch has none")
    return Normal(mb.l_mean, mb.l_var.sqrt(), validate_args=False)


@dataclass(frozen=True)
class Moments:
    """What data say of where a model is to start.

    Attributes
    ----------
    frequencies
        (g,) mean frequencies of the genes.
    log_theta
        Log inverse dispersion, (g,), or (g, k) by category.
    background
        Of the log background of proteins the mean and log standard deviation in each batch, (p, k) each, and the log of
        how much higher the foreground is, (p,). None: no proteins, or their background starts anywhere.
    mean_size
        Mean total count of a cell: times the frequencies, the mean counts of the genes.
    """

    frequencies: Tensor
    log_theta: Tensor
    background: tuple[Tensor, Tensor, Tensor] | None = None
    mean_size: float = 1.0

    def start_genes(self, bias: Tensor | None, px_r: Tensor | None) -> None:
        """Writes over the bias of the frequencies' logits (g,) and the table of dispersions, where there are any."""
        with torch.no_grad():
            if bias is not None:
                bias.copy_(self.frequencies.clamp(min=1e-8).log())
            if px_r is not None:
                wide = self.log_theta[:, None] if self.log_theta.dim() < px_r.dim() else self.log_theta
                px_r.copy_(wide.expand_as(px_r))


class Model(nn.Module, ABC):
    """A probabilistic model of counts: networks and densities, no data access."""

    n_input: int  # genes
    dispersion = "gene"
    latent_distribution = "normal"
    n_batch = 0
    n_labels = 0
    n_cat_list: Sequence[int] = ()  # numbers of categories that are one-hot rows in the decoder, the batch first
    architecture = Architecture()
    n_continuous_cov = 0
    encode_covariates = False  # whether the encoder sees batch and covariates, too
    remedy_of_misfit = "make one of the sizes of the data set, or keep the genes and cells that it was made for"

    # ---- what a model has of its own -------------------------------------------------------------------------------

    @abstractmethod
    def variational(self, mb: Minibatch) -> Latent:
        """The approximate posterior of the cells' latent variables."""

    @abstractmethod
    def generative(self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None) -> Decoded:
        """p(x | z, l) of each modality.

        Parameters
        ----------
        z, log_size
            (..., n, d), before its transformation, and the log library size (..., n, 1).
        mb
            The cells, for their covariates.
        batch
            Code of the batch to decode all cells in; None: each cell's own.
        """

    @abstractmethod
    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO of a minibatch, one posterior draw for each cell."""

    @abstractmethod
    def start(self, moments: Moments) -> None:
        """Starts the weights where the data say."""

    def input_size(self, dataset: int = 0) -> tuple[str, int]:
        """The option that says how many genes there are, and its value; of several data sets each has its own."""
        return "n_input", self.n_input

    def has_parameters_by(self, category: str) -> bool:
        """Whether parameters of a gene differ between the codes of 'batch' or 'label'."""
        return self.dispersion == f"gene-{category}"

    def shared_posterior(self) -> list[nn.Parameter]:
        """Parameters of the posterior, and of a learned prior, of variables that all cells share.

        Their place is decided by evidence and prior; a penalty on weights is not for them.
        """
        return []

    # ---- what all have in common -----------------------------------------------------------------------------------

    def latent(self, mb: Minibatch) -> Latent:
        """:meth:`variational`, or what was kept of it for cells whose counts were dropped.

        Raises
        ------
        ValueError
            If the encoder sees a column in which such a cell is not what it was.
        """
        if mb.kept is None:
            return self.variational(mb)
        if "seen" in mb.kept:
            _refuse_changed((self.seen_columns(mb) != mb.kept["seen"]).any(dim=1))
        return Latent.of(mb.kept)

    def summary(self, mb: Minibatch) -> dict[str, Tensor]:
        """(n, .) by name: what is kept of cells whose counts are dropped, with the columns that the encoder saw."""
        seen = self.seen_columns(mb)
        return self.latent(mb).summary(mb) | ({"seen": seen} if seen.shape[1] else {})

    def seen_columns(self, mb: Minibatch) -> Tensor:
        """(n, k) what the encoder sees of each cell beside its counts: codes of categories, and numbers."""
        columns = [codes.float() for codes in self.encoder_categories(mb) if codes is not None]
        if self.encode_covariates and mb.continuous is not None:
            columns.append(mb.continuous)
        return torch.cat(columns, dim=1) if columns else mb.batch.new_empty((len(mb), 0))

    def encoder_categories(self, mb: Minibatch) -> tuple[Tensor | None, ...]:
        """Codes (n, 1) for the encoder of z."""
        return self.categories(mb, mb.batch) if self.encode_covariates else ()

    def transformed(self, z: Tensor) -> Tensor:
        """What the decoder sees of the Gaussian z: itself or, for 'ln', its softmax."""
        return torch.softmax(z, dim=-1) if self.latent_distribution == "ln" else z

    def latent_mean(self, qz: Normal, n_samples: int = 5000, generator: torch.Generator | None = None) -> Tensor:
        """(n, d) E[z]; for 'ln' the mean of softmax(z) over `n_samples` draws."""
        check_draws("n_samples", n_samples)
        if self.latent_distribution == "normal":
            return qz.loc
        total = torch.zeros_like(qz.loc)
        for start in range(0, n_samples, _LATENT_DRAWS_AT_ONCE):
            total += self.transformed(draw(qz, min(_LATENT_DRAWS_AT_ONCE, n_samples - start), generator)).sum(0)
        return total / n_samples

    def categories(self, mb: Minibatch, batch: Tensor | None) -> tuple[Tensor | None, ...]:
        """Codes (n, 1) of the categories that the networks see, the batch first."""
        return (batch,) if mb.categorical is None else (batch, *mb.categorical.split(1, dim=1))

    def columns(self, mb: Minibatch, batch: Tensor | None) -> Tensor | None:
        """(n, .) what the networks see of covariates that are no one-hot rows.

        These are the continuous ones, and after them the embedding of the batch (n, 1) where it has one.
        """
        is_missing = self.n_continuous_cov > 0 and mb.continuous is None  # which the networks refuse
        if is_missing or self.architecture.batch_representation == "one-hot":
            return mb.continuous
        embedded = self.embedded(batch).expand(len(mb), -1)
        return embedded if self.n_continuous_cov == 0 else torch.cat([mb.continuous, embedded], dim=1)  # type: ignore[list-item]

    def embedded(self, batch: Tensor | None) -> Tensor:
        """Of codes (n, 1), or one-hot rows, the numbers that stand for the batches, (n, .); (1, .) of a single one."""
        table: Tensor = self.embeddings_dict["batch"].weight  # type: ignore[index, union-attr]
        if len(table) == 1:
            return table
        if batch is None:
            raise ValueError(f"the embedding differs between {len(table)} batches: the batch is needed, None came")
        return batch.float() @ table if batch.shape[1] == len(table) else table[batch[:, 0].long()]

    def importance_draws(
        self, mb: Minibatch, q: Latent, n_draws: int, generator: torch.Generator | None = None
    ) -> WeightedDraws:
        """Draws from the posterior `q` and log p(x, z, l) - log q(z, l | x) at them, where nothing else is latent.

        z is the untransformed variable, with density N(0, I), so this holds for 'normal' and 'ln' alike.
        """
        z, log_size, log_weights = q.weighted_draws(mb, n_draws, generator)
        log_weights = log_weights - sum(self.generative(z, log_size, mb).nll(mb).values())
        return WeightedDraws(z, log_size, log_weights)

    @torch.no_grad()
    def marginal_log_likelihood(
        self, mb: Minibatch, n_draws: int, generator: torch.Generator | None = None, at_once: int | None = None
    ) -> Tensor:
        """log p(x_n), (n,) in float64, estimated from below by `n_draws` importance-weighted draws (Burda et al. 2016).

        Draws are decoded in blocks, `at_once` at most, so that memory does not grow with their number.
        """
        check_draws("the number of Monte-Carlo draws", n_draws)
        log_total = torch.full((len(mb),), -torch.inf, dtype=torch.float64, device=mb.device)
        q = self.variational(mb)
        for block in blocks_of_draws(mb, n_draws, at_once):
            log_weights = self.importance_draws(mb, q, block, generator).log_weights
            log_total = torch.logaddexp(log_total, torch.logsumexp(log_weights.double(), dim=0))
        return log_total - torch.log(torch.tensor(float(n_draws), dtype=torch.float64))

    def check_fits(self, n_genes: int, n_batches: int, n_labels: int, dataset: int = 0) -> None:
        """Refuses data of other sizes than the model was made for.

        Parameters
        ----------
        n_genes
            Genes of the data.
        n_batches, n_labels
            One more than the highest code of batches and labels. A model of one batch or none ignores the batch.
        dataset
            Number of the data set, for a model of several.
        """
        option, size = self.input_size(dataset)
        sees_batch, sees_label = self.n_batch > 1 or self.has_parameters_by("batch"), self.has_parameters_by("label")
        misfits = {
            f"{option}={size} for {n_genes} genes (nb_genes)": n_genes != size,
            f"n_batch={self.n_batch} for batch codes up to {n_batches - 1} (n_batches)": sees_batch
            and n_batches > max(self.n_batch, 1),
            f"n_labels={self.n_labels} for label codes up to {n_labels - 1} (n_labels)": sees_label
            and n_labels > self.n_labels,
        }
        if any(misfits.values()):
            misfit = ", ".join(text for text, is_so in misfits.items() if is_so)
            raise ValueError(
                f"this {type(self).__name__} was made for other data, it has {misfit}: {self.remedy_of_misfit}"
            )


def blocks_of_draws(mb: Minibatch, n_draws: int, at_once: int | None = None) -> list[int]:
    """How many draws to decode at once, again and again, so that memory does not grow with their number."""
    block = max(1, _MAX_ELEMENTS // mb.counts.shape.numel())
    block = block if at_once is None else min(block, at_once)
    return [min(block, n_draws - start) for start in range(0, n_draws, block)]


def _refuse_changed(is_other: Tensor) -> None:
    """Refuses cells (n,) that are not what they were when their posterior was kept."""
    if is_other.any():
        raise ValueError(
            f"the batch, a label or a covariate of {int(is_other.sum())} cells has changed since they were minified; "
            "the encoder sees it, so that what was kept is not true of them: put it back, or pass the AnnData with "
            "counts"
        )


def batch_codes(mb: Minibatch, batch: int | None) -> Tensor:
    """(n, 1) codes of the batches that the cells are decoded in: one for all, or their own."""
    return mb.batch if batch is None else torch.full((len(mb), 1), batch, device=mb.device)
