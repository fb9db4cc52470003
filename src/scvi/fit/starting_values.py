"""Where the weights of a decoder start: at what the moments of the training cells say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from scvi.cells.cell_data import CellData
from scvi.fit.ranks import ALONE, Ranks
from scvi.models.base import Model, Moments
from scvi.models.jvae import JVAE

_THETA_RANGE = (0.05, 100.0)


def initialise(
    module: Model,
    data: CellData,
    indices: np.ndarray,
    background: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Starts a model at moment estimates of these cells; `background` as in :class:`scvi.models.base.Moments`."""
    frequency, theta, size = moment_estimates(data, indices, ranks)
    device = next(module.parameters()).device
    as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32, device=device)  # noqa: E731
    of_proteins: Any = None if background is None else tuple(map(as_tensor, background))
    module.start(Moments(as_tensor(frequency), as_tensor(np.log(theta)), of_proteins, size))


def initialise_joint(
    module: JVAE,
    data_sets: Sequence[CellData],
    cells: Sequence[np.ndarray],
    n_batches: Sequence[int],
    ranks: Ranks = ALONE,
) -> None:
    """Starts a model of two data sets at the frequencies of the first, and dispersions at moment estimates.

    Genes that the first lacks get their frequency in the second, scaled to that of the genes that both have. Each data
    set has dispersions of its own, and those of the other for genes that it lacks.

    Parameters
    ----------
    cells
        Positions of the cells of each data set that say so.
    n_batches
        How many batches each has.
    """
    frequency, theta = np.full((2, module.total_genes), np.nan), np.full((2, module.total_genes), np.nan)
    for i, places in enumerate(module.indices_mappings):
        frequency[i, places], theta[i, places], _ = moment_estimates(data_sets[i], cells[i], ranks)
    shared = np.isfinite(frequency).all(0)
    frequency[1] *= frequency[0, shared].sum() / max(frequency[1, shared].sum(), 1e-8)
    theta = np.where(np.isfinite(theta), theta, theta[::-1])
    by_batch = np.repeat(theta, n_batches, axis=0).T  # (g, n_batch)
    chosen = by_batch if module.dispersion == "gene-batch" else theta[0]
    as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32)  # noqa: E731
    start = np.where(np.isfinite(frequency[0]), frequency[0], frequency[1])
    module.start(Moments(as_tensor(start), as_tensor(np.log(chosen))))


def moment_estimates(data: CellData, indices: np.ndarray, ranks: Ranks = ALONE) -> tuple[np.ndarray, np.ndarray, float]:
    """(g,) frequencies of the genes, (g,) their inverse dispersion, and the mean total count of a cell.

    With library sizes l_n and frequencies f_g, ``var x = E[l] f + var(l) f**2 + E[l**2] f**2 / theta``.
    """
    mean, variance, totals = _moments(data, indices, ranks)
    frequency = mean / max(mean.sum(), 1.0)
    spread = variance - mean - totals.variance * frequency**2
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(spread > 0, totals.mean_square * frequency**2 / spread, np.inf)
    return frequency, np.clip(np.nan_to_num(theta, nan=1.0), *_THETA_RANGE), totals.mean


class _Totals(NamedTuple):
    """Of the total counts of cells."""

    mean: float
    mean_square: float
    variance: float


def _moments(data: CellData, indices: np.ndarray, ranks: Ranks) -> tuple[np.ndarray, np.ndarray, _Totals]:
    """(g,) means and variances of the counts of genes, and what is asked of totals; each process reads some cells."""
    own, _ = ranks.portion.of(np.sort(indices) if ranks.are_several else indices)
    mean, variance, totals = data.moments(own)
    if not ranks.are_several:
        return mean, variance, _Totals(float(totals.mean()), float((totals**2).mean()), float(totals.var()))
    n, n_genes = len(own), len(mean)
    sums = np.concatenate([n * mean, n * (variance + mean**2), [totals.sum(), (totals**2).sum()]]) if n else None
    flat = torch.zeros(2 * n_genes + 2, dtype=torch.float64) if sums is None else torch.from_numpy(sums)
    means = ranks.sum_on_cpu(flat).numpy() / len(indices)
    mean, square, (total, total_square) = np.split(means, [n_genes, 2 * n_genes])
    return mean, square - mean**2, _Totals(float(total), float(total_square), float(total_square - total**2))
