"""Cells with proteins, seen through totalVI, under the names of 2020."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from scvi._checks import check_choice, check_draws
from scvi.inference import group_questions
from scvi.inference import posterior_differential as differential
from scvi.inference import posterior_predictive as predictive
from scvi.inference.posterior import Collate, Posterior, metric
from scvi.minibatch import Minibatch
from scvi.models.decoded import ProteinValue
from scvi.models.gaussian import draw
from scvi.models.totalvae import TOTALVAE
from scvi.queries import evaluating, proteins
from scvi.queries.correlation import Kind
from scvi.queries.evaluation import asked_parts
from scvi.queries.expression import Wanted
from scvi.queries.likelihood import marginal

__all__ = ["MEASUREMENT", "TotalPosterior"]

Batches: TypeAlias = int | Sequence[int] | None
Floats: TypeAlias = npt.NDArray[np.float32]
MEASUREMENT = "protein_expression"
"""Name of the measurement of a data set that holds the counts of proteins."""


class TotalPosterior(Posterior):
    """Cells of a data set with proteins, and what a totalVI model says of them; see :class:`Posterior` for the order.

    Iterating yields the five tensors of a `Posterior`, then the counts of proteins (n, p). The data set has them as its
    measurement "protein_expression". Arrays that hold genes and proteins have the genes first.

    `transform_batch` is the code of the batch to decode every cell in, or several, over which the result is averaged;
    None is each cell's own. With ``n_samples`` > 1 and ``give_mean=False`` the draws are the last axis.
    """

    def minibatches(self) -> Iterator[Minibatch]:
        return (replace(Minibatch.from_tensors(tensors), proteins=tensors[5]) for tensors in self)

    def check_model(self) -> None:
        super().check_model()
        n_proteins = getattr(self.gene_dataset, MEASUREMENT).shape[1]
        if isinstance(self.model, TOTALVAE) and self.model.n_input_proteins != n_proteins:
            raise ValueError(
                f"this {type(self.model).__name__} was made for n_input_proteins={self.model.n_input_proteins}, the "
                f"data set has {n_proteins}: make a model of the sizes of the data set"
            )

    def _collate(self, corrupted: bool = False) -> Callable[[list[int]], list[Tensor]]:
        if MEASUREMENT not in self.gene_dataset.cell_measurements_col_mappings:
            raise ValueError(
                f"this data set has no measurement {MEASUREMENT!r}: add one with initialize_cell_measurement("
                f'CellMeasurement("{MEASUREMENT}", counts, "protein_names", names))'
            )
        return Collate(self.gene_dataset, corrupted, with_proteins=True)

    # Scores -------------------------------------------------------------------------------------------------------

    @metric("min")
    def elbo(self) -> float:
        """Negative evidence lower bound, mean over cells, in nats; lower is better."""
        return self.compute_elbo(self.model)

    @metric("min")
    def reconstruction_error(self, mode: str = "total") -> float:
        """Negative log-likelihood given a draw of the latent variables, mean over cells, in nats.

        Parameters
        ----------
        mode
            'total', 'gene' or 'protein'.
        """
        check_choice("mode", mode, ("total", "gene", "protein"))
        genes, of_proteins = self.compute_reconstruction_error(self.model)
        return {"total": genes + of_proteins, "gene": genes, "protein": of_proteins}[mode]

    @metric("min")
    def marginal_ll(self, n_mc_samples: int = 1000) -> float:
        """Negative log-likelihood of the counts by importance sampling, mean over cells, in nats."""
        return self.compute_marginal_log_likelihood(n_mc_samples)

    def compute_elbo(self, vae: TOTALVAE, **kwargs: Any) -> float:
        """:meth:`elbo` of another model; `kwargs` are passed to its call."""
        return sum(self._mean_terms(vae, **kwargs))

    def compute_reconstruction_error(self, vae: TOTALVAE, **kwargs: Any) -> tuple[float, float]:
        """Of genes and of proteins; arguments as :meth:`compute_elbo`."""
        genes, of_proteins, *_ = self._mean_terms(vae, **kwargs)
        return genes, of_proteins

    def compute_marginal_log_likelihood(self, n_samples_mc: int = 100, batch_size: int = 96) -> float:
        """:meth:`marginal_ll` with `n_samples_mc` draws, `batch_size` cells at a time."""
        check_draws("n_samples_mc", n_samples_mc)
        return -float(marginal(self.model, self._cells(batch_size), n_mc_samples=n_samples_mc).mean())

    def _mean_terms(self, vae: TOTALVAE, **kwargs: Any) -> list[float]:
        """Reconstruction of genes and of proteins, KL of z, of the library and of the background."""
        total, n = np.zeros(5), 0
        with evaluating(vae):
            for x, l_mean, l_var, batch_index, label, y in self._asked():
                terms = vae(x, y, l_mean, l_var, batch_index, label, **kwargs)
                total += [float(term.double().sum()) for term in terms]
                n += len(x)
        return (total / n).tolist()

    # Latent space -------------------------------------------------------------------------------------------------

    def get_latent(  # type: ignore[override]  # the 2020 class has other results here
        self, sample: bool = False
    ) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        """Where the model places each cell, and its library size of RNA.

        Parameters
        ----------
        sample
            One draw; otherwise the mean of the variational posterior.

        Returns
        -------
        latent (n, d), batch codes (n, 1), label codes (n,), library sizes (n,); in the order of the iteration.
        """

        def place(mb: Minibatch) -> dict[str, Tensor]:
            q = self.model.variational(mb)
            z = self.model.transformed(draw(q.z)) if sample else self.model.latent_mean(q.z)
            is_mean = not sample and q.l is not None
            library = (q.l.loc + q.l.scale.square() / 2 if is_mean else q.draw_size(mb)).exp()
            return {"z": z, "batch": mb.batch, "labels": mb.labels[:, 0], "library": library[:, 0]}

        found = asked_parts(self.model, self._cells(), place)
        return found["z"], found["batch"], found["labels"], found["library"]

    def placed(self, give_mean: bool = True) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        z, batch_indices, labels, _ = self.sequential().get_latent(sample=not give_mean)
        return z, batch_indices.ravel(), labels

    # Expression ---------------------------------------------------------------------------------------------------

    def get_protein_background_mean(self) -> Floats:
        """(n, p) one draw of the mean count of the background."""
        return proteins.background(self.model, self._cells())

    def get_sample_dropout(self, n_samples: int = 1, give_mean: bool = True) -> Floats:
        """Probability that a count of a gene was lost, (n, g) or (n, g, s)."""
        return _draws_last(proteins.dropout_probability(self.model, self._cells(), self._wanted(n_samples, give_mean)))

    def get_sample_mixing(self, n_samples: int = 1, give_mean: bool = True, transform_batch: Batches = None) -> Floats:
        """Probability that the count of a protein is background, (n, p) or (n, p, s)."""
        wanted = self._wanted(n_samples, give_mean, transform_batch)
        return _draws_last(1 - proteins.foreground_probability(self.model, self._cells(), wanted))

    def get_sample_scale(  # type: ignore[override]  # the 2020 class has other arguments here
        self,
        transform_batch: Batches = None,
        eps: float = 0.5,
        normalize_pro: bool = False,
        sample_bern: bool = True,
        include_bg: bool = False,
    ) -> Floats:
        """(n, g + p) expected frequencies of genes, and expected counts of proteins plus `eps`, at one posterior draw.

        Differential expression compares these values; `eps` is its prior count.

        Parameters
        ----------
        normalize_pro
            Divide proteins by their sum.
        sample_bern
            Draw whether a count is background instead of weighing by the probability.
        include_bg
            Add the background.
        """
        value = ProteinValue(include_background=include_bg, sample_mixing=sample_bern, scale=normalize_pro)
        wanted = self._wanted(1, True, transform_batch)
        genes, of_proteins = proteins.normalized(self.model, self._cells(), wanted, value)
        return np.concatenate([genes, of_proteins + np.float32(eps)], axis=-1)

    def get_normalized_denoised_expression(
        self,
        n_samples: int = 1,
        give_mean: bool = True,
        transform_batch: Batches = None,
        sample_protein_mixing: bool = True,
    ) -> tuple[Floats, Floats]:
        """Expected frequencies of genes, and expected counts of proteins without their background.

        Returns
        -------
        (n, g) and (n, p), or (n, g, s) and (n, p, s)
        """
        wanted = self._wanted(n_samples, give_mean, transform_batch)
        value = ProteinValue(sample_mixing=sample_protein_mixing)
        genes, of_proteins = proteins.normalized(self.model, self._cells(), wanted, value)
        return _draws_last(genes), _draws_last(of_proteins)

    def get_protein_mean(self, n_samples: int = 1, give_mean: bool = True, transform_batch: Batches = None) -> Floats:
        """Expected counts of proteins, background included, (n, p) or (n, p, s)."""
        wanted = self._wanted(n_samples, give_mean, transform_batch)
        value = ProteinValue(include_background=True)
        return _draws_last(proteins.normalized(self.model, self._cells(), wanted, value)[1])

    def imputation(self, n_samples: int = 1, transform_batch: Batches = None) -> Floats:
        """Expected counts of genes, (n, g), or (s, n, g) for s > 1 draws."""
        wanted = self._wanted(n_samples, False, transform_batch)
        return proteins.normalized(self.model, self._cells(), wanted, ProteinValue(), "latent")[0]

    differential_expression_score = differential.score_with_permutation
    differential_expression_stats = differential.no_differential_expression_stats  # type: ignore[assignment]
    _scale_values = group_questions.scale_values_of_proteins  # type: ignore[assignment]

    @property
    def _protein_names(self) -> npt.NDArray[Any]:
        """Of the proteins, which are compared beside the genes."""
        return np.asarray(getattr(self.gene_dataset, self.gene_dataset.cell_measurements_col_mappings[MEASUREMENT]))

    # Samples ------------------------------------------------------------------------------------------------------

    def generate(  # type: ignore[override]  # the 2020 class has other arguments here
        self, n_samples: int = 100, batch_size: int = 64
    ) -> tuple[Floats, Floats]:
        """Counts as the model would measure them, without zero inflation, and the counts themselves.

        Returns
        -------
        (n, g + p, s) and (n, g + p)
        """
        return predictive.with_originals(self, Wanted(n_samples=n_samples), batch_size, with_dropout=False)

    def generate_denoised_samples(
        self,
        n_samples: int = 25,
        batch_size: int = 64,
        rna_size_factor: float = 1,
        transform_batch: int | None = None,
    ) -> Floats:
        """(n, g + p, s) draws without counting noise and without the background of proteins.

        Genes have the mean `rna_size_factor` times their frequency.
        """
        return super().generate_denoised_samples(n_samples, batch_size, rna_size_factor, transform_batch)

    def generate_feature_correlation_matrix(
        self,
        n_samples: int = 25,
        batch_size: int = 64,
        rna_size_factor: float = 1000,
        transform_batch: Batches = None,
        correlation_mode: Kind = "spearman",
    ) -> npt.NDArray[np.float64]:
        """(g + p, g + p) correlation of denoised samples, 'spearman' or 'pearson', averaged over the batches."""
        check_choice("correlation_mode", correlation_mode, ("spearman", "pearson"))
        arguments = n_samples, batch_size, rna_size_factor, transform_batch, correlation_mode
        return super().generate_feature_correlation_matrix(*arguments)

    _cells = predictive.cells


def _draws_last(values: npt.NDArray) -> npt.NDArray:
    return np.moveaxis(values, 0, -1) if values.ndim == 3 else values
