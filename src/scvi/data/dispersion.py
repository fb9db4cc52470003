"""Genes whose dispersion is high among genes of like mean (Satija et al. 2015; Zheng et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from scvi._checks import check_integer
from scvi.cells.storage import Counts, Rows, as_rows, gene_sums, row_sums, without_repeats
from scvi.data.genes import batch_masks, sample_moments

__all__ = ["dispersion_genes"]

_CELL_TOTAL = 1e4
_MAD_OF_A_NORMAL = 0.6744897501960817  # median absolute deviation over standard deviation


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
    if flavor not in ("seurat_v2", "cell_ranger"):
        raise ValueError(f"flavor={flavor!r} is not one of 'seurat_v2', 'cell_ranger'")
    n_bins = check_integer("n_bins", n_bins, 2)
    if n_top_genes is not None:
        check_integer("n_top_genes", n_top_genes, 1)

    def chosen(table: pd.DataFrame) -> np.ndarray:
        if n_top_genes is not None:
            return _first(n_top_genes, table["dispersions_norm"])
        mean, dispersion = table["means"], table["dispersions_norm"].fillna(0.0)
        within = (mean > min_mean) & (mean < max_mean) & (dispersion > min_disp) & (dispersion < max_disp)
        return within.to_numpy()

    tables = []
    groups = batch_masks(batch, counts.shape[0])
    for cells in groups:
        means, dispersions = _moments(counts, flavor, cells)
        expressed = np.ones(counts.shape[1], dtype=bool) if len(groups) == 1 else means > 0
        table = pd.DataFrame(np.nan, np.arange(len(means)), ["means", "dispersions", "dispersions_norm"])
        table.loc[expressed, :] = _normalised(means[expressed], dispersions[expressed], flavor, n_bins)
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


def _moments(counts: Counts, flavor: str, cells: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(g,) means of scaled counts (of their logs for "cell_ranger") and variances over means, float64."""
    _, mean, variance = sample_moments(counts, cells, lambda rows: gene_sums(_scaled(rows, flavor == "cell_ranger")))
    return mean, variance / np.where(mean > 0, mean, 1.0)


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


def _normalised(means: np.ndarray, dispersions: np.ndarray, flavor: str, n_bins: int) -> np.ndarray:
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
