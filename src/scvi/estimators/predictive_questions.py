"""What an estimator would measure again, and how its genes go together; functions as in :mod:`questions`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scvi._checks import check_choice, check_flag, check_integer, check_number
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Indices
from scvi.estimators.questions import chosen, table
from scvi.queries import importance, predictive
from scvi.queries.correlation import Kind
from scvi.queries.expression import Wanted

Batches = str | int | Sequence[str | int] | None


def posterior_predictive_sample(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    transform_batch: str | int | None = None,
    n_samples: int = 1,
    gene_list: Sequence[str] | None = None,
    batch_size: int | None = None,
    *,
    silent: bool = True,
    seed: int | None = None,
) -> sparse.csr_matrix | sparse.coo_array:
    """Counts as the model would measure them again in the same cells, dropout included: p(x' | x).

    Each is one draw from the likelihood, at a posterior draw of the cell's latent state and at its library size. Beside
    the counts of the data they show what the model has missed.

    Parameters
    ----------
    transform_batch
        Name of the batch to decode every cell in; None: its own.
    n_samples
        Draws a cell.
    gene_list
        Names of genes, in the order wanted; None: all.
    silent
        Taken for scripts that pass it: questions show no progress.

    Returns
    -------
    A CSR matrix (n, g), or of several draws a COO array (n, g, s) of scipy; float32. It takes 8 bytes, or 16, for each
    count that is not 0, and nothing else of its size is held. ``draws.sum(axis=2)`` is the sum over draws,
    ``draws.toarray()`` an array.
    """
    check_flag("silent", silent)
    data, positions = self._choose(adata, indices, needs_counts=False)
    genes = self._cells.gene_positions(gene_list)
    wanted = Wanted(genes, None, one_batch(self, transform_batch), check_integer("n_samples", n_samples, 1))
    draws = predictive.SparseDraws()
    minibatches = self._minibatches(data, positions, batch_size)
    for block in predictive.counts(self.module, minibatches, wanted, self._generator(seed)):
        draws.add(block)
    return draws.array(len(positions), self.schema.n_genes if genes is None else len(genes), n_samples)


def get_feature_correlation_matrix(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_samples: int = 10,
    batch_size: int | None = None,
    rna_size_factor: float = 1000,
    transform_batch: Batches = None,
    correlation_type: Kind = "spearman",
    *,
    gene_list: Sequence[str] | None = None,
    silent: bool = True,
    seed: int | None = None,
) -> pd.DataFrame:
    """Correlation of genes over cells, free of the noise of counting.

    It is that of draws from the model at the posterior of each cell: gamma draws of the fitted dispersion around
    `rna_size_factor` times the expected frequency, of which counts would be Poisson draws.

    'pearson' holds nothing larger than the answer. 'spearman' ranks all draws and holds them once: 4 bytes for each of
    n cells, s draws and g genes; ask about fewer cells, draws or genes where that is too much.

    Parameters
    ----------
    n_samples
        Draws a cell.
    rna_size_factor
        Molecules of a cell to which the frequencies are scaled. It makes no difference to the correlations.
    transform_batch
        Name of the batch to decode every cell in, or several, over which the correlations are averaged; None: its own.
    correlation_type
        'spearman' or 'pearson'.
    gene_list
        Names of genes, in the order wanted; None: all.
    silent
        Taken for scripts that pass it: questions show no progress.

    Returns
    -------
    (g, g) table; 0 for a gene that does not vary
    """
    check_flag("silent", silent)
    check_choice("correlation_type", correlation_type, ("spearman", "pearson"))
    check_number("rna_size_factor", rna_size_factor, "a positive number", above=0)
    data, positions = self._choose(adata, indices, needs_counts=False)
    genes = self._cells.gene_positions(gene_list)
    if genes is not None and len(genes) == 0:
        raise ValueError("gene_list is an empty list; None asks about all genes")
    codes = self._cells.batch_codes(transform_batch)
    matrix = predictive.correlations(
        self.module,
        lambda: self._minibatches(data, positions, batch_size),
        Wanted(genes, None, codes, check_integer("n_samples", n_samples, 1)),
        rna_size_factor,
        correlation_type,
        self._generator(seed),
    )
    names = chosen(self.schema.genes, genes)
    return table(matrix, names, names)


def get_importance_weights(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_mc_samples: int = 500,
    batch_size: int | None = None,
    *,
    truncation: bool = False,
    return_latent: bool = False,
    n_mc_samples_per_pass: int | None = None,
    seed: int | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Weights of posterior draws of each cell that make them draws from the true posterior.

    The posterior of :meth:`get_latent_representation` is an approximation, q(z | x). A draw from it has the weight
    p(x, z) / q(z | x), over the sum of those of all draws of the cell (Burda et al. 2016): a weighted mean of any
    function of z is about its mean under p(z | x). ``1 / (weights**2).sum(axis=0)`` says how many draws from p(z | x)
    they are worth. Where that is a few, the largest weights decide alone: raise `n_mc_samples`, and trust neither.
    Latent library sizes, and the background of proteins, are drawn along and enter the weights.

    Parameters
    ----------
    n_mc_samples
        Draws of each cell.
    truncation
        No weight is above ``n_mc_samples ** -0.5`` before they are made to sum to 1 again (Ionides 2008).
    return_latent
        Return the draws of z as well.
    n_mc_samples_per_pass
        Draws that are decoded at once, at most; None: as many as fit into some memory.

    Returns
    -------
    (s, n) weights, which sum to 1 over the s draws; with `return_latent` a pair, the draws (s, n, d) after them
    """
    check_flag("truncation", truncation)
    check_flag("return_latent", return_latent)
    check_integer("n_mc_samples", n_mc_samples, 1)
    if n_mc_samples_per_pass is not None:
        check_integer("n_mc_samples_per_pass", n_mc_samples_per_pass, 1)
    minibatches, generator = self._ask(adata, indices, batch_size), self._generator(seed)
    weights, z = importance.weights(
        self.module, minibatches, n_mc_samples, truncation, generator, n_mc_samples_per_pass
    )
    return (weights, z) if return_latent else weights


def one_batch(self: Estimator, transform_batch: str | int | None) -> list[int] | None:
    """The code of the batch to draw in, refused if it is several; None stays None."""
    codes = self._cells.batch_codes(transform_batch)
    if codes is not None and len(codes) > 1:
        raise ValueError("transform_batch names several batches; counts are drawn in one, or in each cell's own")
    return codes
