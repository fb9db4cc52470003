"""3,005 cells of the mouse cortex and hippocampus (Zeisel et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.published import published
from scvi.data.published_brain import read_cortex
from scvi.data.variable_genes import population_variance
from scvi.dataset.arrays import array_if_small
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["CortexDataset", "read_cortex"]


class CortexDataset(DownloadableDataset):
    """3,005 cells of the mouse cortex and hippocampus, of 7 classes (Zeisel et al. 2015).

    The finer classes of the authors are the attribute precise_labels. Empty cells stay.

    Parameters
    ----------
    save_path
        Folder of the file.
    genes_to_keep
        Names of genes to be kept in any case, first and in this order.
    total_genes
        How many genes to keep: those, and the ones of largest standard deviation. None keeps those only, or all genes
        where none are named.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        save_path: str = "data/",
        genes_to_keep: Sequence[str] | None = None,
        total_genes: int | None = 558,
        delayed_populating: bool = False,
    ) -> None:
        self.genes_to_keep = genes_to_keep
        self.total_genes = total_genes
        super().__init__(*published("cortex"), save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the table and chooses genes.

        Raises
        ------
        KeyError
            If a gene to keep is unknown.
        """
        adata = read_cortex(self._paths[0])
        adata = adata[:, self._chosen(adata)]
        types, labels = np.unique(adata.obs["level1class"].to_numpy().astype(str), return_inverse=True)
        self.populate_from_data(
            array_if_small(sp.csr_matrix(adata.X)),
            labels=labels,
            gene_names=adata.var_names.to_numpy().astype(str),
            cell_types=types,
            cell_attributes_dict={"precise_labels": adata.obs["level2class"].to_numpy().astype(str)},
        )

    def _chosen(self, adata: AnnData) -> np.ndarray:
        """Positions of the genes to keep, in their order."""
        first = adata.var_names.get_indexer(list(self.genes_to_keep or []))
        if (first < 0).any():
            unknown = [name for name, place in zip(self.genes_to_keep or [], first, strict=True) if place < 0]
            raise KeyError(f"{self._paths[0]} has no genes {unknown[:5]}")
        if self.total_genes is None:
            return first if len(first) else np.arange(adata.n_vars)
        if self.total_genes < len(first):
            raise ValueError(f"total_genes={self.total_genes} is less than the {len(first)} genes of genes_to_keep")
        order = np.argsort(-population_variance(adata.X), kind="stable")
        return np.concatenate([first, order[~np.isin(order, first)]])[: self.total_genes].astype(np.int64)
