"""The questions to a model of genes and proteins, beside those of :mod:`scvi.estimators.questions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_integer, check_number
from scvi._random import resolve_seed
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Indices, positions_of
from scvi.estimators.predictive_questions import Batches, one_batch
from scvi.estimators.questions import checked_library_size, chosen, drawn_cells, mean_of, reconstruction_losses, table
from scvi.models.decoded import ProteinValue
from scvi.queries import predictive
from scvi.queries import proteins as queries
from scvi.queries.correlation import Kind
from scvi.queries.expression import Wanted

NO_PROTEIN = "protein_list has {!r}, which is not a protein"

Names = Sequence[str] | None


def get_normalized_expression(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    transform_batch: Batches = None,
    gene_list: Names = None,
    protein_list: Names = None,
    library_size: float | Literal["latent"] = 1,
    n_samples: int = 1,
    n_samples_overall: int | None = None,
    batch_size: int | None = None,
    return_mean: bool = True,
    return_numpy: bool | None = False,
    *,
    sample_protein_mixing: bool = False,
    scale_protein: bool = False,
    include_protein_background: bool = False,
    silent: bool = True,
    seed: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[np.ndarray, np.ndarray]:
    """Denoised expression of genes, and of proteins without their background.

    Genes as in :meth:`scvi.SCVI.get_normalized_expression`: shares of the cell's molecules. Proteins in counts: the
    mean of the foreground times its probability. NaN stands for a protein that the batch in which a cell is decoded
    did not measure, or in its own batch the cell itself (NaN in a query that lacks the protein); give a batch that
    did as `transform_batch` to impute it.

    Parameters
    ----------
    transform_batch
        Name of the batch to decode every cell in, or several, over which the result is averaged; None: its own.
    gene_list, protein_list
        Names in the order wanted; None: all.
    library_size
        Of the genes: a number, or 'latent' for each cell's own library size.
    n_samples
        Posterior draws a cell.
    n_samples_overall
        Draw so many cells with replacement, and one sample of each.
    return_mean
        Average over the draws, and over the background of proteins without drawing it; otherwise the draws are the
        first axis.
    return_numpy
        Return arrays; draws that are not averaged always come as arrays.
    sample_protein_mixing
        Draw whether a count is background instead of weighing by the probability.
    scale_protein
        Divide proteins by their sum in the cell.
    include_protein_background
        Add the background, weighed by its probability: the expected count.
    silent
        Taken for scripts that pass it: questions show no progress.

    Returns
    -------
    (n, g) and (n, p) tables, or arrays (n, .) or (s, n, .)
    """
    check_flag("silent", silent)
    data, positions = self._choose(adata, indices, needs_counts=False)
    seed = resolve_seed(seed)
    positions = drawn_cells(positions, n_samples_overall, seed)
    value = ProteinValue(
        include_background=check_flag("include_protein_background", include_protein_background),
        sample_mixing=check_flag("sample_protein_mixing", sample_protein_mixing),
        scale=check_flag("scale_protein", scale_protein),
        hide_missing=True,
        mean_background=return_mean,
    )
    part = _part(self, transform_batch, gene_list, protein_list, n_samples, return_mean)
    rna, protein = queries.normalized(
        self.module,
        self._minibatches(data, positions, batch_size),
        part,
        value,
        checked_library_size(library_size),
        self._generator(seed),
    )
    if return_numpy or rna.ndim == 3:
        return rna, protein
    cells, (genes, proteins) = data.cell_names[positions], _names(self, part)
    return table(rna, cells, genes), table(protein, cells, proteins)


def get_protein_foreground_probability(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    transform_batch: Batches = None,
    protein_list: Names = None,
    n_samples: int = 1,
    batch_size: int | None = None,
    return_mean: bool = True,
    return_numpy: bool | None = False,
    *,
    silent: bool = True,
    seed: int | None = None,
) -> pd.DataFrame | np.ndarray:
    """Probability that the count of a protein is more than background; arguments and NaN as for the expression.

    Returns
    -------
    (n, p) table, or an array (n, p) or (s, n, p)
    """
    check_flag("silent", silent)
    data, positions = self._choose(adata, indices, needs_counts=False)
    part = _part(self, transform_batch, None, protein_list, n_samples, return_mean)
    minibatches = self._minibatches(data, positions, batch_size)
    values = queries.foreground_probability(self.module, minibatches, part, True, self._generator(seed))
    if return_numpy or values.ndim == 3:
        return values
    return table(values, data.cell_names[positions], _names(self, part)[1])


def get_protein_background_mean(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> np.ndarray:
    """(n, p) mean counts of the background of each protein, at a posterior draw of the cell's latent state.

    NaN stands for a protein that the cell's batch did not measure.
    """
    minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
    return queries.background_mean(self.module, minibatches, self._generator(seed))


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

    Lower is better. A protein adds nothing to it in cells that did not measure it.

    Returns
    -------
    dict
        'reconst_loss_gene', 'reconst_loss_protein'
    """
    losses = reconstruction_losses(self, adata, indices, batch_size, seed)
    genes, proteins = (mean_of(losses[modality], return_mean) for modality in ("genes", "proteins"))
    return {"reconst_loss_gene": genes, "reconst_loss_protein": proteins}  # type: ignore[return-value]


def posterior_predictive_sample(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_samples: int = 1,
    transform_batch: str | int | None = None,
    gene_list: Names = None,
    protein_list: Names = None,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> dict[str, Any]:
    """Counts as the model would measure them again in the same cells.

    Nothing was learnt about a protein in a batch that did not measure it: its counts there are to be disregarded.
    With `transform_batch` all cells are decoded in a batch that did.

    Returns
    -------
    dict
        'rna': counts of genes, a sparse matrix (n, g), or a sparse array (n, g, s) of several draws; 'protein': those
        of proteins, an array (n, p) or (n, p, s)
    """
    data, positions = self._choose(adata, indices, needs_counts=False)
    one_batch(self, transform_batch)
    part = _part(self, transform_batch, gene_list, protein_list, n_samples, True)
    n, (n_genes, n_proteins) = len(positions), (len(names) for names in _names(self, part))
    genes, proteins = predictive.SparseDraws(), np.empty((n, n_proteins, n_samples), np.float32)
    minibatches = self._minibatches(data, positions, batch_size)
    for block in predictive.counts(self.module, minibatches, part, self._generator(seed)):
        genes.add(block)
        proteins[block.cells, :, block.draws] = block.values["proteins"].transpose(1, 2, 0)
    return {
        "rna": genes.array(n, n_genes, n_samples),
        "protein": proteins[:, :, 0] if n_samples == 1 else proteins,
    }


def get_feature_correlation_matrix(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    n_samples: int = 10,
    batch_size: int | None = None,
    rna_size_factor: float = 1000,
    transform_batch: Batches = None,
    correlation_type: Kind = "spearman",
    log_transform: bool = False,
    *,
    silent: bool = True,
    seed: int | None = None,
) -> pd.DataFrame:
    """Correlation of genes and proteins over cells, free of counting noise and protein background.

    It is that of draws from the model at the posterior of each cell, genes scaled to `rna_size_factor` molecules;
    over several batches of `transform_batch` it is averaged. Memory as of
    :meth:`scvi.SCVI.get_feature_correlation_matrix`. Where a batch did not measure a protein, ask about the cells of
    others, or name a batch that did as `transform_batch`.

    Parameters
    ----------
    log_transform
        Correlate log(1 + values), which moves Pearson's correlation; ranks are the same.

    Returns
    -------
    (g + p, g + p) table, genes first
    """
    check_flag("silent", silent)
    check_choice("correlation_type", correlation_type, ("spearman", "pearson"))
    check_number("rna_size_factor", rna_size_factor, "a positive number", above=0)
    data, positions = self._choose(adata, indices, needs_counts=False)
    part = _part(self, transform_batch, None, None, n_samples, True)
    matrix = predictive.correlations(
        self.module,
        lambda: self._minibatches(data, positions, batch_size),
        part,
        rna_size_factor,
        correlation_type,
        self._generator(seed),
        check_flag("log_transform", log_transform),
    )
    names = np.concatenate(_names(self, part))
    return table(matrix, names, names)


def _part(
    self: Estimator,
    transform_batch: Batches,
    gene_list: Names,
    protein_list: Names,
    n_samples: int,
    return_mean: bool,
) -> Wanted:
    known = _protein_names(self)
    return Wanted(
        genes=self._cells.gene_positions(gene_list),
        proteins=None if protein_list is None else positions_of(protein_list, known, NO_PROTEIN),
        transform_batch=self._cells.batch_codes(transform_batch),
        n_samples=check_integer("n_samples", n_samples, 1),
        return_mean=check_flag("return_mean", return_mean),
    )


def _names(self: Estimator, part: Wanted) -> tuple[np.ndarray, np.ndarray]:
    """Of the genes and of the proteins that are wanted."""
    return chosen(self.schema.genes, part.genes), chosen(_protein_names(self), part.proteins)


def _protein_names(self: Estimator) -> Sequence[str]:
    return self.schema.proteins.names  # type: ignore[union-attr]
