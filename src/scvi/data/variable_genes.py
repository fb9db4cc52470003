"""Which genes vary more than their mean explains: by seurat_v3, and by dispersion among genes of like mean.

Counts are read in blocks of cells and never densified whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_integer
from scvi.cells.checks import obs_column
from scvi.cells.count_checks import Called, checked_counts, warn_of_estimates
from scvi.cells.storage import (
    Counts,
    OnDisk,
    Rows,
    as_rows,
    chosen_blocks,
    gene_sums,
    moments,
    row_sums,
    summed,
    without_repeats,
)

_CELL_TOTAL = 1e4
_MAD_OF_A_NORMAL = 0.6744897501960817  # median absolute deviation over standard deviation
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
        neither counts nor estimates of counts.
    """
    counts = as_rows(counts, "the matrix")
    n, g = counts.shape
    check_integer("n_top_genes", n_top_genes, 1)
    _batch_masks(batch, n)  # refuses a wrong batch before all counts are looked at
    _, estimates = checked_counts(counts, Called("the matrix", pd.RangeIndex(n), pd.RangeIndex(g)))
    warn_of_estimates(estimates)
    return seurat_v3_of_checked(counts, n_top_genes, batch)


def seurat_v3_of_checked(
    counts: Rows | OnDisk, n_top_genes: int, batch: Sequence[Any] | np.ndarray | pd.Series | None = None
) -> pd.DataFrame:
    """:func:`seurat_v3` of counts that have been looked at, as :func:`scvi.cells.storage.as_rows` gives them."""
    g, groups = counts.shape[1], _batch_masks(batch, counts.shape[0])
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
    return (
        table if len(groups) > 1 else table.drop(columns=["highly_variable_nbatches", "highly_variable_intersection"])
    )


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


def _normalised_variance(counts: Counts, cells: np.ndarray | None) -> np.ndarray:
    """(g,) float64 variance of the clipped counts over the expected variance; 0 for genes that do not vary."""
    n, mean, variance = _sample_moments(counts, cells)
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
        fitted = (
            np.polynomial.Polynomial.fit(points, heights, degree, w=np.sqrt(number))(points) if len(points) else points
        )
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


def dispersion_genes(
    counts: Any,
    flavor: Literal["seurat_v2", "cell_ranger"],
    n_top_genes: int | None = None,
    batch: Sequence[Any] | np.ndarray | pd.Series | None = None,
    *,
    n_bins: int = 20,
    min_mean: float = 0.0125,
    max_mean: float = 3.0,
    min_disp: float = 0.5,
    max_disp: float = np.inf,
) -> pd.DataFrame:
    """Highly variable genes by dispersion (variance over mean) among genes of like mean.

    Cells are scaled to a total of 10,000. "seurat_v2" (Satija et al. 2015) takes the log of the dispersion, cuts
    log(1 + mean) into bins of equal width, and standardises by mean and standard deviation of the bin; a gene alone in
    its bin gets 1. "cell_ranger" (Zheng et al. 2017) takes the dispersion of log(1 + count), cuts the means at
    percentiles from 10 to 100, and standardises by median and median absolute deviation of the bin. Across batches,
    genes are ordered by the number of batches that choose them, then by their mean normalised dispersion.

    Parameters
    ----------
    counts
        (n, g) raw counts: numpy array, scipy sparse, or what anndata gives for an open .h5ad. Read in blocks of cells.
    flavor
        "seurat_v2" or "cell_ranger".
    n_top_genes
        How many to choose; None chooses by the four bounds.
    batch
        (n,) the batch of each cell, codes or names. Batches of one cell say nothing and are left out.
    n_bins
        Number of bins of the mean.
    min_mean, max_mean, min_disp, max_disp
        Bounds, exclusive, of ``means`` and ``dispersions_norm``, read where `n_top_genes` is None.

    Returns
    -------
    One row per gene, by position: ``highly_variable``, ``means``, ``dispersions``, ``dispersions_norm``; with two
    batches or more also ``highly_variable_nbatches`` and ``highly_variable_intersection``.

    Raises
    ------
    ValueError
        If an argument is out of range, or counts are negative or not finite.
    """
    counts = as_rows(counts, "the matrix")
    check_choice("flavor", flavor, ("seurat_v2", "cell_ranger"))
    n_bins = check_integer("n_bins", n_bins, 2)
    if n_top_genes is not None:
        check_integer("n_top_genes", n_top_genes, 1)

    def chosen(table: pd.DataFrame) -> np.ndarray:
        if n_top_genes is not None:
            return _first(n_top_genes, table["dispersions_norm"])
        mean, dispersion = table["means"], table["dispersions_norm"].fillna(0.0)
        within = mean.between(min_mean, max_mean, "neither") & dispersion.between(min_disp, max_disp, "neither")
        return within.to_numpy()

    tables = []
    groups = _batch_masks(batch, counts.shape[0])
    for cells in groups:
        _, means, variances = _sample_moments(
            counts, cells, lambda rows: gene_sums(_scaled(rows, log=flavor == "cell_ranger"))
        )
        dispersions = variances / np.where(means > 0, means, 1.0)
        expressed = np.ones(counts.shape[1], dtype=bool) if len(groups) == 1 else means > 0
        table = pd.DataFrame(np.nan, np.arange(len(means)), ["means", "dispersions", "dispersions_norm"])
        table.loc[expressed, :] = _normalised_dispersion(means[expressed], dispersions[expressed], flavor, n_bins)
        mask = expressed & chosen(table)
        table.loc[~expressed, :] = 0.0
        table.insert(0, "highly_variable", mask)
        tables.append(table)
    if len(tables) == 1:
        return tables[0]
    table = pd.concat(tables).drop(columns="highly_variable").groupby(level=0).mean()  # leaves NaN out
    votes = np.sum([each["highly_variable"] for each in tables], axis=0)
    mask = chosen(table) if n_top_genes is None else _first(n_top_genes, table["dispersions_norm"], votes)
    table.insert(0, "highly_variable", mask)
    return table.assign(highly_variable_nbatches=votes, highly_variable_intersection=votes == len(tables))


def _first(n: int, dispersion: pd.Series, votes: np.ndarray | int = 0) -> np.ndarray:
    """A mask of the `n` genes of most votes, then highest dispersion, then first position."""
    key = -dispersion.fillna(-np.inf).to_numpy()
    mask = np.zeros(len(key), dtype=bool)
    mask[np.lexsort((key, -np.broadcast_to(votes, key.shape)))[:n]] = True
    return mask


def _scaled(rows: Rows, log: bool) -> Rows:
    """Cells scaled to a total of 10,000; empty cells stay empty. Sparse stays sparse."""
    totals = row_sums(rows)
    scale = _CELL_TOTAL / np.where(totals > 0, totals, 1.0)
    if isinstance(rows, np.ndarray):
        return _scaled_values(rows, scale[:, None], log)
    rows = without_repeats(rows)
    values = _scaled_values(rows.data, np.repeat(scale, np.diff(rows.indptr)), log)
    return type(rows)((values, rows.indices, rows.indptr), shape=rows.shape)


def _scaled_values(values: np.ndarray, scale: np.ndarray, log: bool) -> np.ndarray:
    if values.size and not (np.isfinite(values).all() and values.min() >= 0):
        raise ValueError("the matrix holds negative or non-finite values; pass the raw counts")
    return np.log1p(values * scale) if log else values * scale


def _normalised_dispersion(means: np.ndarray, dispersions: np.ndarray, flavor: str, n_bins: int) -> np.ndarray:
    """(g, 3) means, dispersions and normalised dispersions, as the flavour reports them; NaN where there is none."""
    if not len(means):
        return np.empty((0, 3))
    if flavor == "seurat_v2":
        means = np.log1p(means)
        dispersions = np.log(np.where(dispersions > 0, dispersions, np.nan))
        bins = pd.Series(dispersions).groupby(pd.cut(means, n_bins, labels=False))
        centre, spread = bins.transform("mean"), bins.transform("std")
        alone = spread.isna()
        spread, centre = spread.where(~alone, centre), centre.where(~alone, 0.0)
    else:
        edges = np.percentile(means, np.linspace(10, 100, n_bins - 1))
        values = pd.Series(dispersions)
        place = np.searchsorted(np.unique(edges), means)
        centre = values.groupby(place).transform("median")
        spread = (values - centre).abs().groupby(place).transform("median") / _MAD_OF_A_NORMAL
    spread = spread.where(spread != 0, 1.0)  # a bin of equal dispersions
    return np.stack([means, dispersions, (dispersions - centre) / spread], axis=1)


def _batch_masks(batch: Sequence[Any] | np.ndarray | pd.Series | None, n: int) -> list[np.ndarray | None]:
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


def _sample_moments(
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
