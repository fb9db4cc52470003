"""Genes of two data sets, matched by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scvi.cells.cell_data import CellData
from scvi.cells.schema import Schema
from scvi.fit.starting_values import moment_estimates
from scvi.models.base import Moments
from scvi.models.jvae import JVAE

__all__ = ["GeneUnion"]


class GeneUnion:
    """The genes of a model of two data sets.

    Attributes
    ----------
    names
        The genes of the first, then those that the second alone has.
    positions
        For each data set the positions of its genes among all.
    n_shared
        How many both have.

    Raises
    ------
    ValueError
        If they have none in common.
    """

    def __init__(self, schemas: Sequence[Schema]) -> None:
        self.names = np.array(list(dict.fromkeys(g for s in schemas for g in s.genes)), dtype=object)
        places = {name: i for i, name in enumerate(self.names)}
        self.positions = [np.array([places[name] for name in schema.genes]) for schema in schemas]
        self.n_shared = sum(schema.n_genes for schema in schemas) - len(self.names)
        if self.n_shared == 0:
            first, second = (schema.genes[0] for schema in schemas)
            raise ValueError(
                "adata_seq and adata_spatial have no gene in common, such as would tie them together; their genes are "
                f"called like {first!r} and {second!r}: are these names of the same kind?"
            )

    def start(
        self, module: JVAE, data_sets: Sequence[CellData], cells: Sequence[np.ndarray], n_batches: Sequence[int]
    ) -> None:
        """Starts the decoder at the mean frequencies of the first data set, and dispersions at moment estimates.

        Genes that the first lacks get their frequency in the second, scaled to that of the genes that both have. Each
        data set has dispersions of its own, and those of the other for genes that it lacks.

        Parameters
        ----------
        cells
            Positions of the cells of each data set that say so.
        n_batches
            How many batches each has.
        """
        frequency, theta = np.full((2, len(self.names)), np.nan), np.full((2, len(self.names)), np.nan)
        for i, places in enumerate(self.positions):
            frequency[i, places], theta[i, places] = moment_estimates(data_sets[i], cells[i])
        shared = np.isfinite(frequency).all(0)
        frequency[1] *= frequency[0, shared].sum() / max(frequency[1, shared].sum(), 1e-8)
        theta = np.where(np.isfinite(theta), theta, theta[::-1])
        by_batch = np.repeat(theta, n_batches, axis=0).T  # (g, n_batch)
        chosen = by_batch if module.dispersion == "gene-batch" else theta[0]
        as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32)  # noqa: E731
        start = np.where(np.isfinite(frequency[0]), frequency[0], frequency[1])
        module.start(Moments(as_tensor(start), as_tensor(np.log(chosen))))
