"""Which genes vary more than their mean explains. Counts are read in blocks of cells and never densified whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_integer
from scvi.cells.checks import obs_column
from scvi.cells.count_checks import checked_counts
from scvi.cells.storage import Counts, Rows, as_rows, chosen_blocks, gene_sums, moments, summed, without_repeats

__all__ = ["batch_masks", "population_variance", "sample_moments", "seurat_v3", "seurat_v3_highly_variable_genes"]

_FEWEST_FOR_LOESS = 30  # with a handful of points the compiled loess fails, or crashes the process


def population_variance(counts: Any) -> np.ndarray:
    """(g,) float64 variance of each gene over all cells (divided by n)."""
    counts = as_rows(counts, "the matrix")
    return moments(chosen_blocks(counts), *counts.shape)[1]


def seurat_v3(
    counts: Any, n_top_genes: int, batch: Sequence[Any] | np.ndarray | pd.Series | None = None
) -> pd.DataFrame:
    """Highly variable genes from raw counts (Stuart et al. 2019), chosen across experimental batches.

    In each batch of N cells a degree-2 local regression (span 0.3) of log10 variance on log10 mean gives the expected
    standard deviation sigma of a gene. Counts are clipped at mean + sigma sqrt(N); their variance about the mean over
    sigma^2 is the gene's normalised variance. Genes are ordered by the number of batches where they are among the first
    `n_top_genes`, then by their median rank.

    Parameters
    ----------
    counts
        (n, g) raw counts: numpy array, scipy sparse, or what anndata gives for an open .h5ad.
    n_top_genes
        How many to choose; all if there are fewer genes.
    batch
        (n,) the batch of each cell, codes or names. Batches of one cell say nothing and are left out.

    Returns
    -------
    One row per gene, by position: ``highly_variable``, ``highly_variable_median_rank`` (the highest is the most
    variable), ``highly_variable_median_variance``; with two batches or more also ``highly_variable_nbatches`` and
    ``highly_variable_intersection``.

    Raises
    ------
    ValueError
        If `n_top_genes` is no positive integer, `batch` has another length, all batches have one cell, or values are
        no counts.
    """
    counts = as_rows(counts, "the matrix")
    n, g = counts.shape
    check_integer("n_top_genes", n_top_genes, 1)
    groups = batch_masks(batch, n)
    checked_counts(counts, "the matrix", pd.RangeIndex(n), pd.RangeIndex(g), None, None)
    variances = np.stack([_normalised_variance(counts, cells) for cells in groups])  # (k, g)
    ranks = variances.argsort(axis=1, kind="stable").argsort(axis=1)
    high = (ranks >= g - n_top_genes) & (variances > 0)
    table = pd.DataFrame(
        {
            "highly_variable": False,
            "highly_variable_median_rank": np.median(ranks, axis=0),
            "highly_variable_median_variance": np.median(variances, axis=0),
            "highly_variable_nbatches": high.sum(axis=0),
            "highly_variable_intersection": high.all(axis=0),
        }
    )
    order = np.lexsort((-table["highly_variable_median_rank"], -table["highly_variable_nbatches"]))
    table.loc[order[:n_top_genes], "highly_variable"] = True
    if len(groups) < 2:
        return table.drop(columns=["highly_variable_nbatches", "highly_variable_intersection"])
    return table


def seurat_v3_highly_variable_genes(adata: AnnData, n_top_genes: int = 4000, batch_key: str | None = "batch") -> None:
    """Adds the columns of :func:`seurat_v3` to ``adata.var``; ``adata.X`` holds raw counts.

    Parameters
    ----------
    batch_key
        Column of ``adata.obs`` with the experimental batch; None takes all cells as one batch.
    """
    batch = None if batch_key is None else obs_column(adata, "batch_key", batch_key)
    table = seurat_v3(adata.X, n_top_genes, batch)
    for name in table:
        adata.var[name] = table[name].to_numpy()


def batch_masks(batch: Sequence[Any] | np.ndarray | pd.Series | None, n: int) -> list[np.ndarray | None]:
    """A mask of the cells of each batch of two cells or more; None is all cells."""
    if batch is None:
        if n < 2:
            raise ValueError(f"the variance of genes needs two cells or more; there are {n}")
        return [None]
    codes, _ = pd.factorize(np.asarray(batch).ravel())
    if len(codes) != n:
        raise ValueError(f"batch has {len(codes)} values for {n} cells")
    sizes = np.bincount(codes[codes >= 0])
    groups: list[np.ndarray | None] = [codes == code for code in np.flatnonzero(sizes > 1)]
    if not groups:
        raise ValueError("every batch has a single cell; genes have no variance within a batch. Pass batch=None")
    return groups


def sample_moments(
    counts: Counts,
    cells: np.ndarray | None,
    of_part: Callable[[Rows], tuple[np.ndarray, np.ndarray]] = gene_sums,
) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of the cells (of a mask), and mean and variance (over n - 1) of each gene, (g,) float64.

    `of_part` gives sums and sums of squares of some rows.
    """
    n = counts.shape[0] if cells is None else int(cells.sum())
    sums, squares = summed(chosen_blocks(counts, cells), counts.shape[1], of_part)
    mean = sums / n
    variance = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    variance[variance <= 1e-12 * squares / n] = 0.0  # what is left of a constant gene is rounding
    return n, mean, variance


def _normalised_variance(counts: Counts, cells: np.ndarray | None) -> np.ndarray:
    """(g,) float64 variance of the clipped counts over the expected variance; 0 for genes that do not vary."""
    n, mean, variance = sample_moments(counts, cells)
    varies = variance > 0
    expected = np.ones_like(mean)
    expected[varies] = 10 ** _expected_log_variance(np.log10(mean[varies]), np.log10(variance[varies]))
    ceiling = mean + np.sqrt(expected * n)
    sums, squares = summed(chosen_blocks(counts, cells), len(mean), lambda rows: gene_sums(_clipped(rows, ceiling)))
    return np.where(varies, (n * mean**2 + squares - 2 * mean * sums) / ((n - 1) * expected), 0.0)


def _clipped(rows: Rows, ceiling: np.ndarray) -> Rows:
    if isinstance(rows, np.ndarray):
        return np.minimum(rows, ceiling)
    rows = without_repeats(rows)
    values = np.minimum(rows.data, ceiling[rows.indices])
    return type(rows)((values, rows.indices, rows.indptr), shape=rows.shape)


def _expected_log_variance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Local regression of y on x, at x.

    Where more genes than a neighbourhood holds share one mean (few cells, shallow counts) the regression is singular.
    Then genes of one mean are fitted as one point, weighted by their number; and as one parabola if even these are few.
    """
    fitted = _loess(x, y)
    if fitted is not None:
        return fitted
    points, place, number = np.unique(x, return_inverse=True, return_counts=True)
    heights = np.bincount(place, y) / number
    fitted = _loess(points, heights, number.astype(np.float64))
    if fitted is None:
        degree = min(2, len(points) - 1)
        fitted = _parabola(points, heights, number, degree) if len(points) else points
    return fitted[place]


def _loess(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray | None:
    """Fitted values; None where the regression is singular."""
    if len(x) < _FEWEST_FOR_LOESS:
        return None
    from skmisc.loess import loess

    model = loess(x, y, weights=weights, span=0.3, degree=2)
    try:
        model.fit()
    except ValueError:  # how scikit-misc reports a singular neighbourhood
        return None
    fitted = np.asarray(model.outputs.fitted_values)
    return fitted if np.isfinite(fitted).all() else None


def _parabola(x: np.ndarray, y: np.ndarray, number: np.ndarray, degree: int) -> np.ndarray:
    return np.polynomial.Polynomial.fit(x, y, degree, w=np.sqrt(number))(x)
