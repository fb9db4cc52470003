"""The questions that most estimators answer; each class lists those that it does.

They are functions of an estimator, which a class takes over by name: ``get_elbo = questions.get_elbo``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_integer, is_number
from scvi._random import resolve_seed
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Indices
from scvi.queries import expression, latent, likelihood
from scvi.queries.expression import Wanted

Names = Sequence[str] | np.ndarray


def get_latent_representation(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    give_mean: bool = True,
    batch_size: int | None = None,
    return_dist: bool = False,
    *,
    mc_samples: int = 5000,
    seed: int | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Where the cells lie in the latent space, with the batch effect removed.

    Parameters
    ----------
    give_mean
        Posterior means; otherwise one posterior draw a cell.
    return_dist
        Return mean and variance of the Gaussian posterior instead (before the softmax of a logistic-normal one).
    mc_samples
        Draws behind the mean of a logistic-normal latent variable.

    Returns
    -------
    (n, d), or a pair of such arrays
    """
    minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
    if check_flag("return_dist", return_dist):
        return latent.latent_distribution(self.module, minibatches)
    mc_samples = check_integer("mc_samples", mc_samples, 1)
    return latent.latent(self.module, minibatches, give_mean, self._generator(seed), mc_samples)


def get_batch_representation(
    self: Estimator, adata: AnnData | None = None, indices: Indices = None, batch_size: int | None = None
) -> np.ndarray:
    """What the networks see of the batch of each cell: with ``batch_representation='embedding'`` where it lies.

    Returns
    -------
    (n, k) numbers that were learned, k of ``batch_embedding_kwargs``; or one-hot rows, k batches
    """
    return latent.batches(self.module, self._ask(adata, indices, batch_size, needs_counts=False))


def get_latent_library_size(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    give_mean: bool = True,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> np.ndarray:
    """(n, 1) library sizes in counts, as observed; where they are latent, the median of the posterior or a draw."""
    minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
    return np.exp(latent.library(self.module, minibatches, give_mean, self._generator(seed)))


def get_normalized_expression(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    transform_batch: str | int | Sequence[str | int] | None = None,
    gene_list: Sequence[str] | None = None,
    library_size: float | Literal["latent"] = 1,
    n_samples: int = 1,
    n_samples_overall: int | None = None,
    batch_size: int | None = None,
    return_mean: bool = True,
    return_numpy: bool | None = False,
    *,
    weights: Literal["uniform", "importance"] | None = None,
    n_mc_samples: int = 500,
    silent: bool = True,
    seed: int | None = None,
) -> pd.DataFrame | np.ndarray:
    """Denoised expression: the share of each gene among the cell's molecules, as the model sees it.

    It is the decoder's expected frequency at posterior draws of the cell's latent state: free of sampling noise,
    dropout and library size. The shares of all genes of the model sum to 1 in each cell; times
    ``library_size=1e4`` they read as counts per ten thousand.

    Parameters
    ----------
    transform_batch
        Name of the batch to decode every cell in, or several, over which the result is averaged; None: its own.
    gene_list
        Names of genes, in the order wanted; None: all.
    library_size
        A number, or 'latent' for each cell's own library size, which gives expected counts.
    n_samples
        Posterior draws a cell.
    n_samples_overall
        Draw so many cells with replacement, and one sample of each.
    return_mean
        Average over the draws; otherwise the draws are the first axis.
    return_numpy
        Return an array; draws that are not averaged always come as an array.
    weights
        What draws of a cell count for: 'uniform' (and None) takes the variational posterior as it is; 'importance'
        corrects it towards the true posterior, see :meth:`get_importance_weights`. It needs counts, and time.
    n_mc_samples
        Draws of a cell that 'importance' weighs. The mean is over all of them, and draws that are kept, or that
        `n_samples_overall` asks for, are drawn from them by weight.
    silent
        Taken for scripts that pass it: questions show no progress.

    Returns
    -------
    (n, g) table of cells and genes, or an array (n, g) or (s, n, g)
    """
    check_flag("silent", silent)
    n_weighed = _n_weighed(weights, n_mc_samples)
    data, positions = self._choose(adata, indices, needs_counts=n_weighed is not None)
    seed = resolve_seed(seed)
    positions = drawn_cells(positions, n_samples_overall, seed)
    genes = self._cells.gene_positions(gene_list)
    values = expression.normalized(
        self.module,
        self._minibatches(data, positions, batch_size),
        Wanted(
            genes=genes,
            transform_batch=self._cells.batch_codes(transform_batch),
            n_samples=check_integer("n_samples", n_samples, 1),
            return_mean=return_mean and not (n_weighed and n_samples_overall),
            n_weighed=n_weighed,
        ),
        checked_library_size(library_size),
        self._generator(seed),
    )
    if values.ndim == 3 and return_mean:
        values = values.mean(axis=0)
    if return_numpy or values.ndim == 3:
        return values
    return table(values, data.cell_names[positions], chosen(self.schema.genes, genes))


def get_likelihood_parameters(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_samples: int = 1,
    give_mean: bool = False,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """Parameters of the distribution of every count in every cell, at posterior draws.

    Returns
    -------
    dict
        Of genes 'mean' (expected counts before dropout), 'dispersions' (inverse dispersion; not for Poisson) and
        'dropout' (logits of the dropout probability; zero-inflated likelihoods only). Of proteins 'protein_background'
        and 'protein_foreground' (expected counts), 'protein_mixing' (logits of the background) and
        'protein_dispersions' (inverse). Each (n, .), or (s, n, .) for several draws that are not averaged.
    """
    minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
    wanted = Wanted(n_samples=check_integer("n_samples", n_samples, 1), return_mean=give_mean)
    return expression.likelihood_parameters(self.module, minibatches, wanted, self._generator(seed))


def get_elbo(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    batch_size: int | None = None,
    *,
    return_mean: bool = True,
    seed: int | None = None,
) -> float | np.ndarray:
    """Evidence lower bound on the log-likelihood in nats: mean over cells, or one a cell. Higher is better."""
    minibatches = self._ask(adata, indices, batch_size)
    return mean_of(likelihood.elbo(self.module, minibatches, self._generator(seed)), return_mean)


def get_reconstruction_error(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    batch_size: int | None = None,
    *,
    return_mean: bool = True,
    seed: int | None = None,
) -> dict[str, float] | dict[str, np.ndarray]:
    """Negative log-likelihood of the counts at a posterior draw, nats: mean over cells, or one a cell.

    Lower is better.

    Returns
    -------
    dict
        'reconstruction_loss'
    """
    losses = reconstruction_losses(self, adata, indices, batch_size, seed)
    return {"reconstruction_loss": mean_of(losses["genes"], return_mean)}  # type: ignore[return-value]


def get_marginal_ll(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_mc_samples: int = 1000,
    batch_size: int | None = None,
    *,
    return_mean: bool = True,
    n_mc_samples_per_pass: int | None = None,
    seed: int | None = None,
) -> float | np.ndarray:
    """Log-likelihood in nats by importance sampling with `n_mc_samples` posterior draws (Burda et al. 2016).

    A lower bound that tightens with the number of draws: mean over cells, or one a cell. Higher is better.

    Parameters
    ----------
    n_mc_samples_per_pass
        Draws that are decoded at once, at most; None: as many as fit into some memory.
    """
    minibatches, generator = self._ask(adata, indices, batch_size), self._generator(seed)
    check_integer("n_mc_samples", n_mc_samples, 1)
    if n_mc_samples_per_pass is not None:
        check_integer("n_mc_samples_per_pass", n_mc_samples_per_pass, 1)
    values = likelihood.marginal(self.module, minibatches, n_mc_samples, generator, n_mc_samples_per_pass)
    return mean_of(values, return_mean)


def reconstruction_losses(
    self: Estimator, adata: AnnData | None, indices: Indices, batch_size: int | None, seed: int | None
) -> dict[str, np.ndarray]:
    """(n,) negative log-likelihoods at a posterior draw, by modality."""
    minibatches = self._ask(adata, indices, batch_size)
    return {
        name: -term for name, term in likelihood.reconstruction(self.module, minibatches, self._generator(seed)).items()
    }


def drawn_cells(positions: np.ndarray, n_samples_overall: int | None, seed: int) -> np.ndarray:
    """So many of the cells, drawn with replacement; None: the cells themselves."""
    if n_samples_overall is None:
        return positions
    check_integer("n_samples_overall", n_samples_overall, 1)
    return np.random.default_rng([seed, 2]).choice(positions, n_samples_overall)


def _n_weighed(weights: str | None, n_mc_samples: int) -> int | None:
    """How many draws of a cell are weighed by importance; None: they all count the same."""
    check_integer("n_mc_samples", n_mc_samples, 1)
    if weights is not None:
        check_choice("weights", weights, ("uniform", "importance"))
    return n_mc_samples if weights == "importance" else None


def checked_library_size(value: float | str) -> float | str:
    """'latent' or a positive number; ValueError for anything else."""
    if is_number(value) and value > 0:
        return float(value)
    if isinstance(value, str) and value == "latent":
        return value
    raise ValueError(f"library_size={value!r} is neither 'latent' nor a positive number")


def mean_of(values: np.ndarray, return_mean: bool) -> float | np.ndarray:
    """The mean over cells if it is wanted, otherwise the values of the cells."""
    return float(values.mean(dtype=np.float64)) if return_mean else values


def chosen(names: Names, positions: np.ndarray | None) -> np.ndarray:
    """(k,) names at these positions; None: all."""
    every = np.array(names, dtype=object)
    return every if positions is None else every[positions]


def table(values: np.ndarray, rows: Names, columns: Names) -> pd.DataFrame:
    """Values with the names of their rows and columns."""
    return pd.DataFrame(values, index=pd.Index(rows), columns=pd.Index(columns))
