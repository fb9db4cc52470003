"""Data drawn at random, for tests and demonstrations."""

from __future__ import annotations

import numpy as np

from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import GeneExpressionDataset

__all__ = ["SyntheticDataset"]


class SyntheticDataset(GeneExpressionDataset):
    """Zero-inflated negative binomial counts without structure, with labels and proteins to match.

    Every count is NegativeBinomial(5, 0.3), which has mean 35/3, set to 0 with probability 0.3; proteins are not set to
    0. Labels are uniform. Draws follow numpy's global state, which :func:`scvi.set_seed` sets.

    Parameters
    ----------
    batch_size
        Cells in each batch.
    nb_genes, n_proteins, n_batches, n_labels
        Sizes.
    """

    def __init__(
        self, batch_size: int = 200, nb_genes: int = 100, n_proteins: int = 100, n_batches: int = 2, n_labels: int = 3
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(np.random.randint(2**31))
        n = n_batches * batch_size
        counts = rng.negative_binomial(5, 0.3, (n, nb_genes)) * rng.binomial(1, 0.7, (n, nb_genes))
        proteins = rng.negative_binomial(5, 0.3, (n, n_proteins))
        self.populate_from_data(
            counts,
            Ys=[CellMeasurement("protein_expression", proteins, "protein_names", np.arange(n_proteins))],
            batch_indices=np.repeat(np.arange(n_batches), batch_size),
            labels=rng.integers(0, n_labels, n),
            gene_names=np.arange(nb_genes).astype(str),
            cell_types=[f"undefined_{label}" for label in range(n_labels)],
        )
